#!/usr/bin/env python3
"""Whether a guest's ever new code slows it down in the long run: the same work at the start and at the end of one run.

    bench/churn.py [--rounds N] [--cache MIB] [--berth FILE] [--json FILE]

tests/system/churn.c generates code and executes programs in a guest with a small cache of translations, which is full
several times a round: as many flushes as a day of ordinary work with a cache of the usual size. Compared are the first and
the last quarter of the rounds, each by its lower quartile, which others on the machine disturb least, and memory.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile

from run import TOP

sys.path.insert(0, os.path.join(TOP, "tests/system"))
import boot  # noqa: E402
import churn  # noqa: E402

BAR = 1.1  # of the last quarter's time to the first's
WARM = 4   # rounds that do not count


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--rounds", type=int, default=240, help="[240]")
    p.add_argument("--cache", type=int, default=4, help="MiB of the cache of translations [4]")
    p.add_argument("--berth", default=os.path.join(TOP, "build/berth"))
    p.add_argument("--json", help="write the figures to this file")
    args = p.parse_args()
    args.engine, args.debug = "translate", ""
    with tempfile.TemporaryDirectory(prefix="berth-bench.") as work:
        program = os.path.join(work, "churn")
        subprocess.run(["gcc", "-O2", "-static", "-o", program, os.path.join(TOP, "tests/system/churn.c")], check=True)
        guest = churn.Churn(args, work, program, args.rounds + WARM, args.cache)
        try:
            rows = []
            for row in guest.rounds():
                rows.append(row)
                print(f"  round {len(rows)}/{args.rounds + WARM}: {row[0] / 1e9:.2f} s, {row[1] // 1024} MiB", file=sys.stderr)
            flushes = guest.flushes()
        except boot.Failure as failure:
            sys.exit(f"bench: {failure}")
        finally:
            guest.end()
    times, sizes = [t / 1e9 for t, _ in rows[WARM:]], [size / 1024 for _, size in rows[WARM:]]
    quarter = max(2, len(times) // 4)
    first, last = (statistics.quantiles(part, n=4)[0] for part in (times[:quarter], times[-quarter:]))
    report = {"first": first, "last": last, "ratio": last / first, "flushes": flushes, "memory": [sizes[0], max(sizes)]}
    print(f"{args.rounds} rounds, {flushes} flushes: {first:.3f} s a round at the start, {last:.3f} s at the end, ratio {last / first:.3f}; "
          f"bar {BAR}: {'met' if last / first <= BAR else 'MISSED'}")
    print(f"memory of the process: {sizes[0]:.0f} MiB at the start, at most {max(sizes):.0f} MiB")
    if args.json:
        with open(args.json, "w") as f:
            json.dump(report, f, indent=1)


if __name__ == "__main__":
    main()
