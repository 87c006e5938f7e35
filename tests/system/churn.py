#!/usr/bin/env python3
"""Ever new code in a guest whose cache of translations is small: results stay right, and memory stays within the cache's bound.

    churn.py [--berth FILE] [--rounds N] CHURN

CHURN is churn.c's program, linked statically. bench/churn.py times what happens here.
"""
import argparse
import os
import re
import subprocess
import sys
import tempfile

import boot

INIT = """#!/bin/busybox sh
/bin/busybox mount -t proc p /proc
/bin/busybox mount -t devtmpfs d /dev
/bin/churn %d
/bin/busybox echo CHURNED
/bin/busybox sleep 600
"""
CACHE_MIB = 4
WARM = 4      # rounds after which the guest's own memory has been touched, and the cache was full once
GROWTH_MIB = 3  # of what else a process does meanwhile; a cache that were not reused takes more than this each round


class Churn:
    """A guest that runs churn: the rounds as they end, and what its process takes meanwhile. All of it is translated, unless direct."""

    def __init__(self, opts, work, program, rounds, cache_mib, direct="off"):
        self.berth, self.name = opts.berth, f"churn-{os.getpid()}"
        initrd = boot.initramfs(work, INIT % rounds, "churn", [(program, "bin/churn")])
        command = [opts.berth, "run", "-n", self.name, "-m", "256", "--engine", f"translate,direct={direct},code-cache={cache_mib}M", "--net", "none",
                   "--kernel", boot.kernel("cloud"), "--initrd", initrd, "--append", boot.ARGS + " quiet"]
        self.guest = boot.Guest(opts, command=command, timeout=900)
        self.count = rounds

    def rounds(self):
        """(seconds of the VM's CPU time so far, resident KiB) after each; raises Failure for a wrong result."""
        for number in range(1, self.count + 1):
            self.guest.expect(f"ROUND {number} ")
            self.guest.expect("\n")
            line = self.guest.output[:self.guest.seen].splitlines()[-1]
            if "WRONG" in line:
                raise boot.Failure(f"wrong results: {line}")
            yield boot.cpu_seconds(self.guest.child.pid), self.resident()
        self.guest.expect("CHURNED")

    def resident(self):
        """Of the process that runs the guest: the largest in the group."""
        sizes = [0]
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                if os.getpgid(int(pid)) == self.guest.child.pid:
                    with open(f"/proc/{pid}/status") as f:
                        sizes += [int(n) for n in re.findall(r"VmRSS:\s+(\d+)", f.read())]
            except OSError:
                continue
        return max(sizes)

    def flushes(self):
        run = subprocess.run([self.berth, "stats", "--json", self.name], capture_output=True, text=True)
        found = re.search(r'"cache_flushes"[^0-9]*(\d+)', run.stdout)
        if not found:
            raise boot.Failure(f"berth stats: {run.stdout[-300:]}{run.stderr[-300:]}")
        return int(found[1])

    def end(self):
        self.guest.__exit__()


def bounded(opts, work, program):
    churn = Churn(opts, work, program, opts.rounds, CACHE_MIB)
    try:
        sizes = [resident for _, resident in churn.rounds()]
        flushes = churn.flushes()
    finally:
        churn.end()
    said = f"{flushes} flushes in {opts.rounds} rounds, {sizes[WARM] // 1024} MiB resident and then at most {max(sizes[WARM:]) // 1024} MiB"
    if flushes < opts.rounds or max(sizes[WARM:]) - sizes[WARM] > GROWTH_MIB * 1024:
        raise boot.Failure(f"{said}: {sizes}")
    return said


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--berth", default=os.path.join(boot.TOP, "build/berth"))
    p.add_argument("--rounds", type=int, default=12)
    p.add_argument("program")
    opts = p.parse_args()
    print("1..1")
    with tempfile.TemporaryDirectory(prefix="berth-churn.") as work:
        try:
            print(f"ok 1 - churned_translations_stay_within_their_cache # {bounded(opts, work, opts.program)}")
        except boot.Skip as skip:
            print(f"ok 1 - churned_translations_stay_within_their_cache # SKIP {skip}")
        except boot.Failure as failure:
            print("not ok 1 - churned_translations_stay_within_their_cache")
            print("".join(f"# {line}\n" for line in str(failure).splitlines()[-20:]), end="")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
