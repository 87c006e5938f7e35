#!/usr/bin/env python3
"""Tests of the KVM engine on a real KVM: many in one run of tools/testbed, whose start takes longest.

    kvm.py [--limit SECONDS] BUILD [TEST...]
    kvm.py --list BUILD

What fails is tried once more, at the end, in a new emulated machine: a host that was busy is no failure.
Of a test guest (machine_*) every property must hold that holds when QEMU runs the same guest by itself: where the
emulated CPU is at fault, KVM cannot do better. Those are told as skipped. A program with status 77 is skipped.
Output is TAP, as the tests end. Exit status: 0 all passed, 1 some failed, 77 there is no test-bed.
"""
import argparse
import fcntl
import json
import os
import re
import select
import signal
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
BEGIN, END, ALIVE = "@@begin", "@@end", "@@alive"
TEST_LIMIT = 400  # seconds; the host may be busy
BOOT_LIMIT = 300  # of the test-bed
BOOTS_IN_VAIN = 3
ALIVE_EVERY = 15
SILENCE = 120
KVM_CREATE_VM, KVM_CREATE_VCPU, KVM_CREATE_IRQCHIP = 0xAE01, 0xAE41, 0xAE60
# name: options of run-guest.py besides the guest's file
GUESTS = {
    "boot": ["--append", "hello"], "clocks": [], "debug": [], "devices": [], "exceptions": [], "fpu": [],
    "hostile": ["--disk", "2"], "hpet": [], "ioapic": [], "ipi": ["--cpus", "4"], "lapic": [], "litmus": ["--cpus", "4"], "paging": [],
    "paravirt": ["--cpus", "2"], "pci": [], "pic": [], "poweroff": ["--end", "poweroff"], "random_code": [], "rtc": [],
    "smc": [], "smp": ["--cpus", "2"], "stress": [], "strings": [], "task": [], "uart": [], "user": [], "v86": [],
    "vga": ["--vga", "std"], "virtio_blk": ["--disk", "2"],
}
# QEMU before 8.1 may run code as it was before another CPU changed it: seldom by itself, often where TLBs are flushed
# as much as here.
SOMETIMES_QEMUS = {"code_patched_by_another_processor_is_never_stale"}
OTHER_GUESTS = {"reset", "moved", "signals"}  # run by tests of their own
RESETS = ("cf9", "fast", "keyboard", "triple")
BOOTS = ("cloud_bzimage", "cloud_pvh", "two_cpus", "clock", "reboot", "disk", "console")
# Where the interrupt controllers are, besides in the kernel; what has to do with them runs with each.
CHIPS = ("split", "user")
OF_INTERRUPTS = ("clocks", "hpet", "ioapic", "ipi", "lapic", "pic", "smp", "virtio_blk")


def guest_command(build, name, options, under):
    return [sys.executable, os.path.join(TOP, "tests/machine/run-guest.py"), *under, *options,
            os.path.join(build, "tests/machine", f"guest_{name}.multiboot")]


def machine_tests(build, under, guests=tuple(GUESTS), ways=RESETS):
    """name: command, for every test guest."""
    tests = {"machine_" + n: guest_command(build, n, GUESTS[n], under) for n in guests}
    for way in ways:
        tests["machine_reset_" + way] = guest_command(build, "reset", ["--append", way, "--end", "reset"], under)
    return tests


def guests_left_out(build):
    """Guests that were built and that nothing here runs."""
    there = re.findall(r"guest_(\w+)\.multiboot", "\n".join(os.listdir(os.path.join(build, "tests/machine"))))
    return set(there) - set(GUESTS) - OTHER_GUESTS


def boot_command(berth, engine, case):
    return [sys.executable, os.path.join(HERE, "boot.py"), "--berth", berth, "--engine", engine, "--append", "quiet",
            "--timeout", "370", case]


def all_tests(build):
    berth = os.path.join(build, "berth")
    guest = os.path.join(build, "tests/machine/guest_moved.multiboot")
    move = [os.path.join(build, "tests/machine/move_test"), guest]
    tests = {
        "engine": [os.path.join(build, "tests/unit/test_engine_kvm")],
        "run": [os.path.join(build, "tests/unit/test_engine_kvm_run")],
        "debug": [os.path.join(build, "tests/unit/test_engine_kvm_debug")],
        "chips": [os.path.join(build, "tests/unit/test_engine_kvm_chips")],
        "cpu": [os.path.join(build, "tests/cpu/oracle"), "--engine", "kvm", "--count", "1", "--integer", "--qemu"],
        "choice": [sys.executable, os.path.join(HERE, "engines.py"), berth, berth + "-vmm",
                   os.path.join(build, "tests/machine/guest_boot.multiboot"),
                   os.path.join(build, "tests/system/fake_kvm.so")],
        "signals": [os.path.join(build, "tests/machine/signal_test"),
                    os.path.join(build, "tests/machine/guest_signals.multiboot"),
                    "kvm", "kvm,irqchip=split", "kvm,irqchip=user"],
        "move": move + ["translate", "kvm", "translate", "kvm"],
        "move_chips": move + ["kvm,irqchip=split", "kvm,irqchip=kernel", "translate", "kvm,irqchip=user", "kvm"],
    }
    tests |= {"boot_" + case: boot_command(berth, "kvm", case) for case in BOOTS}
    on_kvm = ["--berth", berth, "--timeout", "200", "--engine"]
    tests |= machine_tests(build, on_kvm + ["kvm"])
    for chips in CHIPS:
        engine = f"kvm,irqchip={chips}"
        tests |= {f"boot_{case}_{chips}": boot_command(berth, engine, case) for case in ("cloud_pvh", "two_cpus")}
        some = machine_tests(build, on_kvm + [engine], OF_INTERRUPTS, ())
        tests |= {f"{name}_{chips}": command for name, command in some.items()}
    return tests


# --- inside the test-bed ----------------------------------------------------------------------------------


def run_one(command):
    """(output, status) of a command; says from time to time that this machine still stands."""
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                             start_new_session=True)
    deadline = time.monotonic() + TEST_LIMIT
    while time.monotonic() < deadline:
        try:
            output, _ = child.communicate(timeout=ALIVE_EVERY)
            return output, child.returncode
        except subprocess.TimeoutExpired:
            print(ALIVE, flush=True)
    os.killpg(child.pid, signal.SIGKILL)
    output, _ = child.communicate()
    return output, "timeout"


def hold_kvm():
    """Has a VM with KVM's interrupt controllers, and one without, for as long as this process lives. When the first one
    comes or the last one goes, KVM changes the kernel's code, the scheduler's too; QEMU before 8.1 may go on with the
    old code when another CPU runs into it just then, and the L1 stands still."""
    kvm = os.open("/dev/kvm", os.O_RDWR)
    for chips in (True, False):
        vm = fcntl.ioctl(kvm, KVM_CREATE_VM, 0)
        if chips:
            fcntl.ioctl(vm, KVM_CREATE_IRQCHIP, 0)
        fcntl.ioctl(vm, KVM_CREATE_VCPU, 0)


def run_inside(plan):
    """Runs each command of the plan; its output and status go to standard output, between marks."""
    hold_kvm()
    with open(plan, encoding="utf-8") as f:
        tests = json.load(f)
    for name, command in tests.items():
        print(f"{BEGIN} {name}", flush=True)
        start = time.monotonic()
        output, status = run_one(command)
        sys.stdout.write(output.decode(errors="replace").rstrip("\n") + "\n")
        print(f"{END} {name} {status} {time.monotonic() - start:.1f}", flush=True)
    return 0


# --- outside ----------------------------------------------------------------------------------------------


def say(text):
    """To standard output, which Meson keeps until the end, and to a file that tools/run-tests follows."""
    print(text, flush=True)
    if "BERTH_TEST_PROGRESS" in os.environ:
        with open(os.environ["BERTH_TEST_PROGRESS"], "a", encoding="utf-8") as f:
            f.write(text + "\n")


def properties(output):
    """What a guest said of each property: True, False or None (skipped). Those it did not come to are not there."""
    found = {}
    for bad, name, rest in re.findall(r"^(not )?ok \d+ - (\S+)(.*)$", output, re.M):
        found[name] = None if "# SKIP" in rest else not bad
    return found


class OnQemu:
    """What QEMU itself makes of test guests: looked at only for those that fail under KVM."""

    def __init__(self, build):
        self.commands = machine_tests(build, ["--qemu", "--cpu", "EPYC", "--timeout", "60"])
        self.results = {}

    def result(self, name):
        """(properties that hold, whether the guest ended well)."""
        guest, _, chips = name.rpartition("_")
        if name not in self.commands and chips in CHIPS:  # wherever KVM's interrupt controllers are
            name = guest
        if name not in self.commands:
            return {}, True
        if name not in self.results:
            run = subprocess.run(self.commands[name], capture_output=True, text=True, timeout=400,
                                 stdin=subprocess.DEVNULL, errors="replace")
            self.results[name] = (properties(run.stdout), run.returncode == 0)
        return self.results[name]


def judge(name, output, status, qemu):
    """(verdict, why): "ok", "not ok" or "skip"."""
    if status == "0":
        return "ok", ""
    if status == "77":
        skip = re.search(r"# SKIP (.*)", output)
        return "skip", skip.group(1).strip() if skip else "nothing could be tried"
    here, (there, well) = properties(output), qemu.result(name)
    wrong = {p for p, good in here.items() if good is False}
    missing = {p for p, good in there.items() if good} - set(here)
    excused = {p for p, good in there.items() if good is False} | SOMETIMES_QEMUS & wrong
    if (not well or SOMETIMES_QEMUS & wrong) and not missing and wrong <= excused and status == "1":
        return "skip", f"QEMU's CPU fails {', '.join(sorted(excused)) or 'to end this guest'}; the rest holds"
    return "not ok", f"status {status}"


class Report:
    def __init__(self, tests):
        self.left = list(tests)
        self.again = []  # failed once
        self.count = len(tests)
        self.failed = self.told = 0
        say(f"1..{self.count}")

    def tell(self, name, verdict, why, seconds="", output=""):
        self.told += 1
        if verdict == "not ok" and name not in self.again:
            self.again.append(name)
            say(f"# kvm_{name}: {why} after {seconds} s; it is tried once more at the end")
            self.show(output)
            self.left.remove(name)
            self.left.append(name)
            return
        self.end(name, verdict, why, seconds, output)

    def end(self, name, verdict, why, seconds="", output=""):
        self.left.remove(name)
        number = self.count - len(self.left)
        self.failed += verdict == "not ok"
        skip = f" # SKIP {why}" if verdict == "skip" else f" # {seconds} s {why}".rstrip()
        say(f"{'not ok' if verdict == 'not ok' else 'ok'} {number} - kvm_{name}{skip}")
        if verdict == "not ok":
            self.show(output)

    @staticmethod
    def show(output):
        lines = output.splitlines()
        lines = [line for n, line in enumerate(lines) if not line.startswith("ok ") or n == len(lines) - 1]
        say("\n".join("#   " + line for line in lines[-30:]))


class TestBed:
    """One run of the test-bed over some tests, told to the report as they end."""

    def __init__(self, build, tests, limit):
        plan = os.path.join(build, "testbed-plan.json")
        with open(plan, "w", encoding="utf-8") as f:
            json.dump(tests, f)
        self.child = subprocess.Popen(
            [os.path.join(TOP, "tools/testbed"), "-s", "2", "-m", "1536", "-t", str(int(limit)), sys.executable,
             os.path.abspath(__file__), "--inside", plan],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
        self.running = None
        self.other = []  # lines that belong to no test
        self.text = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.child.poll() is None:
            os.killpg(self.child.pid, signal.SIGKILL)
            self.child.wait()

    def lines(self):
        """Lines as they come; ends with the output, or when the emulated machine has shown no sign of life: what its
        kernel complains of is none."""
        deadline = time.monotonic() + BOOT_LIMIT
        while select.select([self.child.stdout], [], [], max(0, deadline - time.monotonic()))[0]:
            data = os.read(self.child.stdout.fileno(), 65536)
            if not data:
                return
            *whole, self.text = (self.text + data).split(b"\n")
            if any(mark.encode() in line for line in whole for mark in (BEGIN, END, ALIVE)):
                deadline = time.monotonic() + SILENCE
            yield from (line.decode(errors="replace").rstrip("\r") for line in whole)
        self.other.append("nothing happened for too long")

    def qemus_mistake(self):
        """The assertion in QEMU itself that ended it; guests of its AMD-V come to some. None: it was something else."""
        found = re.search(r"ERROR:(\S+: assertion failed: .*)", "\n".join(self.other))
        return found and found[1].strip()

    def follow(self, report, qemu):
        """Returns the test-bed's exit status; self.running is the test that it did not survive."""
        output = []
        for line in self.lines():
            begin, end = line.find(BEGIN + " "), line.find(END + " ")
            if begin >= 0:
                self.running, output = line[begin:].split()[1], []
            elif end >= 0 and self.running:
                status, seconds = line[end:].split()[2:4]
                report.tell(self.running, *judge(self.running, "\n".join(output), status, qemu), seconds,
                            "\n".join(output))
                self.running, output = None, []
            elif ALIVE not in line:
                (output if self.running else self.other).append(line)
        self.other += output
        if self.child.poll() is None:
            os.killpg(self.child.pid, signal.SIGKILL)
        return self.child.wait()


def run_in_testbeds(build, report, tests, deadline):
    """Until nothing is left, or time. False: there is no test-bed. It sometimes dies or stands still: then what is
    left goes into a new one, what ran then once more."""
    qemu, vain = OnQemu(build), 0
    while report.left and time.monotonic() < deadline:
        names = [n for n in report.left if n not in report.again] or list(report.left)
        before = report.told
        say(f"# {len(names)} tests go into an emulated machine, which boots first")
        with TestBed(build, {n: tests[n] for n in names}, deadline - time.monotonic()) as bed:
            status = bed.follow(report, qemu)
        if status == 77 and len(report.left) == report.count:
            for name in list(report.left):
                report.tell(name, "skip", bed.other[-1] if bed.other else "there is no test-bed")
            return False
        vain = 0 if bed.running or report.told > before else vain + 1
        if bed.running or vain:
            say(f"# the test-bed ended with status {status}")
        if bed.running or vain == BOOTS_IN_VAIN:
            mistake = bed.qemus_mistake()
            report.tell(bed.running or names[0], "skip" if mistake else "not ok",
                        f"QEMU gave up: {mistake}" if mistake else "the test-bed did not survive it", "",
                        "\n".join(bed.other))
    return True


def run_outside(args):
    build = os.path.realpath(args.build)
    tests = all_tests(build)
    if guests_left_out(build):
        sys.exit(f"kvm.py: GUESTS lacks {', '.join(guests_left_out(build))}")
    unknown = [t for t in args.tests if t not in tests]
    if unknown:
        sys.exit(f"kvm.py: there is no test {unknown[0]}; --list shows them")
    tests = {n: c for n, c in tests.items() if not args.tests or n in args.tests}
    if args.list:
        print("\n".join(tests))
        return 0
    deadline = time.monotonic() + args.limit
    for flavour in ("cloud", "generic"):  # the test-bed has no network
        subprocess.run([os.path.join(TOP, "tools/fetch-kernel"), flavour], capture_output=True)
    report = Report(tests)
    if not run_in_testbeds(build, report, tests, deadline):
        return 77
    for name in list(report.left):
        report.end(name, "not ok", f"not begun or not finished within {args.limit} s")
    return 1 if report.failed else 0


def main():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the test-bed ends, too
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--limit", type=int, default=7000, help="seconds for the whole [7000]")
    p.add_argument("--list", action="store_true")
    p.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    p.add_argument("build")
    p.add_argument("tests", nargs="*", metavar="TEST")
    args = p.parse_args()
    return run_inside(args.build) if args.inside else run_outside(args)


if __name__ == "__main__":
    sys.exit(main())
