#!/usr/bin/env python3
"""Whether a guest's ever new code slows it down in the long run: the same work at the start and at the end of one run.

    bench/churn.py [--rounds N] [--cache MIB] [--berth FILE] [--json FILE]

tests/system/churn.c generates code and executes programs in a guest with a small cache of translations, which is full
several times a round: as many flushes as a day of ordinary work with a cache of the usual size. All of it is translated, and
once more what can be runs directly. The CPU time of each round is compared with that of the same work on the host at the same
moment, and what this gives for the first quarter of the rounds with the last; and memory.
"""
import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile

import bars
from run import BERTH, TOP

sys.path.insert(0, os.path.join(TOP, "tests/system"))
import boot  # noqa: E402
import churn  # noqa: E402

BAR = 1.1  # of the last quarter's time to the first's
WARM = 4   # rounds that do not count


def natively(program):
    """CPU seconds of a round on the host, which show how fast it is just now."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([program, "1"], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def compare(args, work, program, direct, report):
    guest = churn.Churn(args, work, program, args.rounds + WARM, args.cache, direct)
    rows, last, lines = [], 0, f"direct={direct}, round"
    try:
        for cpu, size in guest.rounds():
            rows.append((cpu - last, natively(program), size / 1024))
            last = cpu
            print(f"  {lines} {len(rows)}/{args.rounds + WARM}: {rows[-1][0]:.3f} s, host {rows[-1][1]:.3f} s, {size // 1024} MiB", file=sys.stderr)
        flushes = guest.flushes()
    finally:
        guest.end()
    rows = rows[WARM:]
    quarter = max(2, len(rows) // 4)
    first, end = (sum(row[0] for row in part) / sum(row[1] for row in part) for part in (rows[:quarter], rows[-quarter:]))
    sizes = [row[2] for row in rows]
    report["direct=" + direct] = {"first": first, "last": end, "ratio": end / first, "flushes": flushes, "memory": [sizes[0], max(sizes)]}
    said = bars.judge(report, f"ever new code, direct={direct}, the end of the start", end / first, most=BAR)
    print(f"direct={direct}, {args.rounds} rounds, {flushes} flushes: {first:.2f} times the host's CPU time at the start, {end:.2f} at the end, "
          f"ratio {end / first:.3f}; {said}; {sizes[0]:.0f} MiB at the start, at most {max(sizes):.0f} MiB", flush=True)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--rounds", type=int, default=240, help="[240]")
    p.add_argument("--cache", type=int, default=4, help="MiB of the cache of translations [4]")
    p.add_argument("--berth", default=BERTH)
    p.add_argument("--json", help="write the figures to this file")
    args = p.parse_args()
    args.engine, args.debug = "translate", ""
    report = {}
    with tempfile.TemporaryDirectory(prefix="berth-bench.") as work:
        program = os.path.join(work, "churn")
        subprocess.run(["gcc", "-O2", "-static", "-o", program, os.path.join(TOP, "tests/system/churn.c")], check=True)
        for direct in ("off", "auto"):
            try:
                compare(args, work, program, direct, report)
            except boot.Failure as failure:
                sys.exit(f"bench: {failure}")
    if args.json:
        with open(args.json, "w") as f:
            json.dump(report, f, indent=1)


if __name__ == "__main__":
    main()
