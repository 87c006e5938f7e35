#!/usr/bin/env python3
"""Runs stress-ng's stressors, verified, in a Debian kernel with four vCPUs: none may compute anything wrong.

    stress_ng.py [--berth FILE] [--seconds N] [--cpus N] [--class LIST] [--log FILE] [STRESSOR...]

Every stressor runs once with as many instances as there are vCPUs, but for those of INSTANCES; they share --seconds. Reported as
TAP. Whatever cannot run in this kernel, or runs out of its memory, is skipped with stress-ng's word for it; a wrong result, a
crash, a guest that ends or a stressor that does not is a failure. Progress goes to standard error. Exit status: 0 none, 1 some,
77 nothing could run.
"""
import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile

import boot

# These take the machine itself away, or need somebody at the other end.
EXCLUDED = {"watchdog", "reboot", "sysinval", "softlockup", "smi", "oom-pipe", "bad-altstack"}
# Four tasks with deadlines are more than Linux admits; loop devices are a module; a block of its own for each byte of 384
# pages takes a translator minutes before the time is looked at.
EXCLUDED |= {"cyclic", "loop", "far-branch"}
EXCLUDED |= {"io-uring"}  # asks Debian's kernel for what it refuses, under any hypervisor
OPTIONS = {"iomix": "--iomix-bytes 16M"}  # a file of 1 GiB is not laid out before the end
# What is no wrong result though the stressor calls it one: its reader and its writer end by themselves, and the one that is
# held up then may find that the other has closed the socket with something left in it.
EXPECTED = {"sockpair": "write failed, errno=104"}
INSTANCES = {"physpage": 1}  # several take each other's MTRRs away, by the number of the register
SKIPPED = {3: "no resources", 4: "not implemented", 6: "ended early", 7: "its figures are not trustworthy"}
INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin HOME=/tmp TMPDIR=/tmp
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/shm /dev/mqueue /dev/pts
mount -t tmpfs tmp /tmp
mount -t tmpfs shm /dev/shm
mount -t devpts pts /dev/pts
mount -t mqueue mqueue /dev/mqueue
ip link set lo up
cd /tmp
echo 3 > /proc/sys/kernel/printk
echo READY
while read name seconds instances options; do
    echo "BEGIN $name"
    timeout -s KILL $((seconds + 200)) stress-ng --$name $instances --verify --metrics-brief --timeout $seconds $options --temp-path /tmp --oomable < /dev/null 2>&1
    echo "END $name $?"
    rm -rf /tmp/* /dev/shm/*
done
poweroff -f
"""


def ask(pattern, *args):
    run = subprocess.run(["stress-ng", *args], capture_output=True, text=True)
    found = re.search(pattern, run.stdout + run.stderr)
    if not found:
        sys.exit(f"stress_ng: stress-ng {' '.join(args)}: {run.stderr.strip()}")
    return found[1].split()


def stressors(classes):
    names = []
    for name in classes.split(",") if classes else ask(r"classes: (.*)", "--class", "none"):
        names += [n for n in ask(r"stressors: (.*)", "--class", name + "?") if n not in names and n not in EXCLUDED]
    return names


def libraries(program):
    text = subprocess.run(["ldd", program], capture_output=True, text=True).stdout
    return [(path, path.lstrip("/")) for path in re.findall(r"(/\S+)", text)]


class Run:
    """A guest that does as it is told, and is started again when it has ended."""

    def __init__(self, opts, work):
        self.opts, self.guest = opts, None
        program = shutil.which("stress-ng")
        self.initrd = boot.initramfs(work, INIT, files=[(program, "bin/stress-ng")] + libraries(program))

    def start(self):
        self.guest = boot.Guest(self.opts, "-c", str(self.opts.cpus), "-m", "1536", "--kernel", boot.kernel("cloud"),
                                "--initrd", self.initrd, "--append", boot.ARGS + " loglevel=3", timeout=300)
        self.guest.expect("READY")

    def end(self):
        if self.guest:
            self.guest.__exit__()
        self.guest = None

    def one(self, name, seconds):
        """(status, what it said)"""
        if not self.guest:
            self.start()
        self.guest.deadline = boot.time.monotonic() + seconds + 400
        begin = len(self.guest.output)
        self.guest.send(f"{name} {seconds} {INSTANCES.get(name, self.opts.cpus)} {OPTIONS.get(name, '')}\n")
        try:
            self.guest.expect(f"END {name} ")
            self.guest.expect("\n")
        except boot.Failure as failure:
            said = self.guest.output[begin:]
            self.end()
            return None, f"{said}\n{failure}"
        said = self.guest.output[begin:self.guest.seen]
        return int(re.search(rf"END {re.escape(name)} (\d+)", said)[1]), said


def failures(name, said):
    expected = EXPECTED.get(name)
    return [line for line in said.splitlines() if "fail: " in line and not (expected and expected in line)]


def judge(name, status, said):
    """'ok', a reason to skip, or None for a failure."""
    if "disabled '" in said:
        return "may take the machine away"
    if status == 0 or status in SKIPPED:
        return None if failures(name, said) and not status else SKIPPED.get(status, "ok")
    return None


def operations(said):
    """How many of its operations the stressor counts: all of them verified that can be."""
    return sum(int(n) for n in re.findall(r"metrc: \[\d+\] [a-z]\S*\s+(\d+)\s+\d", said))


class Progress:
    def __init__(self, names):
        self.names, self.done, self.failed, self.skipped, self.operations, self.guest_seconds = names, 0, 0, 0, 0, 0
        self.start = boot.time.monotonic()

    def count(self, name, seconds, verdict, said):
        self.done += 1
        self.failed += verdict is None
        self.skipped += verdict not in ("ok", None)
        self.operations += operations(said)
        self.guest_seconds += seconds
        passed = int(boot.time.monotonic() - self.start)
        print(f"{passed // 60}:{passed % 60:02} {self.done} of {len(self.names)}: {name}; {self.words()}", file=sys.stderr, flush=True)

    def words(self):
        return f"{self.operations} operations, {self.skipped} skipped, {self.failed} failed"

    def ran(self):
        return self.done - self.skipped - self.failed


def end_on_signals():
    """So that the guest is ended, too."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--berth", default=os.path.join(boot.TOP, "build/berth"))
    p.add_argument("--engine", default="translate")
    p.add_argument("--debug", default="")
    p.add_argument("--seconds", type=int, default=3600)
    p.add_argument("--cpus", type=int, default=4)
    p.add_argument("--class", dest="classes", help="of stress-ng; all without it")
    p.add_argument("--log", help="file for all that stress-ng says")
    p.add_argument("names", nargs="*")
    opts = p.parse_args()
    if not shutil.which("stress-ng"):
        print("1..0 # SKIP stress-ng is not installed")
        return 77
    names = opts.names or stressors(opts.classes)
    each = max(3, opts.seconds // len(names))  # less, and slow hosts see nothing happen
    log = open(opts.log or os.devnull, "a", buffering=1)
    progress = Progress(names)
    end_on_signals()
    print(f"1..{len(names)}")
    with tempfile.TemporaryDirectory(prefix="berth-stress-") as work:
        run = None
        try:
            run = Run(opts, work)
            for number, name in enumerate(names, 1):
                began = boot.time.monotonic()
                status, said = run.one(name, each)
                log.write(said)
                verdict = judge(name, status, said)
                progress.count(name, boot.time.monotonic() - began, verdict, said)
                skip = f" # SKIP {verdict}" if verdict not in ("ok", None) else ""
                print(f"{'not ok' if verdict is None else 'ok'} {number} - {name}{skip}", flush=True)
                if verdict is None:
                    print("".join(f"# {line}\n" for line in said.splitlines()[-12:]), flush=True)
            print(f"# {progress.guest_seconds / 60:.0f} minutes of stressors: {progress.words()}")
        except boot.Skip as skip:
            print(f"Bail out! # SKIP {skip}")
            return 77
        finally:
            if run:
                run.end()
    return 1 if progress.failed else 0 if progress.ran() else 77


if __name__ == "__main__":
    sys.exit(main())
