#!/usr/bin/env python3
"""Networks of Berth against QEMU's: iperf3 and ping in the same guests under both translators, in pairs.

    bench/net.py [--pairs N] [--seconds N] [--json FILE] [CASE...]

Cases: guests (one guest to another: Berth's private network, QEMU's socket network), guests-back (the other way),
host (to a server on the host: Berth's default network, QEMU's user network), host-back, and the same with -ping:
round trips. Throughput is in MiB/s, round trips in microseconds. The ratio says how many times faster Berth is, the
median of the pairs'. Nothing needs root.
"""
import argparse
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

from programs import program_files
from run import KERNEL_ARGS, TOP, initramfs, module_files

MODULES = ("virtio_ring", "virtio", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci", "failover",
           "net_failover", "virtio_net")
CASES = ("guests", "guests-back", "guests-ping", "host", "host-back", "host-ping")
INIT = """#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc p /proc; $b mount -t sysfs s /sys; $b mount -t devtmpfs d /dev; $b mount -t tmpfs t /tmp
for m in %(modules)s; do $b insmod /modules/$m.ko; done
for word in $($b cat /proc/cmdline); do case $word in bench_*) eval "$word";; esac; done
$b ip link set lo up; $b ip link set eth0 up
$b ip addr add $bench_own/24 dev eth0
if [ "$bench_role" = server ]; then
    /bin/iperf3 -s > /dev/null &
    $b echo SERVER-READY
    $b sleep 100000
fi
until $b ping -c 1 -W 1 $bench_peer > /dev/null 2>&1; do :; done
rate() { /bin/iperf3 -c $bench_peer -p $bench_port -t %(seconds)d -f M "$@" 2>&1 | $b awk '/receiver/{print $(NF-2)}'; }
rate -t 1 > /dev/null
$b echo CASE to $(rate)
$b echo CASE back $(rate -R)
$b echo CASE ping $($b ping -c 50 -i 0.02 -q $bench_peer | $b awk -F/ '/round-trip/{print $4 * 1000}')
$b echo BENCH-END
$b poweroff -f
"""


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def mac(n):
    return f"52:54:00:aa:00:{n:02x}"


class Bench:
    def __init__(self, args, work):
        self.args = args
        self.work = work
        init = INIT % {"modules": " ".join(MODULES), "seconds": args.seconds}
        self.initrd = initramfs(work, "net", init, program_files("iperf3") + module_files(args.kernel, MODULES))
        self.env = dict(os.environ, XDG_RUNTIME_DIR=os.path.join(work, "run"), XDG_DATA_HOME=os.path.join(work, "data"))
        os.makedirs(os.path.join(work, "data/berth/networks"), mode=0o700)
        os.makedirs(os.path.join(work, "run"), mode=0o700)
        for name, kind in (("lan", "private"), ("out", "nat")):
            with open(os.path.join(work, f"data/berth/networks/{name}.json"), "w") as f:
                json.dump({"berth_network": 1, "name": name, "kind": kind, "subnet": "10.0.2.0/24", "idle_seconds": 1,
                           "trusting": True}, f)

    def command(self, engine, n, network, append):
        append = f"{KERNEL_ARGS} {append}"
        if engine == "berth":
            return [self.args.berth, "run", "-n", f"bench{n}", "-m", "256", "--engine", "translate", "--kernel",
                    self.args.kernel, "--initrd", self.initrd, "--append", append, "--net",
                    ("lan" if network != "user" else "out") + f",mac={mac(n)}"]
        return ["qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-M", "q35", "-m", "256", "-nodefaults",
                "-no-user-config", "-nographic", "-no-reboot", "-serial", "stdio", "-kernel", self.args.kernel, "-initrd",
                self.initrd, "-append", append, "-netdev", network + ",id=n", "-device",
                f"virtio-net-pci,netdev=n,mac={mac(n)}"]

    def start(self, engine, n, network, append):
        child = subprocess.Popen(self.command(engine, n, network, append), stdin=subprocess.DEVNULL,
                                 stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True, env=self.env)
        return child

    def results(self, child, engine):
        text, out = "", {}
        signal.signal(signal.SIGALRM, lambda *_: os.killpg(child.pid, signal.SIGKILL))
        signal.alarm(120 + 10 * self.args.seconds)
        try:
            for raw in child.stdout:
                line = raw.decode(errors="replace")
                text += line
                if case := re.match(r"CASE (\S+) ([\d.]+)", line):
                    out[case[1]] = float(case[2])
            child.wait()
        finally:
            signal.alarm(0)
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
        if "BENCH-END" not in text or set(out) != {"to", "back", "ping"}:
            sys.exit(f"bench: {engine} did not finish (status {child.returncode}): ...{text[-800:]}")
        return out

    def guests(self, engine):
        port = free_port()
        server = self.start(engine, 1, f"socket,listen=127.0.0.1:{port}", "bench_role=server bench_own=10.0.2.101")
        try:
            while b"SERVER-READY" not in server.stdout.readline():
                if server.poll() is not None:
                    sys.exit(f"bench: the {engine} guest that serves ended")
            client = self.start(engine, 2, f"socket,connect=127.0.0.1:{port}",
                                "bench_own=10.0.2.102 bench_peer=10.0.2.101 bench_port=5201")
            return self.results(client, engine)
        finally:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()
            time.sleep(2 if engine == "berth" else 0)  # the network ends, too

    def host(self, engine):
        port = free_port()
        server = subprocess.Popen(["iperf3", "-s", "-B", "127.0.0.1", "-p", str(port)], stdout=subprocess.DEVNULL)
        gateway = "10.0.2.1" if engine == "berth" else "10.0.2.2"
        try:
            client = self.start(engine, 3, "user", f"bench_own=10.0.2.15 bench_peer={gateway} bench_port={port}")
            return self.results(client, engine)
        finally:
            server.kill()
            server.wait()
            time.sleep(2 if engine == "berth" else 0)


def bench(b, kind, report):
    rows = {"berth": [], "qemu": []}
    for i in range(b.args.pairs):
        for engine in ("berth", "qemu") if i % 2 else ("qemu", "berth"):
            rows[engine].append(getattr(b, kind)(engine))
            print(f"  {kind} {engine}: {rows[engine][-1]}", file=sys.stderr)
    for key, name, unit in (("to", kind, "MiB/s"), ("back", kind + "-back", "MiB/s"), ("ping", kind + "-ping", "us")):
        if name not in b.args.cases:
            continue
        berth, qemu = (statistics.median(r[key] for r in rows[engine]) for engine in ("berth", "qemu"))
        ratio = statistics.median(x[key] / y[key] for x, y in zip(rows["berth"], rows["qemu"]))
        ratio = 1 / ratio if key == "ping" else ratio
        report[f"net {name}"] = {"berth": berth, "qemu": qemu, "ratio": ratio}
        print(f"{name:14}{berth:10.0f}{qemu:10.0f} {unit:6}{ratio:8.2f}")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--pairs", type=int, default=3, help="pairs of runs for each kind [3]")
    p.add_argument("--seconds", type=int, default=5, help="for each case [5]")
    p.add_argument("--kernel", help="a bzImage with its modules beside it; Debian's cloud kernel otherwise")
    p.add_argument("--berth", default=os.path.join(TOP, "build/berth"), help="the program to measure [build/berth]")
    p.add_argument("--json", help="write the figures to this file")
    p.add_argument("cases", nargs="*", metavar="CASE", help="only these")
    args = p.parse_args()
    args.cases = args.cases or list(CASES)
    args.berth = os.path.abspath(args.berth)
    if set(args.cases) - set(CASES):
        sys.exit(f"bench: the cases are {', '.join(CASES)}")
    if not shutil.which("qemu-system-x86_64"):
        sys.exit("bench: qemu-system-x86_64 is not installed; try: tools/install-packages bench")
    if not args.kernel:
        args.kernel = subprocess.run([os.path.join(TOP, "tools/fetch-kernel")], check=True, capture_output=True,
                                     text=True).stdout.strip()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # what was started is ended, too
    report = {}
    with tempfile.TemporaryDirectory(prefix="berth-bench.") as work:
        b = Bench(args, work)
        print(f"{'':14}{'berth':>10}{'qemu':>10}{'':7}{'ratio':>8}   (medians of {args.pairs} pairs)")
        for kind in ("guests", "host"):
            if any(c.split("-")[0] == kind for c in args.cases):
                bench(b, kind, report)
    if args.json:
        with open(args.json, "w") as f:
            json.dump(report, f, indent=1)


if __name__ == "__main__":
    main()
