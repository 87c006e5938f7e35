#!/usr/bin/env python3
"""What berth-switch does for hosts on its ports, and to them. Prints TAP.

    network.py BERTH_SWITCH [CASE...]
"""
import ipaddress
import json
import os
import select
import socket
import struct
import sys
import threading
import time

from netplay import (ACK, BROADCAST, FIN, PSH, RST, SYN, WAIT, Frame, Host, Refused, Switch, Tcp, arp, ether, icmp6,
                     ip_bytes, ipv4, ipv6, mac_bytes, mac_text, tcp, udp)

PROGRAM = os.path.abspath(sys.argv[1])
LOOPBACK = "127.0.0.1"


class Skip(Exception):
    pass


def network(**definition):
    return Switch(PROGRAM, **definition)


# --- servers on the host's loopback

def udp_echo():
    """The port of a server that answers "echo " and what it got."""
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.bind((LOOPBACK, 0))

    def serve():
        while True:
            data, peer = s.recvfrom(70000)
            s.sendto(b"echo " + data, peer)
    threading.Thread(target=serve, daemon=True).start()
    return s.getsockname()[1]


def tcp_echo():
    s = socket.create_server((LOOPBACK, 0))

    def talk(c):
        while data := c.recv(70000):
            c.sendall(b"echo " + data)
        c.close()

    def serve():
        while True:
            threading.Thread(target=talk, args=(s.accept()[0],), daemon=True).start()
    threading.Thread(target=serve, daemon=True).start()
    return s.getsockname()[1]


def free_port():
    with socket.socket() as s:
        s.bind((LOOPBACK, 0))
        return s.getsockname()[1]


def refused(word, ask, *args, **kwargs):
    try:
        ask(*args, **kwargs)
    except Refused as why:
        assert word in str(why), why
    else:
        raise AssertionError(f"was not refused: {args} {kwargs}")


def talk(a, b):
    """Whether a frame from a reaches b."""
    b.drain()
    mark = os.urandom(8)
    a.send(ether(b.mac, a.mac, 0x800, ipv4(a.address, b.address, 17, udp(a.address, b.address, 9, 9, mark))))
    return b.receive(lambda f: f.protocol == 17 and f.data == mark, 0.5) is not None


# --- plugging in, addresses

def a_port_has_stable_addresses_that_dhcp_gives():
    with network() as net:
        web = net.plug("web")
        kind, options, address = web.dhcp(1)
        assert kind == 2 and address == web.address
        kind, options, address = web.dhcp(3, bytes([50, 4]) + ip_bytes(web.address))
        assert kind == 5 and address == web.address
        assert options[1] == ip_bytes("255.255.255.0") and options[3] == ip_bytes("10.99.1.1")
        assert options[6] == ip_bytes(web.dns) and options[15] == b"berth" and options[12] == b"web"
        assert options[26] == struct.pack("!H", 1500)
        kind, _, _ = web.dhcp(3, bytes([50, 4]) + ip_bytes("10.99.1.200"))
        assert kind == 6, "somebody else's address was given"
        assert web.dhcp(3, bytes([54, 4]) + ip_bytes("10.99.1.77")) is None
        assert web.dhcp(1, mac="52:54:00:00:00:01") is None
        before = (web.mac, web.address)
        web.close()
        assert (again := net.plug("web")) and (again.mac, again.address) == before
    with network() as net:
        assert (again := net.plug("web")) and (again.mac, again.address) == before


def ports_are_checked_when_they_are_plugged_in():
    with network() as net:
        one = net.plug("one", mac="52:54:00:aa:bb:cc")
        assert one.mac == "52:54:00:aa:bb:cc"
        refused("plugged in already", net.plug, "one")
        refused("'one' has that one", net.plug, "two", mac="52:54:00:aa:bb:cc")
        refused("group's", net.plug, "two", mac="53:54:00:aa:bb:cc")
        refused("none", net.plug, "two", mac="52:54:00:aa:bb-cc")
        refused("no name", net.plug, "../x")
        refused("trunk", net.plug, "two", trunk=True, vlan=3)
        refused("policy", net.plug, "two", policy="permit all")
        refused("forwards", net.plug, "two", forwards="8080:80")
        refused("limit_in", net.plug, "two", limit_in=5)
        two, three = net.plug("two", address=one.address), net.plug("three", address="10.99.1.77")
        assert two.address != one.address and three.address == "10.99.1.77"
        assert [p["vm"] for p in net.ask("info")[0]["ports"]] == ["one", "two", "three"]


def closing_the_socket_unplugs():
    with network() as net:
        net.plug("web").close()
        end = time.monotonic() + WAIT
        while net.ask("info")[0]["ports"]:
            assert time.monotonic() < end
        web = net.plug("web")
        net.ask("unplug", vm="web")
        assert web.hung_up()


def a_switch_that_nobody_uses_ends_itself():
    net = network(idle_seconds=1)
    web = net.plug("web")
    time.sleep(1.5)
    assert net.process.poll() is None
    web.close()
    assert net.process.wait(WAIT) == 0
    net.folder.cleanup()


def after_a_kill_the_same_addresses_come_back():
    with network() as net:
        before = net.plug("web", address="10.99.1.200")
        net.process.kill()
        net.process.wait()
        assert before.hung_up()
        net.start()
        after = net.plug("web", address="10.99.1.200")
        assert (after.mac, after.address) == (before.mac, before.address)
        assert after.ask_dns("web") == (0, [after.address])


# --- names

def names_of_vms_are_answered_both_ways():
    with network() as net:
        web, _, named = net.plug("web"), net.plug("web", nic=1), net.plug("Db.1")
        both = {p["address"] for p in net.ask("info")[0]["ports"] if p["vm"] == "web"}
        status, found = named.ask_dns("web.berth")
        assert status == 0 and set(found) == both and len(both) == 2
        assert web.ask_dns("db.1.berth") == (0, [named.address])
        assert web.ask_dns("WEB.BERTH")[0] == 0
        assert web.ask_dns("gateway") == (0, ["10.99.1.1"])
        assert web.ask_dns("db.1.berth", 28) == (0, [named.address6])
        assert web.ask_dns("nobody.berth") == (3, []) and web.ask_dns("nobody") == (3, [])
        reverse = ipaddress.ip_address(named.address).reverse_pointer
        assert web.ask_dns(reverse, 12) == (0, ["Db.1.berth"])
        assert web.ask_dns(ipaddress.ip_address(named.address6).reverse_pointer, 12) == (0, ["Db.1.berth"])
        assert web.ask_dns("9.1.99.10.in-addr.arpa", 12) == (3, [])


def a_private_network_answers_for_its_own_only():
    with network(kind="private") as net:
        web, db = net.plug("web"), net.plug("db")
        assert web.dhcp(1)[1].get(3) is None
        assert web.ask_dns("db") == (0, [db.address])
        assert web.ask_dns("example.org")[0] == 5
        assert web.resolve("10.99.1.1") is None
        assert talk(web, db)
        refused("private", net.ask, "forward", vm="web", forward="8080:80")


# --- the gateway

def hosts_reach_the_hosts_loopback_through_the_gateway():
    with network() as net:
        web = net.plug("web")
        assert web.resolve(web.gateway) == web.gateway_mac
        assert web.exchange_udp(web.gateway, udp_echo(), b"hi") == b"echo hi"
        c = Tcp.connect(web, web.gateway, tcp_echo())
        c.put(ACK | PSH, b"hello")
        c.expect(b"echo hello")
        c.put(ACK | FIN)
        while not c.ended:
            assert c.take()
        assert Tcp.connect(web, web.gateway, free_port()) is None


def a_large_segment_goes_out_in_pieces():
    with network() as net:
        web = net.plug("web")
        c = Tcp.connect(web, web.gateway, tcp_echo())
        data = os.urandom(8000)
        body = tcp(web.address, web.gateway, c.port, c.peer_port, c.seq, c.ack, ACK | PSH, data)
        # what a guest leaves to be done: the checksum has the pseudo-header's sum only
        total = sum(struct.unpack("!6H", ip_bytes(web.address) + ip_bytes(web.gateway) +
                                  struct.pack("!HH", 6, len(body))))
        while total >> 16:
            total = (total & 0xffff) + (total >> 16)
        body = body[:16] + struct.pack("!H", total) + body[18:]
        header = struct.pack("<BBHHHHH", 1, 1, 54, 1000, 34, 16, 0)
        web.packet(header, ether(web.gateway_mac, web.mac, 0x800, ipv4(web.address, web.gateway, 6, body)))
        c.seq += len(data)
        while len(c.data) < len(data) + 5:
            assert c.take(), f"{len(c.data)} bytes came back"
        assert c.data.replace(b"echo ", b"") == data


def addresses_that_mean_the_host_by_another_name_go_nowhere():
    with network() as net:
        web = net.plug("web")
        port = udp_echo()
        for address in ("127.0.0.1", "0.0.0.0", "10.99.1.77", "10.99.1.3", "169.254.169.254", "224.0.0.1", "255.255.255.255"):
            web.send_udp(address, port, b"x", mac=web.gateway_mac)
            assert web.receive(lambda f: f.protocol == 17, 0.2) is None, address
        for address in ("::1", "::ffff:127.0.0.1", "fe80::1", "::"):
            web.send(ether(web.gateway_mac, web.mac, 0x86dd,
                           ipv6(web.address6, address, 17, udp(web.address6, address, 9, port, b"x"))))
            assert web.receive(lambda f: f.protocol == 17, 0.2) is None, address
        assert net.dropped("web", "policy") >= 10


def a_host_network_reaches_the_host_and_nothing_else():
    with network(kind="host") as net:
        web = net.plug("web")
        assert 3 not in web.dhcp(1)[1]
        assert web.exchange_udp(web.gateway, udp_echo(), b"hi") == b"echo hi"
        web.send_udp("192.0.2.1", 9, b"x", mac=web.gateway_mac)
        assert web.ask_dns("example.org")[0] == 5
        assert net.dropped("web", "policy") == 1, net.port("web")


def ports_of_the_host_lead_to_vms():
    with network() as net:
        first, second = free_port(), free_port()
        web = net.plug("web", forwards=f"tcp:{LOOPBACK}:{first}:80")
        answer, _ = net.ask("forward", vm="web", forward=f"{second}:53/udp")
        assert answer["forward"] == f"udp:{LOOPBACK}:{second}:53"
        with socket.create_connection((LOOPBACK, first)) as s:
            s.settimeout(WAIT)
            c = Tcp.accept(web, 80)
            assert c.peer == web.gateway
            s.sendall(b"GET /")
            c.expect(b"GET /")
            c.put(ACK | PSH, b"page")
            assert s.recv(100) == b"page"
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            s.settimeout(WAIT)
            s.sendto(b"question", (LOOPBACK, second))
            f = web.receive(lambda f: f.protocol == 17 and f.port_to == 53)
            assert f.data == b"question"
            web.send_udp(f.ip_from, f.port_from, b"answer", port=53, mac=web.gateway_mac)
            assert s.recv(100) == b"answer"
        refused("taken", net.ask, "forward", vm="web", forward=f"{first}:81")
        refused("not plugged", net.ask, "forward", vm="nobody", forward="8080:80")
        net.ask("unforward", forward=f"tcp:{LOOPBACK}:{first}:80")
        refused("nothing is forwarded", net.ask, "unforward", forward=str(first))
        assert net.port("web")["forwards"] == [f"udp:{LOOPBACK}:{second}:53"]
        try:
            socket.create_connection((LOOPBACK, first)).close()
            raise AssertionError("the forward is still there")
        except ConnectionRefusedError:
            pass
        web.close()
        time.sleep(0.2)
        assert net.plug("other", forwards=f"tcp:{LOOPBACK}:{first}:80").address


CASES = [
    a_port_has_stable_addresses_that_dhcp_gives,
    ports_are_checked_when_they_are_plugged_in,
    closing_the_socket_unplugs,
    a_switch_that_nobody_uses_ends_itself,
    after_a_kill_the_same_addresses_come_back,
    names_of_vms_are_answered_both_ways,
    a_private_network_answers_for_its_own_only,
    hosts_reach_the_hosts_loopback_through_the_gateway,
    a_large_segment_goes_out_in_pieces,
    addresses_that_mean_the_host_by_another_name_go_nowhere,
    a_host_network_reaches_the_host_and_nothing_else,
    ports_of_the_host_lead_to_vms,
]


def main():
    failed = 0
    cases = [c for c in CASES if len(sys.argv) < 3 or c.__name__ in sys.argv[2:]]
    print(f"1..{len(cases)}", flush=True)
    for number, case in enumerate(cases, 1):
        try:
            case()
            line = f"ok {number} - {case.__name__}"
        except Skip as why:
            line = f"ok {number} - {case.__name__} # SKIP {why}"
        except (AssertionError, AttributeError, OSError, ValueError, Refused) as why:
            failed += 1
            at = why.__traceback__
            while at.tb_next:
                at = at.tb_next
            print(f"# {type(why).__name__} at {at.tb_frame.f_code.co_name}:{at.tb_lineno}: {why}")
            line = f"not ok {number} - {case.__name__}"
        print(line, flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
