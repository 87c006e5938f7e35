#!/usr/bin/env python3
"""Many machines: how quickly berthd makes and starts them, what it takes, and what is left of it.

    bench/density.py [--build DIR] [--vms N] [--storm N] [--compare N] [--json FILE]

density: N VMs with a tiny guest, created and started under one manager: seconds, `berth ls`, memory
storm:   create, start, stop and rm, N times, four at a time; then nothing may be left: no process, file, socket
         or row, and as many descriptors as before
compare: from the request to create a VM until its guest's first output: berth create and start against virsh
         define and start with QEMU's TCG (libvirt's session mode), the same multiboot guest, in turns; the median's
         ratio. Without virsh this part is left out, with words.
"""
import argparse
import concurrent.futures
import json
import os
import shutil
import signal
import socket
import sqlite3
import struct
import statistics
import subprocess
import sys
import tempfile
import time

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
WAIT = 60
NOBODY = 65534


def write_guest(path):
    """A multiboot kernel that says one letter on COM1 and sleeps for ever."""
    code = bytes.fromhex("66baf803" "b078" "ee" "fb" "f4" "ebfc")  # mov $0x3f8,%dx; mov $'x',%al; out; sti; hlt; jmp
    base, flags = 0x100000, 0x10000
    header = struct.pack("<8I", 0x1BADB002, flags, -(0x1BADB002 + flags) & 0xFFFFFFFF, base, base,
                         base + 32 + len(code), 0, base + 32)
    with open(path, "wb") as f:
        f.write(header + code)


class Berth:
    """A manager with directories of its own."""

    def __init__(self, build):
        self.home = tempfile.mkdtemp(prefix="berth-d-", dir="/tmp")
        os.makedirs(f"{self.home}/run", mode=0o700)
        self.environment = dict(os.environ, XDG_DATA_HOME=f"{self.home}/data", XDG_RUNTIME_DIR=f"{self.home}/run")
        self.program = f"{build}/berth"
        self.guest = f"{self.home}/guest"
        write_guest(self.guest)

    def __call__(self, *args):
        done = subprocess.run([self.program, *args], capture_output=True, text=True, env=self.environment,
                              stdin=subprocess.DEVNULL, timeout=WAIT)
        if done.returncode:
            sys.exit(f"berth {' '.join(args)}: {done.stderr}")
        return done.stdout

    def create(self, name):
        self("create", "-n", name, "-m", "16", "--kernel", self.guest, "--exit-device")

    def manager(self):
        return json.loads(self("daemon", "start", "--json"))["pid"]

    def processes(self):
        mark = f"XDG_DATA_HOME={self.home}/data\0".encode()
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/environ", "rb") as f:
                    if mark in f.read():
                        found.append(int(pid))
            except OSError:
                pass
        return found

    def close(self):
        for pid in self.processes():
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                pass
        shutil.rmtree(self.home, ignore_errors=True)


def memory_kib(pid, key="Pss"):
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as f:
        return int(next(line.split()[1] for line in f if line.startswith(key + ":")))


def timed(what):
    begun = time.monotonic()
    what()
    return time.monotonic() - begun


def measure_density(berth, count):
    manager = berth.manager()
    empty = memory_kib(manager, "Private_Dirty")
    names = [f"vm{i}" for i in range(count)]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        create = timed(lambda: list(pool.map(berth.create, names)))
        start = timed(lambda: list(pool.map(lambda name: berth("start", name), names)))
    berth("ls")
    ls = statistics.median(timed(lambda: berth("ls")) for _ in range(9))
    states = [vm["state"] for vm in json.loads(berth("ls", "--json"))]
    full = memory_kib(manager, "Private_Dirty")
    others = [pid for pid in berth.processes() if pid != manager]
    result = {"vms": count, "running": states.count("running"), "create_seconds": create, "start_seconds": start,
              "ls_ms": ls * 1e3, "manager_kib": full, "manager_kib_per_vm": (full - empty) / count,
              "supervisor_and_vm_kib_per_vm": sum(map(memory_kib, others)) / count}
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        result["rm_seconds"] = timed(lambda: list(pool.map(lambda name: berth("rm", "--force", name), names)))
    return result


def left_over(berth, descriptors):
    manager = berth.manager()
    end = time.monotonic() + 10
    while time.monotonic() < end and len(berth.processes()) > 1:
        time.sleep(0.1)
    data = f"{berth.home}/data/berth"
    with sqlite3.connect(f"file:{data}/berth.db?mode=ro", uri=True) as db:
        rows = sum(db.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in ("vm", "disk", "layer"))
    return {"processes": len(berth.processes()) - 1, "rows": rows,
            "files": sum(len(os.listdir(f"{data}/{folder}")) for folder in ("vms", "images", "layers")),
            "sockets": len(os.listdir(f"{berth.home}/run/berth/vm")),
            "descriptors": max(0, len(os.listdir(f"/proc/{manager}/fd")) - descriptors)}


def measure_storm(berth, count):
    manager = berth.manager()
    berth.create("first")
    berth("rm", "--force", "first")
    descriptors = len(os.listdir(f"/proc/{manager}/fd"))
    before = memory_kib(manager, "Private_Dirty")

    def one(number):
        name = f"storm{number}"
        berth.create(name)
        berth("start", name)
        berth("stop", "--force", name)
        berth("rm", "--force", name)
        if number % 50 == 49:
            print(f"storm: {number + 1} of {count}", file=sys.stderr)

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        seconds = timed(lambda: list(pool.map(one, range(count))))
    return {"cycles": count, "seconds": seconds, "cycles_a_second": count / seconds,
            "manager_kib_grown": memory_kib(manager, "Private_Dirty") - before, "left": left_over(berth, descriptors)}


# --- against virsh ----------------------------------------------------------------------------------------


def first_output_of_berth(berth, number):
    name = f"first{number}"
    begun = time.monotonic()
    berth.create(name)
    berth("start", name)
    with socket.socket(socket.AF_UNIX) as console:
        console.connect(f"{berth.home}/run/berth/vm/{name}/console.sock")
        console.recv(1)
    seconds = time.monotonic() - begun
    berth("rm", "--force", name)
    return seconds


DOMAIN = """<domain type='qemu'><name>{name}</name><memory unit='MiB'>16</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='pc'>hvm</type><kernel>{guest}</kernel></os>
<devices><emulator>/usr/bin/qemu-system-x86_64</emulator>
<serial type='file'><source path='{log}'/></serial><memballoon model='none'/></devices></domain>"""


class Virsh:
    """libvirt in session mode, which is for ordinary users: root becomes nobody for it."""

    def __init__(self):
        self.home = tempfile.mkdtemp(prefix="berth-v-", dir="/tmp")
        self.guest = f"{self.home}/guest"
        write_guest(self.guest)
        self.environment = dict(os.environ, **{name: self.home for name in (
            "XDG_RUNTIME_DIR", "HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "TMPDIR")},
            PATH="/usr/sbin:/usr/bin:/sbin:/bin")
        self.prefix = []
        if os.geteuid() == 0:
            os.chown(self.home, NOBODY, NOBODY)
            self.prefix = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]

    def __call__(self, *args):
        done = subprocess.run([*self.prefix, "virsh", "-c", "qemu:///session", *args], capture_output=True, text=True,
                              timeout=WAIT, env=self.environment, cwd=self.home)
        if done.returncode:
            raise RuntimeError(done.stderr.strip() or done.stdout.strip())

    def first_output(self, number):
        name, log, xml = f"berth-bench-{number}", f"{self.home}/log{number}", f"{self.home}/vm.xml"
        with open(xml, "w", encoding="ascii") as f:
            f.write(DOMAIN.format(name=name, guest=self.guest, log=log))
        begun = time.monotonic()
        self("define", xml)
        self("start", name)
        while not (os.path.exists(log) and os.path.getsize(log)):
            if time.monotonic() - begun > WAIT:
                raise RuntimeError("QEMU's guest says nothing")
            time.sleep(0.001)
        seconds = time.monotonic() - begun
        self("destroy", name)
        self("undefine", name)
        return seconds

    def close(self):
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/environ", "rb") as f:
                    if f"XDG_CACHE_HOME={self.home}\0".encode() in f.read():
                        os.kill(int(pid), signal.SIGTERM)
            except OSError:
                pass
        time.sleep(1)
        shutil.rmtree(self.home, ignore_errors=True)


def measure_compare(berth, rounds):
    if not shutil.which("virsh") or not shutil.which("qemu-system-x86_64"):
        print("compare: left out; install libvirt-clients, libvirt-daemon-driver-qemu and qemu-system-x86", file=sys.stderr)
        return None
    ours, theirs, virsh = [], [], Virsh()
    try:
        virsh.first_output(0)  # its daemon starts, and looks at QEMU
        first_output_of_berth(berth, 0)
        for number in range(1, rounds + 1):
            theirs.append(virsh.first_output(number))
            ours.append(first_output_of_berth(berth, number))
    except RuntimeError as why:
        print(f"compare: left out; virsh: {why}", file=sys.stderr)
        return None
    finally:
        virsh.close()
    ours, theirs = statistics.median(ours), statistics.median(theirs)
    return {"berth_seconds": ours, "virsh_seconds": theirs, "ratio": ours / theirs}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", default=f"{TOP}/build")
    parser.add_argument("--vms", type=int, default=100)
    parser.add_argument("--storm", type=int, default=1000)
    parser.add_argument("--compare", type=int, default=9)
    parser.add_argument("--json")
    options = parser.parse_args()
    berth = Berth(os.path.abspath(options.build))
    results = {}
    try:
        for name, measure, count in (("compare", measure_compare, options.compare),
                                     ("density", measure_density, options.vms), ("storm", measure_storm, options.storm)):
            results[name] = measure(berth, count) if count else None
            print(f"{name}: " + json.dumps(results[name], indent=2), flush=True)
    finally:
        berth.close()
    if options.json:
        with open(options.json, "w", encoding="ascii") as f:
            json.dump(results, f, indent=2)
    left = (results.get("storm") or {}).get("left", {})
    return 1 if any(left.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
