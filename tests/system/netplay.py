"""A berth-switch, and hosts played on its ports: enough of Ethernet, ARP, IPv4, IPv6, DHCP, DNS, UDP and TCP
to see what the switch does with them. For the tests of networks.
"""
import ipaddress
import json
import os
import select
import socket
import struct
import subprocess
import tempfile
import time

WAIT = 60  # for what must come, however busy the host is
BROADCAST = "ff:ff:ff:ff:ff:ff"
SYN, ACK, FIN, RST, PSH = 2, 16, 1, 4, 8


class Refused(Exception):
    pass


def mac_bytes(mac):
    return bytes(int(part, 16) for part in mac.split(":"))


def mac_text(raw):
    return ":".join(f"{byte:02x}" for byte in raw)


def ip_bytes(address):
    return ipaddress.ip_address(address).packed


def checksum(data):
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff


# --- frames

def ether(to, source, kind, payload, vlan=0):
    tag = struct.pack("!HH", 0x8100, vlan) if vlan else b""
    return mac_bytes(to) + mac_bytes(source) + tag + struct.pack("!H", kind) + payload


def arp(operation, mac, address, target_mac, target):
    return struct.pack("!HHBBH", 1, 0x800, 6, 4, operation) + mac_bytes(mac) + ip_bytes(address) + \
        mac_bytes(target_mac) + ip_bytes(target)


def ipv4(source, to, protocol, payload, identity=1, fragment=0):
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), identity, fragment, 64, protocol, 0) + \
        ip_bytes(source) + ip_bytes(to)
    return header[:10] + struct.pack("!H", checksum(header)) + header[12:] + payload


def ipv6(source, to, protocol, payload, hops=255):
    return struct.pack("!IHBB", 6 << 28, len(payload), protocol, hops) + ip_bytes(source) + ip_bytes(to) + payload


def pseudo(source, to, protocol, size):
    layout, values = ("!HH", (protocol, size)) if len(ip_bytes(to)) == 4 else ("!II", (size, protocol))
    return ip_bytes(source) + ip_bytes(to) + struct.pack(layout, *values)


def udp(source, to, source_port, to_port, payload):
    size = 8 + len(payload)
    header = struct.pack("!HHHH", source_port, to_port, size, 0)
    total = checksum(pseudo(source, to, 17, size) + header + payload)
    return header[:6] + struct.pack("!H", total or 0xffff) + payload


def tcp(source, to, source_port, to_port, seq, ack, flags, payload=b"", window=65535):
    header = struct.pack("!HHIIBBHHH", source_port, to_port, seq & 0xffffffff, ack & 0xffffffff, 5 << 4, flags,
                         window, 0, 0)
    total = checksum(pseudo(source, to, 6, 20 + len(payload)) + header + payload)
    return header[:16] + struct.pack("!H", total) + header[18:] + payload


def icmp6(source, to, kind, body):
    message = struct.pack("!BBH", kind, 0, 0) + body
    total = checksum(pseudo(source, to, 58, len(message)) + message)
    return message[:2] + struct.pack("!H", total) + message[4:]


class Frame:
    """What a received packet says."""

    def __init__(self, packet):
        self.header, frame = packet[:12], packet[12:]
        self.raw = frame
        self.to, self.source = mac_text(frame[:6]), mac_text(frame[6:12])
        self.kind = struct.unpack("!H", frame[12:14])[0]
        self.vlan, at = 0, 14
        if self.kind == 0x8100:
            self.vlan, self.kind = struct.unpack("!HH", frame[14:18])
            at = 18
        self.payload = frame[at:]
        self.protocol = None
        if self.kind == 0x800:
            size = struct.unpack("!H", self.payload[2:4])[0]
            self.protocol = self.payload[9]
            self.ip_from = str(ipaddress.ip_address(self.payload[12:16]))
            self.ip_to = str(ipaddress.ip_address(self.payload[16:20]))
            self.body = self.payload[20:size]
            assert checksum(self.payload[:20]) == 0, "wrong IPv4 checksum"
        elif self.kind == 0x86dd:
            size = struct.unpack("!H", self.payload[4:6])[0]
            self.protocol = self.payload[6]
            self.ip_from = str(ipaddress.ip_address(self.payload[8:24]))
            self.ip_to = str(ipaddress.ip_address(self.payload[24:40]))
            self.body = self.payload[40:40 + size]
        if self.protocol in (6, 17):
            self.port_from, self.port_to = struct.unpack("!HH", self.body[:4])
        if self.protocol == 17:
            self.data = self.body[8:]
        if self.protocol == 6:
            self.seq, self.ack, offset, self.flags = struct.unpack("!IIBB", self.body[4:14])
            self.data = self.body[(offset >> 4) * 4:]

    def right_sum(self):
        if self.header[0] & 1:  # left to the receiver
            return True
        return checksum(pseudo(self.ip_from, self.ip_to, self.protocol, len(self.body)) + self.body) == 0


# --- the switch

class Switch:
    """A running berth-switch with its control socket in a directory of its own. rings: the program
    that plays a front end; ports then have rings."""
    rings = None

    def __init__(self, program, **definition):
        self.program = program
        self.definition = {"berth_network": 1, "name": "test", "subnet": "10.99.1.0/24", **definition}
        self.folder = tempfile.TemporaryDirectory(prefix="berth-net-")
        self.path = os.path.join(self.folder.name, "control.sock")
        self.process = None
        self.start()

    def start(self):
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        if os.path.exists(self.path):
            os.unlink(self.path)
        listener.bind(self.path)
        listener.listen(16)
        memory = os.memfd_create("definition")
        os.write(memory, json.dumps(self.definition).encode())
        os.lseek(memory, 0, os.SEEK_SET)
        self.process = subprocess.Popen(
            [self.program, "--definition", str(memory), "--control", str(listener.fileno())],
            pass_fds=[memory, listener.fileno()], stdin=subprocess.DEVNULL)
        os.close(memory)
        listener.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            status = self.process.wait(WAIT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        finally:
            self.folder.cleanup()
        assert status == 0, f"berth-switch ended with {status}"

    def ask(self, request, **arguments):
        """The result, and a descriptor or None."""
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(WAIT)
            s.connect(self.path)
            s.sendall(json.dumps({"request": request, **arguments}).encode() + b"\n")
            answer, descriptors = b"", []
            while not answer.endswith(b"\n"):
                data, more, _, _ = socket.recv_fds(s, 65536, 1)
                assert data, "the switch hung up"
                answer += data
                descriptors += more
        answer = json.loads(answer)
        if "error" in answer:
            raise Refused(str(answer["error"]))
        return answer["ok"], descriptors[0] if descriptors else None

    def plug(self, vm, **arguments):
        if self.rings:
            arguments["rings"] = True
        result, fd = self.ask("plug", vm=vm, **arguments)
        port, helper = self.play_rings(fd) if self.rings else (socket.socket(fileno=fd), None)
        return Host(self, vm, result, port, arguments.get("nic", 0), helper)

    def play_rings(self, fd):
        """A socket of packets, instead of a vhost-user front end's."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        helper = subprocess.Popen([self.rings, str(fd), str(theirs.fileno())], pass_fds=[fd, theirs.fileno()])
        os.close(fd)
        theirs.close()
        return ours, helper

    def port(self, vm, nic=0):
        return next(p for p in self.ask("info")[0]["ports"] if p["vm"] == vm and p["nic"] == nic)

    def dropped(self, vm, why):
        return self.port(vm)["counters"]["dropped"].get(why, 0)


class Host:
    """A host at a port."""

    def __init__(self, switch, vm, result, port, nic=0, helper=None):
        self.switch, self.vm, self.port, self.nic, self.helper = switch, vm, port, nic, helper
        self.mac, self.address = result["mac"], result["address"]
        self.address6 = result.get("address6")
        self.info = switch.ask("info")[0]
        self.gateway = self.info.get("gateway")
        self.dns = self.info["dns"]
        self.gateway_mac = "52:55:" + mac_text(ip_bytes(self.dns)[:3] + bytes([ip_bytes(self.dns)[3] - 1]))
        self.next_port = 40000

    def close(self):
        self.port.close()
        if self.helper:
            self.helper.wait(WAIT)

    # frames

    def packet(self, header, frame):
        return self.port.send(header + frame)

    def send(self, frame):
        self.packet(bytes(12), frame)

    def receive(self, wanted=lambda frame: True, wait=WAIT):
        """The next frame of that kind; None when none comes in time."""
        end = time.monotonic() + wait
        while True:
            left = end - time.monotonic()
            if left <= 0 or not select.select([self.port], [], [], left)[0]:
                return None
            frame = Frame(self.port.recv(70000))
            self.answer(frame)
            if wanted(frame):
                return frame

    def answer(self, frame):
        """A host answers those who ask for its MAC."""
        if frame.kind == 0x806 and frame.payload[6:8] == b"\0\1" and frame.payload[24:28] == ip_bytes(self.address):
            asker, address = mac_text(frame.payload[8:14]), ipaddress.ip_address(frame.payload[14:18])
            self.send(ether(asker, self.mac, 0x806, arp(2, self.mac, self.address, asker, str(address))))

    def drain(self):
        if self.helper:
            time.sleep(0.1)  # what is on its way arrives
        while select.select([self.port], [], [], 0)[0]:
            self.port.recv(70000)

    def hung_up(self):
        """Whether the switch has closed its end, which shows behind what it sent before."""
        while select.select([self.port], [], [], WAIT)[0]:
            if not self.port.recv(70000):
                return True
        return False

    # protocols

    def resolve(self, address, wait=WAIT):
        self.send(ether(BROADCAST, self.mac, 0x806, arp(1, self.mac, self.address, "00:00:00:00:00:00", address)))
        reply = self.receive(lambda f: f.kind == 0x806 and f.payload[6:8] == b"\0\2" and
                             f.payload[14:18] == ip_bytes(address), wait)
        return reply and mac_text(reply.payload[8:14])

    def to_mac(self, address):
        inside = ipaddress.ip_address(address) in ipaddress.ip_network(self.info["subnet"])
        return self.resolve(address) if inside and address not in (self.gateway, self.dns) else self.gateway_mac

    def send_ip(self, to, protocol, body, mac=None, source=None):
        self.send(ether(mac or self.to_mac(to), self.mac, 0x800, ipv4(source or self.address, to, protocol, body)))

    def send_udp(self, to, to_port, data, port=None, mac=None):
        port = port or self.new_port()
        self.send_ip(to, 17, udp(self.address, to, port, to_port, data), mac)
        return port

    def new_port(self):
        self.next_port += 1
        return self.next_port

    def exchange_udp(self, to, to_port, data, wait=WAIT):
        port = self.send_udp(to, to_port, data)
        reply = self.receive(lambda f: f.protocol == 17 and f.port_to == port and f.port_from == to_port, wait)
        return reply and reply.data

    def dhcp(self, kind, options=b"", mac=None, address="0.0.0.0", wait=WAIT):
        """Type and options of the answer, or None."""
        message = struct.pack("!BBBBIHH", 1, 1, 6, 0, 0x1234, 0, 0) + ip_bytes(address) + bytes(12) + \
            mac_bytes(mac or self.mac) + bytes(10 + 192) + b"\x63\x82\x53\x63" + bytes([53, 1, kind]) + options + b"\xff"
        self.send(ether(BROADCAST, self.mac, 0x800, ipv4(address, "255.255.255.255", 17,
                                                         udp(address, "255.255.255.255", 68, 67, message))))
        reply = self.receive(lambda f: f.protocol == 17 and f.port_to == 68, wait)
        if not reply:
            return None
        assert reply.right_sum(), "wrong UDP checksum"
        found, at = {}, 240
        while reply.data[at] != 255:
            found[reply.data[at]] = reply.data[at + 2:at + 2 + reply.data[at + 1]]
            at += 2 + reply.data[at + 1]
        return found[53][0], found, str(ipaddress.ip_address(reply.data[16:20]))

    @property
    def dns6(self):
        return str(ipaddress.ip_address(ip_bytes(self.address6)[:8] + bytes(7) + b"\2"))

    def exchange_udp6(self, to, to_port, data, wait=WAIT):
        port = self.new_port()
        self.send(ether(self.gateway_mac, self.mac, 0x86dd,
                        ipv6(self.address6, to, 17, udp(self.address6, to, port, to_port, data))))
        reply = self.receive(lambda f: f.protocol == 17 and f.port_to == port and f.ip_from == to, wait)
        assert reply is None or reply.right_sum(), "wrong UDP checksum"
        return reply and reply.data

    def ask_dns(self, name, kind=1, wait=WAIT, over6=False):
        """Status and answers: addresses, or names."""
        query = struct.pack("!HHHHHH", 77, 0x100, 1, 0, 0, 0) + dns_name(name) + struct.pack("!HH", kind, 1)
        reply = self.exchange_udp6(self.dns6, 53, query, wait) if over6 else \
            self.exchange_udp(self.dns, 53, query, wait)
        if reply is None:
            return None
        flags, _, answers = struct.unpack("!HHH", reply[2:8])
        at, found = 12 + len(dns_name(name)) + 4, []
        for _ in range(answers):
            while reply[at] and reply[at] < 0xc0:
                at += 1 + reply[at]
            at += 2 if reply[at] >= 0xc0 else 1
            record, size = struct.unpack("!H", reply[at:at + 2])[0], struct.unpack("!H", reply[at + 8:at + 10])[0]
            data = reply[at + 10:at + 10 + size]
            at += 10 + size
            if record in (1, 28):
                found.append(str(ipaddress.ip_address(data)))
            elif record == 12:
                found.append(read_name(data))
        return flags & 15, found


def dns_name(name):
    return b"".join(bytes([len(part)]) + part.encode() for part in name.split(".") if part) + b"\0"


def read_name(data):
    parts, at = [], 0
    while data[at]:
        parts.append(data[at + 1:at + 1 + data[at]].decode())
        at += 1 + data[at]
    return ".".join(parts)


class Tcp:
    """One connection of a played host, to somebody (connect) or from somebody (accept)."""

    def __init__(self, host, peer, peer_port, port):
        self.host, self.peer, self.peer_port, self.port = host, peer, peer_port, port
        self.seq, self.ack, self.data, self.ended = 1000, 0, b"", False

    def mine(self, frame):
        return frame.protocol == 6 and frame.port_to == self.port and frame.port_from == self.peer_port and \
            frame.ip_from == self.peer

    def put(self, flags, data=b""):
        v6 = ":" in self.peer
        own = self.host.address6 if v6 else self.host.address
        body = tcp(own, self.peer, self.port, self.peer_port, self.seq, self.ack, flags, data)
        self.host.send(ether(self.host.gateway_mac, self.host.mac, 0x86dd if v6 else 0x800,
                             (ipv6 if v6 else ipv4)(own, self.peer, 6, body)))
        self.seq += len(data) + (1 if flags & (SYN | FIN) else 0)

    @classmethod
    def connect(cls, host, peer, peer_port, wait=WAIT):
        """The connection; None when nobody answers, or it is refused."""
        c = cls(host, peer, peer_port, host.new_port())
        c.put(SYN)
        reply = host.receive(c.mine, wait)
        if not reply or reply.flags & RST:
            return None
        assert reply.flags & (SYN | ACK) == SYN | ACK and reply.right_sum()
        c.ack = reply.seq + 1
        c.put(ACK)
        return c

    @classmethod
    def accept(cls, host, port, wait=WAIT):
        first = host.receive(lambda f: f.protocol == 6 and f.port_to == port and f.flags & (SYN | ACK) == SYN, wait)
        if not first:
            return None
        c = cls(host, first.ip_from, first.port_from, port)
        c.ack = first.seq + 1
        c.put(SYN | ACK)
        return c

    def take(self, wait=WAIT):
        """Takes one segment in; False when none comes."""
        frame = self.host.receive(self.mine, wait)
        if not frame:
            return False
        assert frame.right_sum(), "wrong TCP checksum"
        if frame.seq == self.ack & 0xffffffff and not frame.flags & SYN:
            self.data += frame.data
            self.ack += len(frame.data) + (1 if frame.flags & FIN else 0)
            self.ended |= bool(frame.flags & (FIN | RST))
            if frame.data or frame.flags & FIN:
                self.put(ACK)
        return True

    def expect(self, data):
        while data not in self.data:
            assert self.take(), f"no {data!r} in {self.data!r}"

