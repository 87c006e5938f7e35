#!/usr/bin/env python3
"""How light Berth is on KVM, against QEMU with the same kernel on the same KVM, in one run, in turns.

    bench/kvm.py [--build DIR] [--starts N] [--boots N] [--only start|boot] [--vmm NAME,...] [--json FILE]

start:  milliseconds from exec to the first KVM_RUN, which enters the guest
boot:   seconds from exec to the guest's init, and to power-off
memory: MiB of the VM's processes (resident, and with shared pages divided: PSS) besides the guest's RAM,
        while the guest is in its init; 256 MiB, one disk, one virtio console, one NIC. The network behind
        the NIC is in QEMU's process, with Berth in one of its own that its VMs share: not counted

On a host with a KVM that runs ordinary guests (berth info) all of it happens here, as root, because the
kernel's tracing tells when a guest is entered. Elsewhere tools/testbed emulates such a host: slow, so that only
ratios mean something; start of a tiny guest, which is not run on, is then also measured natively where
/dev/kvm opens. Exit status 77: there is no KVM at all.
"""
import argparse
import json
import os
import re
import select
import signal
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(HERE)
sys.path.insert(0, HERE)
import run as bench  # noqa: E402

TRACING = "/sys/kernel/tracing"
KVM_RUN = 0xAE80
MEMORY_MIB = 256
KERNEL_ARGS = "console=ttyS0 quiet panic=-1 random.trust_cpu=on"
RESULT = "@@result"
# The guest waits in its init for a byte, while its VMM's memory is looked at.
INIT = """#!/bin/busybox sh
/bin/busybox echo INIT-REACHED
/bin/busybox head -n 1
/bin/busybox poweroff -f
"""
VMMS = ("berth", "microvm", "pc")
LIMIT = 400


class Failure(Exception):
    pass


# --- what is run ------------------------------------------------------------------------------------------


class Files:
    """What a guest is made of: kernel, initrd, disk; found before the test-bed starts."""

    def __init__(self, build, engine, kernel, initrd, tiny, disk):
        self.build, self.engine = build, engine
        self.kernel, self.initrd, self.tiny, self.disk = kernel, initrd, tiny, disk


def berth_command(files, guest, nic, any_kvm):
    command = [os.path.join(files.build, "berth"), "run", "--engine", files.engine, "-m", str(MEMORY_MIB),
               "--disk", files.disk, "--serial", "stdio", "--console", "file:/dev/null"]
    command += ["--debug", "any-kvm"] if any_kvm else []
    command += ["--net", "default" if nic else "none"]
    return command + kernel_options(files, guest, "--")


def qemu_command(files, guest, nic, any_kvm, machine):
    cpu = "host,arch-capabilities=off" if any_kvm else "host"  # such a KVM may refuse that register
    bus = "device" if machine == "microvm" else "pci"
    command = ["qemu-system-x86_64", "-M", machine, "-accel", "kvm", "-cpu", cpu, "-nodefaults", "-no-user-config",
               "-display", "none", "-no-reboot", "-serial", "stdio",
               "-object", f"memory-backend-memfd,id=ram,size={MEMORY_MIB}M", "-machine", "memory-backend=ram",
               "-m", str(MEMORY_MIB), "-drive", f"id=disk,if=none,format=raw,file={files.disk}",
               "-device", f"virtio-blk-{bus},drive=disk", "-device", f"virtio-serial-{bus}",
               "-chardev", "null,id=console", "-device", "virtconsole,chardev=console"]
    if nic:
        command += ["-netdev", "user,id=net", "-device", f"virtio-net-{bus},netdev=net"]
    return command + kernel_options(files, guest, "-")


def kernel_options(files, guest, dash):
    if guest == "tiny":
        return [dash + "kernel", files.tiny, dash + "append", "hello"]
    return [dash + "kernel", files.kernel, dash + "initrd", files.initrd, dash + "append", KERNEL_ARGS]


def command_of(vmm, files, what, guest, any_kvm):
    """A NIC only where a guest is run on: the first VM of a network starts berth-switch."""
    nic = what == "boot" and os.path.exists(os.path.join(files.build, "berth-switch"))
    if vmm == "berth":
        return berth_command(files, guest, nic, any_kvm)
    return qemu_command(files, guest, nic, any_kvm, vmm)


# --- when a guest is entered ------------------------------------------------------------------------------


class Trace:
    """The kernel's events of programs started and KVM_RUN requested, in a buffer of their own."""

    def __init__(self):
        if not os.path.exists(TRACING + "/instances"):
            subprocess.run(["mount", "-t", "tracefs", "tracefs", TRACING], capture_output=True)
        self.dir = f"{TRACING}/instances/berth-bench-{os.getpid()}"
        try:
            os.mkdir(self.dir)
        except OSError as e:
            raise Failure(f"the kernel's tracing cannot be used ({e}); try as root") from e
        self.set("tracing_on", "0")
        self.set("trace_clock", "mono")
        self.set("buffer_size_kb", "512")
        self.set("options/overwrite", "0")  # the first events are those that count
        self.set("options/event-fork", "1")  # only our children's: others may have guests, too
        self.set("set_event_pid", str(os.getpid()))
        self.set("events/syscalls/sys_enter_ioctl/filter", f"cmd == {KVM_RUN}")
        self.set("events/syscalls/sys_enter_ioctl/enable", "1")
        self.set("events/sched/sched_process_exec/enable", "1")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.set("events/enable", "0")
        self.set("set_event_pid", " ")
        os.rmdir(self.dir)

    def set(self, name, value):
        with open(os.path.join(self.dir, name), "w", encoding="ascii") as f:
            f.write(value)

    def begin(self):
        self.set("trace", "")
        self.set("tracing_on", "1")

    def end(self):
        self.set("tracing_on", "0")

    def entered(self, session):
        """Milliseconds from the exec of the session's leader to the first KVM_RUN of one of its threads, or None."""
        started = None
        with open(os.path.join(self.dir, "trace"), encoding="ascii", errors="replace") as f:
            for line in f:
                event = re.match(r"\s*.*-(\d+)\s+\[\d+\]\s+\S+\s+([\d.]+): (\w+)", line)
                if not event:
                    continue
                task, at, what = int(event[1]), float(event[2]), event[3]
                if what == "sched_process_exec" and task == session and started is None:
                    started = at
                elif what.startswith("sys_ioctl") and started is not None and session_of(task) == session:
                    return (at - started) * 1000
        return None


def session_of(task):
    try:
        with open(f"/proc/{task}/stat", encoding="ascii", errors="replace") as f:
            return int(f.read().rsplit(")", 1)[1].split()[3])
    except OSError:
        return None


def name_of(pid):
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as f:
            return f.read().strip()
    except OSError:
        return None


# --- memory -----------------------------------------------------------------------------------------------


KINDS = ("rss", "pss", "anonymous")


def areas(pid):
    """Memory areas, those that continue each other as one: {"name", "end", "size", "rss" ...} in KiB."""
    found = []
    with open(f"/proc/{pid}/smaps", encoding="utf-8", errors="replace") as f:
        for line in f:
            head = re.match(r"([0-9a-f]+)-([0-9a-f]+) (\S+) \S+ \S+ \S+\s*(.*)", line)
            if head:
                name, start, end = head[3] + head[4], int(head[1], 16), int(head[2], 16)
                if not (found and found[-1]["name"] == name and found[-1]["end"] == start):
                    found.append({"name": name, "size": 0} | dict.fromkeys(KINDS, 0))
                found[-1]["end"] = end
                found[-1]["size"] += (end - start) // 1024
            else:
                kind, _, value = line.partition(":")
                if kind.lower() in KINDS:
                    found[-1][kind.lower()] += int(value.split()[0])
    return found


def own_memory(session):
    """KiB by kind of all processes of a session besides guest RAM, which is the one area of that size."""
    total = dict.fromkeys(KINDS, 0)
    for pid in filter(str.isdigit, os.listdir("/proc")):
        if session_of(int(pid)) == session and name_of(pid) != "berth-switch":
            for area in areas(pid):
                for kind in KINDS if area["size"] < MEMORY_MIB * 1024 else ():
                    total[kind] += area[kind]
    return total


# --- measuring --------------------------------------------------------------------------------------------


class Vm:
    """One VMM in a session of its own, its serial line on a pipe."""

    def __init__(self, command):
        self.command = command
        self.start = time.monotonic()
        self.child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                      start_new_session=True)
        self.output = ""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.child.poll() is None:
            os.killpg(self.child.pid, signal.SIGKILL)
        self.child.stdin.close()
        self.child.stdout.close()
        self.child.wait()

    def fail(self, what):
        raise Failure(f"{' '.join(self.command)}: {what}; {self.output[-500:]!r}")

    def read_until(self, text):
        """Seconds since the start at which text was there; None for text waits for the end."""
        while text is None or text not in self.output:
            left = self.start + LIMIT - time.monotonic()
            ready = left > 0 and select.select([self.child.stdout], [], [], left)[0]
            data = os.read(self.child.stdout.fileno(), 65536) if ready else None
            if data is None:
                self.fail(f"no '{text}' within {LIMIT} s")
            if not data and text is not None:
                self.fail(f"ended without '{text}'")
            if not data:
                break
            self.output += data.decode(errors="replace")
        return time.monotonic() - self.start


def measure_start(trace, command):
    trace.begin()
    with Vm(command) as vm:
        deadline = time.monotonic() + 60
        took = None
        while took is None and time.monotonic() < deadline:
            time.sleep(0.02)
            took = trace.entered(vm.child.pid)
        trace.end()
        if took is None:
            vm.output += os.read(vm.child.stdout.fileno(), 4096).decode() if vm.child.poll() is not None else ""
            vm.fail("no guest was entered")
    return {"start_ms": took}


def measure_boot(command):
    with Vm(command) as vm:
        init = vm.read_until("INIT-REACHED")
        memory = own_memory(vm.child.pid)
        asked = time.monotonic()
        vm.child.stdin.write(b"\n")
        vm.child.stdin.flush()
        off = vm.read_until(None)
        return {"init_s": init, "off_s": off - (asked - vm.start - init),
                **{f"{kind}_mib": kib / 1024 for kind, kib in memory.items()}}


def measure(args, files, any_kvm):
    """Everything asked for, in turns: {vmm: {figure: [values]}}."""
    plan = []
    vmms = args.vmm.split(",")
    if args.only != "boot":
        guests = ["tiny"] if any_kvm else ["tiny", "cloud"]
        plan += [("start", guest) for _ in range(args.starts + 1) for guest in guests]
    if args.only != "start" and not any_kvm:
        plan += [("boot", "cloud")] * args.boots
    results = {vmm: {} for vmm in vmms}
    seen = set()
    with Trace() as trace:
        for turn, (what, guest) in enumerate(plan):
            for vmm in vmms if turn % 2 else reversed(vmms):
                command = command_of(vmm, files, what, guest, any_kvm)
                values = measure_start(trace, command) if what == "start" else measure_boot(command)
                say = " ".join(f"{k}={v:.2f}" for k, v in values.items())
                print(f"  {what} of {guest} by {vmm}: {say}", file=sys.stderr, flush=True)
                if what == "start" and (vmm, guest) not in seen:
                    seen.add((vmm, guest))  # the first one reads its programs from the disk
                    continue
                for figure, value in values.items():
                    results[vmm].setdefault(f"{guest}_{figure}", []).append(value)
    return results


# --- telling ----------------------------------------------------------------------------------------------

LABELS = {
    "tiny_start_ms": "tiny guest: exec to entry, ms", "cloud_start_ms": "Linux: exec to entry, ms",
    "cloud_init_s": "Linux: exec to init, s", "cloud_off_s": "Linux: exec to power-off, s",
    "cloud_rss_mib": "own memory, resident, MiB", "cloud_pss_mib": "own memory, PSS, MiB",
    "cloud_anonymous_mib": "own memory, anonymous, MiB",
}


def summary(results):
    """{figure: {vmm: median, ..., "ratio": {vmm: median of Berth / vmm in the same turn}}}."""
    out = {}
    for figure in LABELS:
        values = {vmm: r[figure] for vmm, r in results.items() if r.get(figure)}
        if values:
            out[figure] = {vmm: statistics.median(v) for vmm, v in values.items()}
        if "berth" in values:
            out[figure]["ratio"] = {vmm: statistics.median(b / o for b, o in zip(values["berth"], v))
                                    for vmm, v in values.items() if vmm != "berth"}
    return out


def show(where, figures):
    print(f"{where:32}" + "".join(f"{v:>10}" for v in VMMS) + "".join(f"{'/ ' + v:>10}" for v in VMMS[1:]))
    for figure, row in figures.items():
        cells = [f"{row[v]:10.2f}" if v in row else f"{'':10}" for v in VMMS]
        cells += [f"{row['ratio'][v]:10.3f}" if v in row.get("ratio", {}) else f"{'':10}" for v in VMMS[1:]]
        print(f"{LABELS[figure]:32}" + "".join(cells), flush=True)


# --- where ------------------------------------------------------------------------------------------------


def kvm_here(build):
    """ "real", "any" (opens, but runs no ordinary guests) or None."""
    info = subprocess.run([os.path.join(build, "berth"), "info", "--json"], check=True, capture_output=True, text=True)
    kvm = next(e for e in json.loads(info.stdout)["engines"] if e["name"] == "kvm")
    if kvm["usable"]:
        return "real"
    return "any" if kvm.get("reason") == "no-virtualization" and os.access("/dev/kvm", os.R_OK | os.W_OK) else None


def in_testbed(args, plan, only):
    """Short times on a clock that counts instructions, long ones on the host's."""
    clock = ["-i"] if only == "start" else []
    command = [os.path.join(TOP, "tools/testbed"), *clock, "-s", "1", "-m", "1280", "-t", str(args.limit),
               sys.executable, os.path.abspath(__file__), "--starts", str(args.starts), "--boots", str(args.boots),
               "--vmm", args.vmm, "--only", only, "--inside", plan]
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, errors="replace",
                             start_new_session=True)
    result = None
    try:
        for line in child.stdout:
            if RESULT in line:
                result = json.loads(line.split(RESULT, 1)[1])
            else:
                sys.stderr.write(line)
        child.wait()
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
    if child.returncode == 77:
        return None
    if result is None:
        raise Failure(f"the test-bed ended with status {child.returncode}")
    return result


def prepare(args, work):
    initrd = bench.initramfs(work, "light", INIT)
    disk = os.path.join(work, "disk.img")
    with open(disk, "wb") as f:
        f.truncate(64 << 20)
    kernel = args.kernel or subprocess.run([os.path.join(TOP, "tools/fetch-kernel")], check=True, capture_output=True,
                                           text=True).stdout.strip()
    tiny = os.path.join(args.build, "tests/machine/guest_boot.multiboot")
    return Files(args.build, args.engine, kernel, initrd, tiny, disk)


def run_outside(args):
    here = kvm_here(args.build)
    report = {}
    with tempfile.TemporaryDirectory(prefix="berth-bench.") as work:
        files = prepare(args, work)
        if here == "real":
            report["host"] = summary(measure(args, files, False))
        else:
            if here == "any" and args.only != "boot":
                report["native, tiny guest only"] = summary(measure(args, files, True))
            plan = os.path.join(work, "plan.json")
            with open(plan, "w", encoding="utf-8") as f:
                json.dump(vars(files), f)
            for only in ("start", "boot"):
                inside = None if args.native or args.only not in (None, only) else in_testbed(args, plan, only)
                if inside:
                    report["emulated host, " + only] = summary(inside)
    for where, figures in report.items():
        show(where, figures)
    if args.json:
        with open(args.json, "w", encoding="utf-8") as f:
            json.dump(report, f, indent=1)
    return 0 if report else 77


def run_inside(args):
    with open(args.inside, encoding="utf-8") as f:
        files = Files(**json.load(f))
    with tempfile.TemporaryDirectory() as work:  # the host's files are read-only here
        disk = os.path.join(work, "disk.img")
        with open(disk, "wb") as f:
            f.truncate(64 << 20)
        files.disk = disk
        print(RESULT, json.dumps(measure(args, files, False)), flush=True)
    return 0


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--build", default=os.path.join(TOP, "build"))
    p.add_argument("--starts", type=int, default=7, help="starts of each VMM and guest, besides a first one [7]")
    p.add_argument("--boots", type=int, default=3, help="boots of each VMM [3]")
    p.add_argument("--only", choices=("start", "boot"))
    p.add_argument("--vmm", default=",".join(VMMS), help="which [%(default)s]")
    p.add_argument("--engine", default="kvm", help="Berth's engine with its options, such as kvm,irqchip=user [kvm]")
    p.add_argument("--native", action="store_true", help="do not start the test-bed")
    p.add_argument("--limit", type=int, default=1800, help="seconds for the test-bed [1800]")
    p.add_argument("--kernel", help="a bzImage; Debian's cloud kernel otherwise")
    p.add_argument("--json", help="write the figures to this file")
    p.add_argument("--inside", help=argparse.SUPPRESS)
    args = p.parse_args()
    args.build = os.path.realpath(args.build)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # what was started is ended, too
    try:
        return run_inside(args) if args.inside else run_outside(args)
    except Failure as e:
        print(f"kvm.py: {e}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
