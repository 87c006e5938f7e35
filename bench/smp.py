#!/usr/bin/env python3
"""A parallel build in a guest with four vCPUs: Berth against QEMU's translator (TCG, thread=multi) and the host, in pairs.

    bench/smp.py [--pairs N] [--cpus N] [--files N] [--engine ENGINE]... [--limit SECONDS] [--kernel bzImage] [--json FILE]

`make -j` compiles, assembles and links sources of Berth's own, which are preprocessed on the host; the object must be the
host's to the byte. Medians of the seconds that the build takes, and of the pairs' ratios: TCG / Berth is how many times
faster. Several --engine (translate,direct=off) are compared in the same pairs; no run may take longer than --limit.
"""
import argparse
import glob
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile

import bars
import programs
import run

BAR = 5.0  # times as fast as TCG
INIT = """#!/bin/busybox sh
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc p /proc
mount -t devtmpfs d /dev
mount -t tmpfs t /tmp
cp /build/* /tmp
cd /tmp
sh build.sh %(jobs)d
poweroff -f
"""
# Prints hundredths of seconds and what the object is.
SCRIPT = """now() { read up rest < /proc/uptime; up=${up%.*}${up#*.}; echo "${up#0}"; }
start=$(now)
make -s -j $1 all.o || exit 1
echo "BUILD $(($(now) - start)) $(sha256sum < all.o)"
"""
MAKEFILE = """OBJECTS := $(patsubst %.i,%.o,$(wildcard *.i))
all.o: $(OBJECTS)
	ld -r -o $@ $(sort $^)
%.o: %.i
	cc1 -quiet -fpreprocessed -O2 -std=gnu2x $< -o $*.s
	as $*.s -o $@
"""


def prepare(work, count):
    """The folder that is built."""
    folder = os.path.join(work, "build")
    os.makedirs(folder)
    sources = sorted(glob.glob(os.path.join(run.TOP, "src/device/*/*.c")))
    flags = ["-std=gnu2x", "-D_GNU_SOURCE", "-DBERTH_SANITIZED=0", "-I" + os.path.join(run.TOP, "src"), "-O2", "-P"]
    for source in sources[:count]:
        out = os.path.join(folder, os.path.basename(source)[:-2] + ".i")
        run.sh("gcc", "-E", *flags, source, "-o", out)
    for name, text in (("Makefile", MAKEFILE), ("build.sh", SCRIPT)):
        with open(os.path.join(folder, name), "w") as f:
            f.write(text)
    return folder


def tools():
    """The compiler's parts, as (source, target)."""
    cc1 = subprocess.run(["gcc", "-print-prog-name=cc1"], capture_output=True, text=True, check=True).stdout.strip()
    files = [(cc1, "bin/cc1")] + programs.libraries(cc1)
    for program in ("make", "as", "ld"):
        files += programs.program_files(program)
    return files


def command(args, engine, initrd):
    line = run.monitors("tcg" if engine == "tcg" else "berth", args.kernel, initrd, 1024, args.berth)
    if engine == "tcg":
        return line + ["-smp", str(args.cpus), "-accel", "tcg,thread=multi"]
    return line + ["--cpus", str(args.cpus), "--engine", engine]


def parse(text, who):
    found = re.search(r"BUILD (\d+) ([0-9a-f]{64})", text)
    if not found:
        sys.exit(f"bench: the build failed under {who}: ...{text[-600:]}")
    return int(found[1]) / 100, found[2]


def build(args, engine, initrd):
    """Seconds of the build, and the object's hash."""
    child = subprocess.Popen(command(args, engine, initrd), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                             stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True)
    try:
        text, _ = child.communicate(timeout=args.limit)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        text, _ = child.communicate()
        sys.exit(f"bench: {engine} was not done within {args.limit} s: ...{text[-600:]}")
    return parse(text, engine)


def natively(args, work, folder, files):
    there = os.path.join(work, "host")
    shutil.copytree(folder, there)
    path = os.path.join(work, "bin")
    os.makedirs(path, exist_ok=True)
    for source, target in files:
        link = os.path.join(work, target)
        if target.startswith("bin/") and not os.path.exists(link):
            os.symlink(source, link)
    done = subprocess.run(["sh", "build.sh", str(args.cpus)], cwd=there, capture_output=True, text=True,
                          env=dict(os.environ, PATH=path + ":" + os.environ["PATH"]))
    shutil.rmtree(there)
    return parse(done.stdout + done.stderr, "the host")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--pairs", type=int, default=3)
    p.add_argument("--cpus", type=int, default=4)
    p.add_argument("--files", type=int, default=16, help="sources to compile [16]")
    p.add_argument("--engine", action="append", help="of Berth's [translate]; may be repeated")
    p.add_argument("--limit", type=float, default=300, help="seconds for each guest [300]")
    p.add_argument("--kernel", help="a bzImage; Debian's cloud kernel otherwise")
    p.add_argument("--berth", default=run.BERTH)
    p.add_argument("--json", help="write the figures to this file")
    args = p.parse_args()
    if not shutil.which("qemu-system-x86_64"):
        sys.exit("bench: qemu-system-x86_64 is not installed; try: tools/install-packages bench")
    if not args.kernel:
        args.kernel = subprocess.run([os.path.join(run.TOP, "tools/fetch-kernel")], check=True, capture_output=True,
                                     text=True).stdout.strip()
    engines = args.engine or ["translate"]
    rows = []
    with tempfile.TemporaryDirectory(prefix="berth-bench.") as work:
        folder, files = prepare(work, args.files), tools()
        initrd = run.initramfs(work, "smp", INIT % {"jobs": args.cpus},
                               files + [(os.path.join(folder, f), "build/" + f) for f in os.listdir(folder)])
        for i in range(args.pairs):
            seconds, want = natively(args, work, folder, files)
            row = {"native": seconds}
            for engine in (["tcg"] + engines)[::-1 if i % 2 else 1]:
                row[engine], got = build(args, engine, initrd)
                if got != want:
                    sys.exit(f"bench: {engine} built another object than the host")
            rows.append(row)
            print(f"  pair {i + 1}/{args.pairs}: " + "  ".join(f"{k} {v:.2f} s" for k, v in row.items()), file=sys.stderr)
    report = {who: statistics.median(r[who] for r in rows) for who in rows[0]}
    print(f"parallel build, {args.cpus} vCPUs, {args.files} files, medians of {args.pairs} pairs: native {report['native']:.2f} s, "
          f"tcg {report['tcg']:.2f} s")
    for engine in engines:
        faster = report["tcg/" + engine] = statistics.median(r["tcg"] / r[engine] for r in rows)
        slower = report[engine + "/native"] = statistics.median(r[engine] / r["native"] for r in rows)
        print(f"{engine} {report[engine]:.2f} s: {faster:.2f} times as fast as tcg, {slower:.2f} times as slow as the host; "
              f"x tcg {bars.judge(report, f'parallel build, {engine}, times as fast as TCG', faster, least=BAR)}")
    if args.json:
        with open(args.json, "w") as f:
            json.dump(report, f, indent=1)


if __name__ == "__main__":
    main()
