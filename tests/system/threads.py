#!/usr/bin/env python3
"""Threads that compute on four vCPUs, and what they do to one another's memory and code meanwhile.

    threads.py [--berth FILE] [--engine ENGINE] [--cpus N] [--seconds N] THREADS [CASE...]

THREADS is threads.c's program, linked statically; each of its cases runs for --seconds in Debian's cloud kernel.
"""
import argparse
import os
import re
import sys
import tempfile

import boot

INIT = """#!/bin/busybox sh
/bin/busybox mount -t proc p /proc
/bin/busybox mount -t devtmpfs d /dev
/bin/threads %s
/bin/busybox echo THREADS-END
/bin/busybox poweroff -f
"""
CASES = ["mutex", "locked", "remap", "protect", "fork", "empty", "code", "own", "turns"]


def outcome(guest, case):
    """Of one case, which says itself how it went."""
    try:
        guest.expect(f" {case} ")
        guest.expect("\n")
    except boot.Failure as failure:
        return False, str(failure)
    line = guest.output[:guest.seen].splitlines()[-1]
    return bool(re.search(rf"PASS {case} \d", line)), line


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--berth", default=os.path.join(boot.TOP, "build/berth"))
    p.add_argument("--engine", default="translate")
    p.add_argument("--cpus", type=int, default=4)
    p.add_argument("--seconds", type=int, default=2)
    p.add_argument("program")
    p.add_argument("case", nargs="*")
    opts = p.parse_args()
    cases = [c for c in CASES if c in opts.case or not opts.case]
    wrong = 0
    with tempfile.TemporaryDirectory(prefix="berth-threads.") as work:
        try:
            kernel = boot.kernel("cloud")
        except boot.Skip as skip:
            print(f"1..0 # SKIP {skip}")
            return 77
        print(f"1..{len(cases)}")
        initrd = boot.initramfs(work, INIT % " ".join([str(opts.seconds)] + cases), "threads", [(opts.program, "bin/threads")])
        command = [opts.berth, "run", "-m", "256", "--cpus", str(opts.cpus), "--engine", opts.engine, "--net", "none", "--kernel", kernel,
                   "--initrd", initrd, "--append", boot.ARGS + " quiet"]
        with boot.Guest(opts, command=command, timeout=300 + 20 * opts.seconds * len(cases)) as guest:
            for number, case in enumerate(cases, 1):
                good, line = outcome(guest, case)
                wrong += not good
                print(("" if good else "not ") + f"ok {number} - {case}" + (f" # {line}" if good else f"\n# {line}"), flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
