#!/usr/bin/env python3
"""Virtual networks under Debian's kernels, without root: VMs reach each other, the host, and come back.

    networks.py [--berth FILE] [--engine ENGINE] CASE...
    networks.py --list

Exit status: 0 all cases passed, 1 some failed, 77 all were skipped.
"""
import contextlib
import ctypes
import glob
import hashlib
import http.server
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request

import boot
import netplay
from boot import ARGS, Failure, Guest, Skip, initramfs_with, kernel, power_off
from disks import answer

VIRTIO = ("virtio_ring", "virtio", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci", "failover",
          "net_failover", "virtio_net")
LEASE = """#!/bin/sh
[ "$1" = bound ] || exit 0
ip addr flush dev $interface; ip addr add $ip/$mask dev $interface; ip link set $interface mtu ${mtu:-1500}
[ -n "$router" ] && ip route replace default via $router
echo "search $domain" > /etc/resolv.conf
for d in $dns; do echo "nameserver $d" >> /etc/resolv.conf; done
"""
UP = ("mkdir -p /etc; ip link set lo up; ip link set eth0 up; printf '%s' '" + LEASE.replace("'", "'\\''") +
      "' > /lease; chmod +x /lease; udhcpc -i eth0 -s /lease -n -q -t 10 >/dev/null 2>&1 && echo up || echo down")


def private_home(work):
    """Networks of this test alone."""
    for name in ("XDG_RUNTIME_DIR", "XDG_DATA_HOME"):
        os.environ[name] = os.path.join(work, name)
        os.makedirs(os.environ[name], mode=0o700, exist_ok=True)


def define(name, **keys):
    path = os.path.join(os.environ["XDG_DATA_HOME"], "berth/networks")
    os.makedirs(path, mode=0o700, exist_ok=True)
    with open(os.path.join(path, name + ".json"), "w") as f:
        json.dump({"berth_network": 1, "name": name, **keys}, f)


def ask(name, request, **args):
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(10)
        s.connect(os.path.join(os.environ["XDG_RUNTIME_DIR"], "berth/net", name, "control.sock"))
        s.sendall(json.dumps({"request": request, **args}).encode() + b"\n")
        line = json.loads(s.makefile().readline())
    if "ok" not in line:
        raise Failure(f"{request}: {line}")
    return line["ok"]


def end_switches():
    for path in glob.glob(os.path.join(os.environ["XDG_RUNTIME_DIR"], "berth/net/*")):
        try:
            os.kill(ask(os.path.basename(path), "info")["pid"], signal.SIGKILL)
        except (OSError, ValueError):
            pass


def vm(opts, work, name, *args, flavour="cloud", modules=VIRTIO):
    initrd = initramfs_with(work, "net-" + flavour, flavour, *modules)
    return Guest(opts, "-n", name, "-m", "192", "--kernel", kernel(flavour), "--initrd", initrd, "--append",
                 ARGS + " quiet", *args, timeout=opts.timeout)


def bring_up(g):
    g.expect("guest# ")
    return bring_up_again(g)


def bring_up_again(g):
    got = answer(g, UP, "LINK")
    if got != "up":
        raise Failure(f"the guest got no address: {got}; {g.output[-500:]}")
    return answer(g, "ip -4 -o addr show eth0 | awk '{print $4}' | cut -d/ -f1", "ADDRESS")


def expect(g, command, want, what):
    got = answer(g, f"{command} || echo no", "GOT")
    if got != want:
        raise Failure(f"{what}: '{command}' gives '{got}' and not '{want}'")


class Server:
    """A web server with 4 MiB in /file."""

    def __init__(self, address="127.0.0.1"):
        self.address = address

    def __enter__(self):
        data = os.urandom(4 << 20)
        self.sum = hashlib.md5(data).hexdigest()

        self.asked = 0
        answers = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                answers.asked += 1
                self.send_response(200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer((self.address, 0), Handler)
        self.port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def serve_file(g):
    g.send("mkdir -p /www; head -c 1000000 /dev/urandom > /www/file; httpd -p 80 -h /www\n")
    return answer(g, "md5sum < /www/file | cut -d' ' -f1", "SUM")


def friends(opts, work):
    """two VMs ping each other by name and fetch a file over HTTP, at a large MTU, too"""
    private_home(work)
    define("lan", kind="private", mtu=9000)
    try:
        with vm(opts, work, "web", "--net", "lan,queues=2") as web, vm(opts, work, "client", "--net", "lan") as client:
            web.expect("guest# ")
            expect(web, "cat /sys/class/net/eth0/mtu", "9000", "the MTU that the card says")
            address = bring_up_again(web)
            bring_up(client)
            total = serve_file(web)
            expect(client, "ping -c 1 -W 60 web >/dev/null && echo yes", "yes", "ping by name")
            expect(client, "ping -c 1 -W 60 -s 8000 web >/dev/null && echo yes", "yes", "ping with large frames")
            expect(client, "nslookup web.berth | awk '/^Address: /{print $2}' | head -n 1", address, "DNS")
            expect(client, "wget -q -O - http://web.berth/file | md5sum | cut -d' ' -f1", total, "HTTP between VMs")
            expect(web, "ping -c 1 -W 60 client.berth >/dev/null && echo yes", "yes", "ping back")
            power_off(client)
            power_off(web)
    finally:
        end_switches()


def reach_host(opts, work, name, *args, **kw):
    private_home(work)
    port = free_port()
    try:
        with Server() as server, vm(opts, work, name, "-p", f"{port}:80", *args, **kw) as g:
            bring_up(g)
            gateway = answer(g, "ip route | awk '/default/{print $3}'", "GATEWAY")
            expect(g, f"wget -q -O - http://{gateway}:{server.port}/file | md5sum | cut -d' ' -f1", server.sum,
                   "a server on the host's loopback")
            total = serve_file(g)
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/file", timeout=60) as reply:
                if hashlib.md5(reply.read()).hexdigest() != total:
                    raise Failure("the forwarded port leads elsewhere")
            power_off(g)
    finally:
        end_switches()


def host(opts, work):
    """a VM reaches a server on the host's loopback through NAT, and the host the VM by a forwarded port"""
    reach_host(opts, work, "vm")


def e1000(opts, work):
    """the same with Intel's card"""
    reach_host(opts, work, "old", "--net", "default,model=e1000", flavour="generic", modules=("e1000",))


def e1000_686(opts, work):
    """the same with a 32-bit kernel"""
    reach_host(opts, work, "older", "--net", "default,model=e1000", flavour="686", modules=("e1000",))


class Player:
    """A host played at a port of the network lan."""

    def __init__(self, name):
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(10)
            s.connect(os.path.join(os.environ["XDG_RUNTIME_DIR"], "berth/net/lan/control.sock"))
            s.sendall(json.dumps({"request": "plug", "vm": name}).encode() + b"\n")
            line, fds, _, _ = socket.recv_fds(s, 65536, 1)
        port = json.loads(line)["ok"]
        self.mac, self.address = port["mac"], port["address"]
        self.socket = socket.socket(fileno=fds[0])

    def send_bundle(self, kind, to_mac, to, data, size):
        """A UDP datagram, or several in one, as guests leave them to be cut: kind 3 UFO, 5 USO."""
        body = netplay.udp(self.address, to, 7, 7, data)
        total = netplay.checksum(netplay.pseudo(self.address, to, 17, len(body))) ^ 0xffff
        body = body[:6] + struct.pack("!H", total) + body[8:]
        frame = netplay.ether(to_mac, self.mac, 0x800, netplay.ipv4(self.address, to, 17, body))
        self.socket.send(struct.pack("<BBHHHHH", 1, kind, 42, size, 34, 6, 0) + frame)


def long_datagrams(opts, work):
    """long and bundled datagrams of UDP reach a guest: whole where it takes them so, else cut for it"""
    private_home(work)
    define("lan", kind="private", subnet="10.99.0.0/24")
    fragments = "awk '/^Ip: [0-9]/ {print $15}' /proc/net/snmp"  # that the guest put together
    right = "sleep 1; awk '/^Udp: [0-9]/ {print $3, $4}' /proc/net/snmp"  # datagrams for nobody, and bad ones
    try:
        for model, modules, flavour, pieces in (("virtio", VIRTIO, "cloud", "0"), ("e1000", ("e1000",), "generic", "14")):
            with vm(opts, work, model, "--net", f"lan,model={model}", flavour=flavour, modules=modules) as g:
                address = bring_up(g)
                mac = answer(g, "cat /sys/class/net/eth0/address", "MAC")
                player = Player("player")
                player.send_bundle(3, mac, address, os.urandom(20000), 1480)
                expect(g, right, "1 0", f"a long datagram to {model}")
                expect(g, fragments, pieces, f"fragments of it to {model}")
                player.send_bundle(5, mac, address, os.urandom(20000), 1000)
                expect(g, right, "21 0", f"a bundle of 20 datagrams to {model}")
                expect(g, fragments, pieces, f"fragments after it to {model}")
                player.socket.close()
                power_off(g)
    finally:
        end_switches()


def comeback(opts, work):
    """the switch is killed: the VM runs on and is plugged into its successor"""
    private_home(work)
    define("lan", kind="private", subnet="10.99.0.0/24")
    try:
        with vm(opts, work, "a", "--net", "lan") as a, vm(opts, work, "b", "--net", "lan") as b:
            address = bring_up(a)
            bring_up(b)
            expect(b, f"ping -c 1 -W 60 {address} >/dev/null && echo yes", "yes", "ping before")
            before = ask("lan", "info")["pid"]
            os.kill(before, signal.SIGKILL)
            expect(b, f"for i in $(seq 100); do ping -c 1 -W 1 {address} >/dev/null && break; sleep 0.2; done && echo yes",
                   "yes", "ping after")
            if ask("lan", "info")["pid"] == before:
                raise Failure("the switch was not killed")
            power_off(b)
            power_off(a)
    finally:
        end_switches()


def idle(opts, work):
    """a switch that nobody is plugged into any more ends by itself"""
    private_home(work)
    define("lan", kind="private", idle_seconds=1)
    try:
        with vm(opts, work, "a", "--net", "lan") as g:
            g.expect("guest# ")
            pid = ask("lan", "info")["pid"]
            time.sleep(1.5)
            os.kill(pid, 0)
            power_off(g)
        for _ in range(600):
            try:
                os.kill(pid, 0)
            except OSError:
                return
            time.sleep(0.1)
        raise Failure("the switch still runs")
    finally:
        end_switches()


class Adapter:
    """berth net vhost: a back end at path, and a port of the network lan for whoever uses it."""

    def __init__(self, opts, path):
        self.child = subprocess.Popen([opts.berth, "net", "vhost", "lan", "other", path], stderr=subprocess.PIPE, text=True)
        for line in self.child.stderr:
            if "mac=" in line:
                break
        self.mac = line.split("mac=")[1].strip()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.child.kill()
        self.child.wait()
        self.child.stderr.close()


def vhost(opts, work):
    """a VM of QEMU joins the network over vhost-user, with two pairs of queues, and fetches a file from one of ours"""
    if not shutil.which("qemu-system-x86_64"):
        raise Skip("no qemu-system-x86_64")
    private_home(work)
    define("lan", kind="private")
    path = os.path.join(work, "port")
    initrd = initramfs_with(work, "net-cloud", "cloud", *VIRTIO)
    adapter = Adapter(opts, path)
    try:
        qemu = ["qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-M", "q35,memory-backend=mem", "-m", "192", "-object",
                "memory-backend-memfd,id=mem,size=192M,share=on", "-nodefaults", "-no-user-config", "-nographic", "-no-reboot",
                "-smp", "2", "-serial", "stdio", "-kernel", kernel("cloud"), "-initrd", initrd, "-append", ARGS + " quiet no_timer_check",
                "-chardev", f"socket,id=port,path={path}", "-netdev", "vhost-user,id=net,chardev=port,queues=2", "-device",
                f"virtio-net-pci,netdev=net,mq=on,mac={adapter.mac},romfile=,vectors=0"]  # with MSI-X, TCG and vhost QEMU 7.2 crashes
        with vm(opts, work, "web", "--net", "lan") as web, Guest(opts, timeout=opts.timeout, command=qemu) as other:
            bring_up(web)
            total = serve_file(web)
            bring_up(other)
            expect(other, "ls -d /sys/class/net/eth0/queues/rx-* | wc -l", "2", "pairs of queues")
            expect(other, "wget -q -O - http://web.berth/file | md5sum | cut -d' ' -f1", total, "HTTP to one of our VMs")
            expect(web, "ping -c 1 -W 60 other.berth >/dev/null && echo yes", "yes", "ping back")
            other.send("poweroff -f\n")
            other.status()
            power_off(web)
    finally:
        adapter.close()
        end_switches()


def back_end(opts, work):
    """a VM of ours uses another program's vhost-user back end, loses it, and uses the next one"""
    private_home(work)
    define("lan", kind="private", subnet="10.99.0.0/24")
    path = os.path.join(work, "port")
    try:
        with vm(opts, work, "web", "--net", "lan") as web, contextlib.ExitStack() as stack:
            address = bring_up(web)
            total = serve_file(web)
            with Adapter(opts, path) as adapter:
                other = stack.enter_context(vm(opts, work, "other", "--net", f"vhost-user:{path},mac={adapter.mac}"))
                bring_up(other)
                expect(other, f"wget -q -O - http://{address}/file | md5sum | cut -d' ' -f1", total, "HTTP")
            os.unlink(path)
            expect(other, "for i in $(seq 600); do [ $(cat /sys/class/net/eth0/carrier) = 0 ] && break; sleep 0.1; done && echo yes",
                   "yes", "the link goes down")
            with Adapter(opts, path):
                expect(other, f"for i in $(seq 100); do ping -c 1 -W 1 {address} >/dev/null && break; sleep 0.2; done && echo yes",
                       "yes", "ping after the back end came back")
                expect(other, f"wget -q -O - http://{address}/file | md5sum | cut -d' ' -f1", total, "HTTP again")
                power_off(other)
            power_off(web)
    finally:
        end_switches()


def dpdk(opts, work):
    """DPDK's test program is the back end of two VMs, between which it hands packets over"""
    if not shutil.which("dpdk-testpmd"):
        raise Skip("no dpdk-testpmd; it is in Debian's package dpdk-dev")
    private_home(work)
    paths = [os.path.join(work, f"port{i}") for i in range(2)]
    devices = [f"--vdev=net_vhost{i},iface={path},queues=1" for i, path in enumerate(paths)]
    back = subprocess.Popen(["nice", "dpdk-testpmd", "--no-huge", "--no-pci", "--no-telemetry", "-m", "256", "-l", "0,1", *devices,
                             "--", "--no-numa", "--total-num-mbufs=4096", "--forward-mode=io", "--auto-start"],
                            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        deadline = time.monotonic() + 60
        while not all(map(os.path.exists, paths)):
            if back.poll() is not None:
                raise Skip("dpdk-testpmd does not run here: " + back.stdout.read().decode()[-300:])
            if time.monotonic() > deadline:
                raise Failure("dpdk-testpmd makes no sockets")
            time.sleep(0.1)
        with vm(opts, work, "a", "--net", f"vhost-user:{paths[0]}") as a, \
                vm(opts, work, "b", "--net", f"vhost-user:{paths[1]}") as b:
            for g, address in ((a, "10.1.1.1"), (b, "10.1.1.2")):
                g.expect("guest# ")
                g.send(f"ip link set eth0 up; ip addr add {address}/24 dev eth0\n")
            total = serve_file(a)
            expect(b, "for i in $(seq 30); do ping -c 1 -W 1 10.1.1.1 >/dev/null && break; sleep 0.2; done && echo yes", "yes",
                   "ping through DPDK")
            expect(b, "wget -q -O - http://10.1.1.1/file | md5sum | cut -d' ' -f1", total, "HTTP through DPDK")
            power_off(b)
            power_off(a)
    finally:
        if back.poll() is None:
            os.killpg(back.pid, signal.SIGKILL)
        back.wait()


def sockets(opts, work):
    """a card may have its packets go over a socket, beside others with rings"""
    private_home(work)
    define("lan", kind="private")
    try:
        with vm(opts, work, "web", "--net", "lan,socket") as web, vm(opts, work, "client", "--net", "lan") as client:
            bring_up(web)
            bring_up(client)
            total = serve_file(web)
            expect(client, "wget -q -O - http://web.berth/file | md5sum | cut -d' ' -f1", total, "HTTP between VMs")
            rings = {p["vm"]: p["rings"] for p in ask("lan", "info")["ports"]}
            if rings != {"web": False, "client": True}:
                raise Failure(f"the ports with rings are {rings}")
            power_off(client)
            power_off(web)
    finally:
        end_switches()


def berth(opts, *args):
    done = subprocess.run([opts.berth, *args, "--json"], capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise Failure(f"berth {' '.join(args)}: {done.stderr}")
    return json.loads(done.stdout)


def wait_for(g, command, what):
    expect(g, f"for i in $(seq 600); do {command} && break; sleep 0.1; done; {command} && echo yes", "yes", what)


def hotplug(opts, work):
    """a card is plugged into a running VM, works, survives a reboot, and is taken out; another takes its place"""
    private_home(work)
    define("lan", kind="private")
    try:
        with vm(opts, work, "web", "--net", "lan") as web, vm(opts, work, "other", "--net", "none") as g:
            bring_up(web)
            g.expect("guest# ")
            wait_for(g, "[ ! -e /sys/class/net/eth0 ]", "no card at first")
            made = berth(opts, "net", "connect", "other", "lan")
            wait_for(g, "[ -e /sys/class/net/eth0 ]", "the new card")
            if bring_up_again(g) != made["address"]:
                raise Failure("the new card has another address")
            expect(g, "ping -c 1 -W 60 web >/dev/null && echo yes", "yes", "ping by the new card")
            if berth(opts, "net", "connect", "other", "lan")["nic"] != 1:
                raise Failure("a second new card is not card 1")
            wait_for(g, "[ -e /sys/class/net/eth1 ]", "a second card")
            berth(opts, "net", "disconnect", "--remove", "other:0")
            wait_for(g, "[ ! -e /sys/class/net/eth0 ]", "the card that went")
            expect(g, "[ -e /sys/class/net/eth1 ] && echo yes", "yes", "the other card stays")
            while [p["nic"] for p in ask("lan", "info")["ports"] if p["vm"] == "other"] != [1]:
                if time.monotonic() > g.deadline:
                    raise Failure("the removed card is still plugged in")
                time.sleep(0.1)
            g.send("reboot -f\n")
            g.expect("INIT-REACHED")
            g.expect("guest# ")
            expect(g, "ls /sys/class/net | grep -c eth", "1", "the second card after a reboot")
            berth(opts, "net", "disconnect", "--remove", "other:1")
            wait_for(g, "[ ! -e /sys/class/net/eth0 ]", "the card that went after the reboot")
            power_off(g)
            power_off(web)
    finally:
        end_switches()


def ip(command):
    subprocess.run(["ip", *command.split()], check=True, capture_output=True, timeout=20)


def in_a_network_of_its_own(body):
    """Runs body in a child with network interfaces of its own, as its root, whoever the caller is."""
    new_net, new_user = 0x40000000, 0x10000000
    user, group = os.getuid(), os.getgid()
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    status = 1
    try:
        if ctypes.CDLL(None).unshare(new_net | (new_user if user else 0)):
            os._exit(77)
        for file, text in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")) if user else ():
            with open("/proc/self/" + file, "w") as f:
                f.write(text)
        ip("link set lo up")
        body()
        status = 0
    except Exception as why:
        print(f"# {type(why).__name__}: {why}", flush=True)
    os._exit(status)


def barriers(opts, work):
    """VLANs and policies keep guests out: what receives sees nothing of them"""
    private_home(work)
    define("lan")
    pcap = os.path.join(work, "pcap")
    try:
        with Server() as server, vm(opts, work, "a", "--net", "lan,vlan=10", "--egress", f"deny host:{server.port}") as a, \
                vm(opts, work, "b", "--net", "lan,vlan=20") as b:
            bring_up(a)
            address = bring_up(b)
            gateway = answer(a, "ip route | awk '/default/{print $3}'", "GATEWAY")
            card = {p["vm"]: p["mac"] for p in ask("lan", "info")["ports"]}
            capture = subprocess.Popen([opts.berth, "net", "capture", "--vm", "b", "-w", pcap, "lan"])
            while not (os.path.exists(pcap) and os.path.getsize(pcap) >= 24):
                time.sleep(0.1)
            expect(a, f"ping -c 3 -W 1 {address} >/dev/null && echo yes", "no", "ping from another VLAN")
            expect(b, f"ping -c 1 -W 60 {gateway} >/dev/null && echo yes", "yes", "ping of the gateway")
            capture.send_signal(signal.SIGINT)
            capture.wait(60)
            with open(pcap, "rb") as f:
                seen = f.read()
            if netplay.mac_bytes(card["a"]) in seen or netplay.mac_bytes(card["b"]) not in seen:
                raise Failure("the card of the other VLAN has seen what was not for it, or nothing at all")
            fetch = f"wget -T 3 -q -O - http://{gateway}:{server.port}/file | md5sum | cut -d' ' -f1"
            expect(a, fetch, hashlib.md5(b"").hexdigest(), "a server that the policy denies")
            if server.asked:
                raise Failure("the server was asked against the policy")
            berth(opts, "net", "policy", "a", "open")
            expect(a, fetch.replace("-T 3 ", ""), server.sum, "the server, once the policy allows it")
            power_off(a)
            power_off(b)
    finally:
        end_switches()


def reach_interface(opts, work, name, network, prepare):
    """prepare() leaves 192.0.2.1 where a card in network reaches it."""
    with vm(opts, work, name, "--net", network) as g:
        g.expect("guest# ")
        prepare()
        answer(g, "ip link set eth0 up; ip addr add 192.0.2.2/24 dev eth0; echo done", "SET")
        expect(g, "for i in $(seq 30); do ping -c 1 -W 1 192.0.2.1 >/dev/null && break; done && echo yes", "yes",
               f"ping the host by {network}")
        with Server("192.0.2.1") as server:
            expect(g, f"wget -q -O - http://192.0.2.1:{server.port}/file | md5sum | cut -d' ' -f1", server.sum,
                   f"HTTP by {network}")
        power_off(g)


def interfaces(opts, work):
    """cards in a tap interface, a bridge and a macvtap interface of the host"""
    if not shutil.which("ip") or not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        raise Skip("no ip program, or no /dev/net/tun that this user may open")
    private_home(work)

    def addressed(name):
        return lambda: (ip(f"addr add 192.0.2.1/24 dev {name}"), ip(f"link set {name} up"))

    def tap():
        reach_interface(opts, work, "one", "tap:vm0", addressed("vm0"))
        if os.path.exists("/proc/sys/net/ipv4/conf/vm0"):
            raise Failure("the tap interface outlives its VM")

    def bridge():
        ip("link add br0 type bridge")
        reach_interface(opts, work, "two", "bridge:br0", addressed("br0"))

    def macvtap():
        ip("link add v0 type veth peer name v1")
        ip("link set v0 up")
        reach_interface(opts, work, "three", "macvtap:v0", addressed("v1"))
        if "bmt" in subprocess.run(["ip", "link"], capture_output=True, text=True).stdout:
            raise Failure("the macvtap interface outlives its VM")

    def refused():
        for network, word in (("bridge:nowhere", "ip link add nowhere type bridge"), ("macvtap:nowhere", "ip link")):
            done = subprocess.run([opts.berth, "run", "--kernel", kernel("cloud"), "--net", network], capture_output=True,
                                  text=True, timeout=30)
            if done.returncode == 0 or word not in done.stderr:
                raise Failure(f"{network}: {done.stderr}")
    for body in (refused, tap, bridge, macvtap):
        status = in_a_network_of_its_own(body)
        if status == 77:
            raise Skip("this host lets nobody make network namespaces")
        if status and body is macvtap and not any(name.startswith("tap") for name in os.listdir("/dev")):
            print("# macvtap was not tested: nobody makes its device files here")
        elif status:
            raise Failure(body.__name__)


CASES = [friends, host, e1000, e1000_686, long_datagrams, comeback, idle, vhost, back_end, dpdk, sockets, hotplug, barriers, interfaces]

if __name__ == "__main__":
    boot.CASES = CASES
    boot.__doc__ = __doc__
    sys.exit(boot.main())
