#!/usr/bin/env python3
"""berth-vhost as vhost-user front ends see it, good ones and bad ones. TAP on standard output.

    vhost.py BERTH-VHOST
"""
import mmap
import os
import random
import select
import socket
import struct
import subprocess
import sys
import tempfile
import traceback

PROGRAM = os.path.abspath(sys.argv[1])
RAM = 1 << 20
USER = 0x7f0000000000
GUEST = 0x100000  # where the memory is in the guest
ENTRIES = 8
FEATURES = 1 << 32 | 1 << 30 | 1 << 15 | 1 << 1 | 1 << 0
(GET_FEATURES, SET_FEATURES, SET_MEM_TABLE, SET_VRING_NUM, SET_VRING_ADDR, SET_VRING_BASE, GET_VRING_BASE,
 SET_VRING_KICK, SET_VRING_CALL, GET_QUEUE_NUM, SET_VRING_ENABLE) = 1, 2, 5, 8, 9, 10, 11, 12, 13, 17, 18
NEED_REPLY = 8
WAIT = 60  # for what must come, however busy the host is


class Adapter:
    def __init__(self):
        self.dir = tempfile.TemporaryDirectory()
        self.path = os.path.join(self.dir.name, "s")
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(self.path)
        listener.listen(4)
        self.net, port = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        port.setblocking(False)
        for s in (listener, port):
            s.set_inheritable(True)
        self.process = subprocess.Popen([PROGRAM, "--port", str(port.fileno()), "--listen", str(listener.fileno())],
                                        pass_fds=(port.fileno(), listener.fileno()), stderr=subprocess.PIPE)
        listener.close()
        port.close()
        self.net.settimeout(WAIT)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.net.close()
        self.process.kill()
        self.process.wait()
        self.process.stderr.close()
        self.dir.cleanup()

    def alive(self):
        return self.process.poll() is None


class FrontEnd:
    def __init__(self, adapter, pairs=1):
        self.rings = 2 * pairs
        self.s = socket.socket(socket.AF_UNIX)
        self.s.connect(adapter.path)
        self.s.settimeout(WAIT)
        self.file = os.memfd_create("ram")
        os.ftruncate(self.file, RAM)
        self.ram = mmap.mmap(self.file, RAM)
        self.kick = [os.eventfd(0) for _ in range(self.rings)]
        self.call = [os.eventfd(0) for _ in range(self.rings)]
        self.given = [0] * self.rings
        self.taken = [0] * self.rings

    def close(self):
        self.s.close()
        self.ram.close()
        for fd in (self.file, *self.kick, *self.call):
            os.close(fd)

    def say(self, request, payload=b"", fds=(), flags=1):
        socket.send_fds(self.s, [struct.pack("<III", request, flags, len(payload)) + payload], fds)

    def ask(self, request, payload=b"", fds=(), flags=1):
        self.say(request, payload, fds, flags)
        got = self.s.recv(12, socket.MSG_WAITALL)
        assert len(got) == 12, "the adapter hung up"
        answer, flags, size = struct.unpack("<III", got)
        assert answer == request and flags & 7 == 5
        return struct.unpack("<Q", self.s.recv(size, socket.MSG_WAITALL))[0] if size else None

    def hung_up(self):
        try:
            return self.s.recv(1) == b""
        except ConnectionResetError:
            return True

    def table(self, **change):
        r = {"guest": GUEST, "size": RAM, "user": USER, "offset": 0, **change}
        return struct.pack("<II4Q", 1, 0, r["guest"], r["size"], r["user"], r["offset"])

    def address(self, i, at=None):
        base = 0x10000 * i if at is None else at
        return struct.pack("<II4Q", i, 0, USER + base + 0x1000, USER + base + 0x3000, USER + base + 0x2000, 0)

    def start(self):
        offered = self.ask(GET_FEATURES)
        assert offered & FEATURES == FEATURES
        self.say(SET_FEATURES, struct.pack("<Q", FEATURES))
        assert self.ask(SET_MEM_TABLE, self.table(), [self.file], 1 | NEED_REPLY) == 0
        for i in range(self.rings):
            self.say(SET_VRING_NUM, struct.pack("<II", i, ENTRIES))
            self.say(SET_VRING_BASE, struct.pack("<II", i, 0))
            self.say(SET_VRING_ADDR, self.address(i))
            self.say(SET_VRING_CALL, struct.pack("<Q", i), [self.call[i]])
            self.say(SET_VRING_KICK, struct.pack("<Q", i), [self.kick[i]])
            self.say(SET_VRING_ENABLE, struct.pack("<II", i, 1))
        self.ask(GET_FEATURES)
        return self

    def put(self, ring, slot, at, size, write, address=None, kick=True):
        base = 0x10000 * ring
        struct.pack_into("<QIHH", self.ram, base + 0x1000 + 16 * slot, GUEST + at if address is None else address, size,
                         2 if write else 0, 0)
        struct.pack_into("<H", self.ram, base + 0x2004 + 2 * (self.given[ring] % ENTRIES), slot)
        self.given[ring] = self.given[ring] + 1 & 0xffff
        struct.pack_into("<H", self.ram, base + 0x2002, self.given[ring])
        if kick:
            os.eventfd_write(self.kick[ring], 1)

    def used(self, ring, timeout=WAIT):
        """Bytes written into the next buffer that comes back; None: none does."""
        base = 0x10000 * ring + 0x3000
        while struct.unpack_from("<H", self.ram, base + 2)[0] == self.taken[ring]:
            if not select.select([self.call[ring]], [], [], timeout)[0]:
                return None
            os.eventfd_read(self.call[ring])
        size = struct.unpack_from("<II", self.ram, base + 4 + 8 * (self.taken[ring] % ENTRIES))[1]
        self.taken[ring] = self.taken[ring] + 1 & 0xffff
        return size


def frame(text):
    return bytes(12) + b"\xff" * 6 + b"\x52\x54\0\0\0\1\x88\xb5" + text


def works(adapter):
    """A good front end gets packets through, both ways."""
    f = FrontEnd(adapter).start()
    packet = frame(b"from the guest" * 5)
    f.ram[0x40000:0x40000 + len(packet)] = packet
    f.put(1, 0, 0x40000, len(packet), False)
    assert adapter.net.recv(70000)[12:] == packet[12:]
    assert f.used(1) == 0
    packet = frame(b"to the guest" * 20)
    f.put(0, 0, 0x50000, 100, True)
    f.put(0, 1, 0x60000, 2000, True)
    adapter.net.send(packet)
    first, second = f.used(0), f.used(0)
    assert (first, second) == (100, len(packet) - 100)
    got = f.ram[0x50000:0x50064] + f.ram[0x60000:0x60000 + second]
    assert got[12:] == packet[12:] and got[10] == 2  # merged from two buffers
    assert f.ask(GET_VRING_BASE, struct.pack("<II", 1, 0)) >> 32 == 1
    f.close()


# --- tests

def packets_pass_both_ways_and_front_ends_may_come_again():
    with Adapter() as a:
        for _ in range(3):
            works(a)


def connections_are_spread_over_pairs_of_rings():
    with Adapter() as a:
        f = FrontEnd(a, 2).start()
        assert f.ask(GET_QUEUE_NUM) == 4
        for ring in (1, 3):
            packet = frame(b"ring %d" % ring)
            f.ram[0x50000:0x50000 + len(packet)] = packet
            f.put(ring, 0, 0x50000, len(packet), False)
            assert a.net.recv(70000)[12:] == packet[12:]
            assert f.used(ring) == 0
        for ring in (0, 2):
            for slot in range(ENTRIES):
                f.put(ring, slot, 0x60000 + 0x800 * (ring * ENTRIES + slot), 2000, True)
        for port in range(ENTRIES):
            packet = bytes(12) + b"\xff" * 6 + b"\x52\x54\0\0\0\1\x08\0\x45" + bytes(22) + bytes([port]) + bytes(20)
            a.net.send(packet)
        got = [0, 0]
        while sum(got) < ENTRIES:
            assert (ready := select.select([f.call[0], f.call[2]], [], [], WAIT)[0]), got
            for ring in (0, 2):
                if f.call[ring] in ready:
                    os.eventfd_read(f.call[ring])
                got[ring // 2] = struct.unpack_from("<H", f.ram, 0x10000 * ring + 0x3002)[0]
        assert min(got) > 0, got
        f.close()


def a_packet_waits_for_buffers():
    with Adapter() as a:
        f = FrontEnd(a).start()
        a.net.send(frame(b"x" * 60))
        assert f.used(0, 0.2) is None
        f.put(0, 3, 0x50000, 2000, True)
        assert f.used(0) == 12 + 14 + 60
        f.close()


def a_flood_is_held_back_and_none_of_it_lost():
    with Adapter() as a:
        f = FrontEnd(a).start()
        packet = frame(b"y" * 60000)
        f.ram[0x40000:0x40000 + len(packet)] = packet
        for slot in range(ENTRIES):
            f.put(1, slot, 0x40000, len(packet), False, kick=slot == ENTRIES - 1)
        for _ in range(ENTRIES):
            assert len(a.net.recv(70000)) == len(packet)
        for _ in range(ENTRIES):
            assert f.used(1) == 0
        f.close()


def a_client_that_breaks_the_protocol_is_dropped():
    bad = [
        (SET_FEATURES, struct.pack("<Q", 1 << 34), 0),             # was not offered
        (SET_MEM_TABLE, struct.pack("<II", 9, 0), 0),
        (SET_MEM_TABLE, struct.pack("<II4Q", 1, 0, 0, RAM, 0, 0), 0),  # no descriptor
        (SET_MEM_TABLE, struct.pack("<II4Q", 1, 0, GUEST, RAM, USER, 4096), 1),  # behind the file's end
        (SET_MEM_TABLE, struct.pack("<II4Q", 1, 0, GUEST, 1 << 63, USER, 1 << 63), 1),
        (SET_MEM_TABLE, struct.pack("<II4Q", 1, 0, GUEST, 0, USER, 0), 1),
        (SET_VRING_NUM, struct.pack("<II", 8, 8), 0),  # of a fifth pair
        (SET_VRING_NUM, struct.pack("<II", 0, 65536), 0),
        (SET_VRING_NUM, struct.pack("<I", 0), 0),
        (SET_VRING_ADDR, struct.pack("<II", 0, 0), 0),
        (SET_VRING_KICK, struct.pack("<Q", 0), 1),                 # nothing is set up
        (SET_VRING_KICK, struct.pack("<Q", 0x100), 0),             # wants to be polled
        (99, b"", 0),
    ]
    with Adapter() as a:
        for request, payload, fds in bad:
            f = FrontEnd(a)
            f.say(request, payload, [f.file] * fds)
            assert f.hung_up(), (request, payload)
            f.close()
        for header in (struct.pack("<III", 1, 0, 0), struct.pack("<III", 1, 1, 5000), b"\1"):
            f = FrontEnd(a)
            f.s.send(header)
            f.s.shutdown(socket.SHUT_WR)
            assert f.hung_up()
            f.close()
        works(a)


def rings_that_break_the_rules_are_stopped():
    with Adapter() as a:
        for address, size in ((0, 100), (GUEST + RAM - 10, 100), ((1 << 64) - 4, 100), (GUEST, 0xffffffff)):
            f = FrontEnd(a).start()
            f.put(1, 0, 0, size, False, address)
            assert f.used(1, 0.2) is None
            f.close()
        f = FrontEnd(a).start()
        f.put(1, 0, 0x40000, 5, False)  # no packet: given back, not sent
        assert f.used(1) == 0
        f.close()
        assert not select.select([a.net], [], [], 0.1)[0]
        works(a)


def random_front_ends_do_no_harm():
    r = random.Random(7)
    with Adapter() as a:
        for _ in range(300):
            assert a.alive(), (a.process.returncode, a.process.stderr.read()[-300:])
            f = FrontEnd(a)
            try:
                if r.random() < 0.5:
                    f.start()
                for _ in range(r.randrange(1, 12)):
                    for _ in range(r.randrange(20)):
                        at = r.choice((0x1000, 0x2000, 0x3000, 0x11000, 0x12000, 0x13000)) + r.randrange(256)
                        f.ram[at] = r.randrange(256)
                    if r.random() < 0.5:
                        os.eventfd_write(r.choice(f.kick), 1)
                    request = r.choice((1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, r.randrange(64)))
                    payload = r.choice((f.table(), f.address(r.randrange(3), r.randrange(RAM)), r.randbytes(r.randrange(64)),
                                        struct.pack("<II", r.randrange(3), r.randrange(300)),
                                        struct.pack("<Q", r.randrange(3))))
                    fds = [r.choice((f.file, *f.kick, *f.call)) for _ in range(r.randrange(3))]
                    f.say(request, payload, fds, r.choice((1, 1, 9, r.randrange(16))))
            except (BrokenPipeError, ConnectionResetError, AssertionError):
                pass
            f.close()
        a.net.setblocking(False)
        try:
            while a.net.recv(70000):
                pass
        except BlockingIOError:
            a.net.settimeout(WAIT)
        works(a)


def it_ends_with_its_network():
    with Adapter() as a:
        f = FrontEnd(a).start()
        a.net.close()
        assert a.process.wait(timeout=WAIT) == 0
        f.close()


TESTS = [packets_pass_both_ways_and_front_ends_may_come_again, connections_are_spread_over_pairs_of_rings, a_packet_waits_for_buffers,
         a_flood_is_held_back_and_none_of_it_lost, a_client_that_breaks_the_protocol_is_dropped,
         rings_that_break_the_rules_are_stopped, random_front_ends_do_no_harm, it_ends_with_its_network]


def main():
    print(f"1..{len(TESTS)}")
    failed = 0
    for n, test in enumerate(TESTS, 1):
        try:
            test()
            print(f"ok {n} - {test.__name__}", flush=True)
        except Exception:
            failed += 1
            print("# " + traceback.format_exc().replace("\n", "\n# "))
            print(f"not ok {n} - {test.__name__}", flush=True)
    return failed != 0


if __name__ == "__main__":
    sys.exit(main())
