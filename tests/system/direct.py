#!/usr/bin/env python3
"""A VM whose program runs on the CPU itself is held, moved, stopped and given memory like any other.

    direct.py [--berth FILE] COMPUTE [CASE...]

COMPUTE is compute.c's program, linked statically.
"""
import argparse
import glob
import json
import os
import re
import subprocess
import sys
import tempfile
import time

import boot

WAIT = 120
MIB = 1 << 20
MODULES = ("virtio_ring", "virtio", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci", "virtio_balloon")


def until(what, true, seconds=WAIT):
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            raise boot.Failure(f"not within {seconds} s: {what}")
        time.sleep(0.2)


def children(pid):
    try:
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as f:
            return [int(child) for child in f.read().split()]
    except FileNotFoundError:
        return []


class Vm:
    """A running guest with a shell, in a folder of its own for sockets."""

    def __init__(self, opts, work, *more, memory=256):
        self.berth, self.work = opts.berth, work
        os.environ["XDG_RUNTIME_DIR"] = work
        kernel = boot.kernel("cloud")
        initrd = boot.initramfs_with(work, "direct", "cloud", *MODULES, more=[(opts.program, "bin/compute")])
        self.guest = boot.Guest(opts, "-n", "direct", "-m", str(memory), "--kernel", kernel, "--initrd", initrd, "--append",
                                boot.ARGS + " quiet", *more, timeout=opts.timeout,
                                command=[opts.berth, "run", "--engine", "translate,direct=on"])

    def __enter__(self):
        try:
            self.guest.expect("guest# ")
        except boot.Failure:
            if found := re.search("berth: (direct execution: .*)", self.guest.output):
                raise boot.Skip(found.group(1)) from None
            raise
        self.pid = self.ask("control", "direct", "info")["pid"]
        return self

    def __exit__(self, *_):
        self.guest.__exit__()

    def run(self, *args):
        done = subprocess.run([self.berth, *args], capture_output=True, text=True, timeout=WAIT, stdin=subprocess.DEVNULL)
        if done.returncode:
            raise boot.Failure(f"berth {' '.join(args)}: {done.stderr}")
        return done.stdout

    def ask(self, *args):
        return json.loads(self.run(*args))

    def start(self, mib=32):
        """Its program, of which each round is right."""
        self.guest.send(f"compute {mib} &\n")
        self.rounds(2)
        before = self.counter("direct_ticks")
        until("its program runs directly", lambda: self.rounds(1) or self.counter("direct_ticks") > before)

    def rounds(self, count):
        """Waits for so many more of them."""
        for _ in range(count):
            self.guest.expect("ROUND ")
        while self.guest.output[self.guest.seen:].count("ROUND "):
            self.guest.expect("ROUND ")
        if "WRONG" in self.guest.output:
            raise boot.Failure(re.search("WRONG.*", self.guest.output).group(0))

    def counter(self, name):
        return self.ask("control", "direct", "stats")["counters"][name]

    def cages(self):
        return [cage for nursery in children(self.pid) for cage in children(nursery)]

    def tasks(self, of):
        return [task for pid in of for task in glob.glob(f"/proc/{pid}/task/*")]

    def ran(self, of=None):
        """CPU seconds of the threads of all its processes, or of these."""
        total = 0
        for task in self.tasks(of or [self.pid] + self.cages()):
            with open(task + "/schedstat", encoding="ascii") as f:
                total += int(f.read().split()[0])
        return total / 1e9

    def resident(self):
        with open(f"/proc/{self.pid}/statm", encoding="ascii") as f:
            return int(f.read().split()[1]) * os.sysconf("SC_PAGESIZE")


# --- cases


def a_limit_holds_for_what_runs_directly(opts, work):
    with Vm(opts, work) as vm:
        vm.start()
        vm.run("limit", "direct", "--cpu", "30%")
        time.sleep(1)

        def holds():
            ran, began, direct = vm.ran(), time.monotonic(), vm.ran(vm.cages())
            time.sleep(4)
            took = time.monotonic() - began
            used, direct = (vm.ran() - ran) / took, (vm.ran(vm.cages()) - direct) / took
            print(f"# {used:.2f} CPUs, of which {direct:.2f} directly, with a limit of 0.3")
            return 0.03 < direct <= used < 0.36
        until("it runs directly, and no more than the limit says", holds)
        stats = vm.ask("control", "direct", "stats")
        if abs(stats["cpu_seconds"] - vm.ran()) > 1 + vm.ran() / 5:
            raise boot.Failure(f"it says {stats['cpu_seconds']} CPU seconds, and has used {vm.ran()}")
        vm.run("limit", "direct", "--cpu", "none")
        vm.rounds(2)


def cages_follow_their_vcpu_to_other_cpus(opts, work):
    mine = sorted(os.sched_getaffinity(0))
    with Vm(opts, work) as vm:
        vm.start()
        for cpu in (mine[0], mine[-1]):
            vm.run("limit", "direct", "--cpu-pin", str(cpu))

            def only_there():
                before = {task: int(open(task + "/schedstat", encoding="ascii").read().split()[0]) for task in vm.tasks(vm.cages())}
                vm.rounds(1)
                ran = [task for task in before if int(open(task + "/schedstat", encoding="ascii").read().split()[0]) > before[task]]
                return ran and all(os.sched_getaffinity(int(task.rsplit("/", 1)[1])) == {cpu} for task in ran)
            until(f"what runs of it runs on CPU {cpu}", only_there)


def a_pause_stops_it_and_it_goes_on_right(opts, work):
    with Vm(opts, work) as vm:
        vm.start()
        for _ in range(5):
            vm.run("pause", "direct")
            ran = vm.ran(vm.cages())
            time.sleep(0.5)
            if vm.ran(vm.cages()) != ran:
                raise boot.Failure("its program runs while it is paused")
            vm.run("resume", "direct")
            vm.rounds(2)


def a_reset_ends_it_and_the_next_one_is_right(opts, work):
    with Vm(opts, work) as vm:
        for _ in range(2):
            vm.start()
            vm.run("reset", "direct")
            vm.guest.expect("INIT-REACHED")
            vm.guest.expect("guest# ")
        vm.start()


def memory_comes_and_goes_beneath_it(opts, work):
    with Vm(opts, work, memory=512) as vm:
        vm.start(64)
        for _ in range(3):
            vm.guest.send("dd if=/dev/zero of=/x bs=1M count=150 2>/dev/null; echo WRITT''EN\n")
            vm.guest.expect("WRITTEN")
            full = vm.resident()
            vm.guest.send("rm /x\n")
            until("free memory goes back to the host", lambda: vm.resident() < full - 100 * MIB)
            vm.run("limit", "direct", "--memory", "256M")
            until("the balloon is full", lambda: vm.ask("control", "direct", "memory")["guest"] == 256 * MIB)
            vm.rounds(2)
            vm.run("limit", "direct", "--memory", "512M")
            until("the balloon is empty", lambda: vm.ask("control", "direct", "memory")["guest"] == 512 * MIB)
            vm.rounds(2)


def nothing_of_it_is_left(opts, work):
    for end in (lambda vm: os.kill(vm.pid, 9), lambda vm: vm.guest.send("poweroff -f\n")):
        with Vm(opts, work) as vm:
            vm.start()
            family = [vm.pid] + children(vm.pid) + vm.cages()
            if len(family) < 3:
                raise boot.Failure("it has no processes beside its own")
            end(vm)
            vm.guest.status()
            until("all its processes have ended", lambda: not any(os.path.exists(f"/proc/{pid}") for pid in family))


def what_speaks_against_it_is_said(opts, work):
    for option, word in (("--memory-merge", "merged"), ("--memory-huge", "huge")):
        done = subprocess.run([opts.berth, "run", "--engine", "translate,direct=on", option, "--kernel", boot.kernel("cloud")],
                              capture_output=True, text=True, timeout=WAIT, stdin=subprocess.DEVNULL)
        if done.returncode != 3 or "direct execution: " not in done.stderr or word not in done.stderr:
            raise boot.Failure(f"status {done.returncode}: {done.stderr}")


CASES = [a_limit_holds_for_what_runs_directly, cages_follow_their_vcpu_to_other_cpus, a_pause_stops_it_and_it_goes_on_right,
         a_reset_ends_it_and_the_next_one_is_right, memory_comes_and_goes_beneath_it, nothing_of_it_is_left,
         what_speaks_against_it_is_said]


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--berth", default=os.path.join(boot.TOP, "build/berth"))
    p.add_argument("--timeout", type=int, default=300)
    p.add_argument("program")
    p.add_argument("case", nargs="*")
    opts = p.parse_args()
    opts.berth = os.path.abspath(opts.berth)
    cases = [case for case in CASES if case.__name__ in opts.case or not opts.case]
    wrong = 0
    try:
        boot.kernel("cloud")
    except boot.Skip as skip:
        print(f"1..0 # SKIP {skip}")
        return 77
    print(f"1..{len(cases)}")
    for number, case in enumerate(cases, 1):
        with tempfile.TemporaryDirectory(prefix="berth-direct.") as work:
            try:
                case(opts, work)
                print(f"ok {number} - {case.__name__}", flush=True)
            except boot.Skip as why:
                print(f"ok {number} - {case.__name__} # SKIP {why}", flush=True)
            except (boot.Failure, subprocess.SubprocessError, OSError) as failure:
                wrong += 1
                print("\n".join(f"# {line}" for line in str(failure).splitlines()[-20:]))
                print(f"not ok {number} - {case.__name__}", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
