#!/usr/bin/env python3
"""Runs one test guest and judges what it reports.

usage: run-guest.py [OPTION...] GUEST

  --berth PROGRAM     run it under this berth
  --qemu              run it under QEMU's translator instead: checks the guest itself
  --engine NAME, --debug LIST, --cpus N, --append TEXT, --cpu MODEL, --vga KIND   handed on
  --needs-virtualization  skip it on a KVM without the CPU's virtualization
  --disk MIB          give it a disk of so many MiB; sector n begins with n as a 64-bit number
  --end HOW           how the machine must end: exit (the guest's own status), reset or poweroff
  --timeout SECONDS   (240)

A guest reports in TAP on its serial port and ends with status 1 (debug exit of 0). One that brings
the machine down says "# expect: HOW" last. Exit status: 0 passed, 1 failed, 77 nothing could be tried.
"""
import argparse
import os
import re
import signal
import struct
import subprocess
import sys
import tempfile

SKIPPED = 77


def arguments():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("--berth")
    parser.add_argument("--qemu", action="store_true")
    parser.add_argument("--engine", default="translate")
    parser.add_argument("--debug")
    parser.add_argument("--cpu")
    parser.add_argument("--cpus", default="1")
    parser.add_argument("--append", default="")
    parser.add_argument("--vga")
    parser.add_argument("--disk", type=int)
    parser.add_argument("--needs-virtualization", action="store_true")
    parser.add_argument("--end", default="exit", choices=["exit", "reset", "poweroff"])
    parser.add_argument("--timeout", type=float, default=240)
    parser.add_argument("guest")
    return parser.parse_args()


def make_disk(mib):
    image = tempfile.NamedTemporaryFile(prefix="berth-guest-disk-")
    for sector in range(mib * 2048):
        image.write(struct.pack("<Q", sector).ljust(512, b"\0"))
    image.flush()
    return image


def qemu_command(args, disk):
    command = ["qemu-system-x86_64", "-accel", "tcg", "-M", "q35", "-m", "128", "-cpu", args.cpu or "max",
               "-smp", args.cpus, "-kernel", args.guest, "-append", args.append, "-display", "none",
               "-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-device", "pvpanic",
               "-serial", "stdio", "-monitor", "none", "-no-reboot"]
    if disk:
        command += ["-drive", f"file={disk.name},format=raw,if=none,id=d",
                    "-device", "virtio-blk-pci,drive=d,disable-legacy=on"]
    return command


def berth_command(args, disk):
    """Under KVM guests are told so by the option "kvm": some of what they find there is Linux's doing."""
    append = args.append + " kvm" if args.engine == "kvm" else args.append
    command = [args.berth, "run", "--engine", args.engine, "-m", "128", "-c", args.cpus, "--exit-device",
               "--no-reboot", "--serial", "stdio", "--kernel", args.guest, "--append", append]
    for option, value in (("--debug", args.debug), ("--cpu", args.cpu), ("--vga", args.vga), ("--disk", disk and disk.name)):
        if value:
            command += [option, value]
    return command


def run(command, timeout):
    """The guest's output, Berth's own words after it, and the exit status: None when it was stopped."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, start_new_session=True)
    status = None
    try:
        output, words = process.communicate(timeout=timeout)
        status = process.returncode
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, words = process.communicate()
    comments = "".join(f"# {line}\n" for line in words.decode(errors="replace").splitlines())
    return output.decode(errors="replace") + comments, status


def judge(args, output, status):
    """The reason for a failure, or None."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    if status is None:
        return f"it did not end within {args.timeout:g} s"
    if any(line.startswith("not ok") for line in lines):
        return "a test failed"
    plan = re.search(r"^1\.\.(\d+)\s*$", output, re.M)
    if not plan:
        return "it reported nothing"
    if args.end != "exit":
        good = any(line == f"# expect: {args.end}" for line in lines)
        return None if good and status in ((0,) if args.end == "poweroff" else (0, 1)) else \
            f"it did not end by {args.end} (status {status})"
    done = len(re.findall(r"^ok \d+", output, re.M))
    if done != int(plan.group(1)):
        return f"{done} of {plan.group(1)} tests were run (status {status})"
    return None if status == 1 else f"it ended with status {status}"


def cpu_virtualizes():
    with open("/proc/cpuinfo") as cpuinfo:
        return re.search(r"^flags.*\b(vmx|svm)\b", cpuinfo.read(), re.M) is not None


def main():
    args = arguments()
    if args.needs_virtualization and not cpu_virtualizes():
        print("1..0 # SKIP the CPU shows neither VT-x nor AMD-V")
        return SKIPPED
    disk = make_disk(args.disk) if args.disk else None
    command = qemu_command(args, disk) if args.qemu else berth_command(args, disk)
    output, status = run(command, args.timeout)
    sys.stdout.write(output)
    if status is not None and "cannot be used" in output:
        return SKIPPED
    reason = judge(args, output, status)
    if reason:
        print(f"# failed: {reason}\n# command: {' '.join(command)}")
        return 1
    oks = re.findall(r"^ok .*$", output, re.M)
    return SKIPPED if oks and all("# SKIP" in line for line in oks) else 0


if __name__ == "__main__":
    sys.exit(main())
