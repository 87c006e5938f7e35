#!/usr/bin/env python3
"""All benches of the translator and of how light VMs are, one after another; what they have to reach, and whether they do.

    bench/all.py [--build DIR] [--quick] [--json FILE] [PART...]

Parts: boot, guest, login, smp, churn (the translator's, against QEMU's TCG and the host), kvm, density. A part that cannot run
here says why and is left out. --quick takes one pair of each. Status 1: a part failed; a missed bar is no failure.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
import time

import bars

HERE = os.path.dirname(os.path.abspath(__file__))
SKIPPED = 77


def parts(build, quick):
    """name: command"""
    berth = os.path.join(build, "berth")
    few = ["--pairs", "1"] if quick else []
    return {
        "boot": ["run.py", "--only", "boot", "--berth", berth] + few,
        "guest": ["run.py", "--only", "guest", "--berth", berth] + (["--guest-pairs", "1"] if quick else []),
        "login": ["login.py", "--firmware", "bios", "--berth", berth] + few,
        "smp": ["smp.py", "--berth", berth] + few,
        "churn": ["churn.py", "--berth", berth],
        "kvm": ["kvm.py", "--build", build],
        "density": ["density.py", "--build", build],
    }


def run(name, command, work):
    """The part's report; None if it failed, {} if it was left out."""
    out = os.path.join(work, name + ".json")
    print(f"== {name}", flush=True)
    start = time.monotonic()
    status = subprocess.run([sys.executable, os.path.join(HERE, command[0]), *command[1:], "--json", out], check=False).returncode
    print(f"   {time.monotonic() - start:.0f} s\n", flush=True)
    if status == SKIPPED:
        return {}
    if status or not os.path.exists(out):
        return None
    with open(out, encoding="utf-8") as f:
        return json.load(f)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--build", default=os.path.join(os.path.dirname(HERE), "build"))
    p.add_argument("--quick", action="store_true", help="one pair of each instead of three to five")
    p.add_argument("--json", help="write all figures to this file")
    p.add_argument("part", nargs="*", help="only these")
    args = p.parse_args()
    known = parts(os.path.abspath(args.build), args.quick)
    if unknown := [name for name in args.part if name not in known]:
        p.error(f"there is no part {', '.join(unknown)}; give some of {', '.join(known)}")
    with tempfile.TemporaryDirectory(prefix="berth-bench.") as work:
        reports = {name: run(name, command, work) for name, command in known.items() if not args.part or name in args.part}
    if args.json:
        with open(args.json, "w", encoding="utf-8") as f:
            json.dump(reports, f, indent=1)
    print("== bars")
    print("\n".join(bars.table([bar for report in reports.values() for bar in (report or {}).get("bars", [])])))
    if failed := [name for name, report in reports.items() if report is None]:
        print("FAILED: " + ", ".join(failed))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
