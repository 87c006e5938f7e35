#!/usr/bin/env python3
"""Berth against QEMU's translator (TCG): same kernel, same initramfs, in pairs, medians and ratios.

    bench/run.py [--pairs N] [--only boot|guest] [--kernel bzImage] [--json FILE] [BENCHMARK...]

boot:  wall and CPU seconds from exec to the guest's init, and from power-on to power-off
guest: the kernels of bench/guest and whole programs (programs.py), in the guest under both and on the host

Ratios are Berth / TCG (smaller is better) for boot; for the guest set TCG / Berth (how many times faster) and
Berth / native (how many times slower than the host). Groups are compared with the bars that they are to reach.
"""
import argparse
import json
import math
import os
import re
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

import bars
import programs

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(HERE)
BERTH = os.path.join(TOP, "build/berth")
KERNEL_ARGS = "console=ttyS0 quiet panic=-1 random.trust_cpu=on"
BOOT_INIT = """#!/bin/busybox sh
/bin/busybox echo INIT-REACHED
/bin/busybox poweroff -f
"""
GUEST_INIT = """#!/bin/busybox sh
/bin/busybox mount -t proc p /proc
/bin/busybox mount -t devtmpfs d /dev
/bin/busybox mount -t tmpfs t /tmp
/bin/bench %(names)s
export PATH=/bin
cd /programs && /bin/busybox sh script
/bin/busybox echo BENCH-END
/bin/busybox poweroff -f
"""
# The bars: what each group has to reach. Times as fast as TCG, and slowdown against the host; geometric means,
# but "each" is for every entry of the group.
BARS = {
    "int": {"native": 1.6},
    "fp": {"native": 1.5},
    "mem": {"native": 1.2},
    "os": {"tcg": 2.0, "each": True},
    "app": {"tcg": 6.0, "native": 1.8},
}
BOOT_BARS = {"init_wall": 0.35, "init_cpu": 0.25}  # Berth / TCG
KINDS = {"int": "integer loops", "fp": "double precision", "mem": "copies and fills", "os": "system calls", "app": "programs"}


def sh(*args, **kw):
    return subprocess.run(args, check=True, **kw)


def initramfs(work, name, init, extra=()):
    """Makes a cpio archive with busybox, the given init and extra (source, target) files."""
    root = os.path.join(work, name + ".root")
    for d in ("bin", "dev", "proc", "tmp", "programs", "lib", "lib64"):
        os.makedirs(os.path.join(root, d), exist_ok=True)
    shutil.copy("/bin/busybox", os.path.join(root, "bin/busybox"))
    for source, target in extra:
        os.makedirs(os.path.dirname(os.path.join(root, target)), exist_ok=True)
        shutil.copy(source, os.path.join(root, target))
    path = os.path.join(root, "init")
    with open(path, "w") as f:
        f.write(init)
    os.chmod(path, 0o755)
    out = os.path.join(work, name + ".cpio")
    sh("sh", "-c", f"cd {root} && find . | cpio -o -H newc --quiet -R 0:0 > {out}")
    return out


def module_files(kernel, modules):
    """These modules of the kernel, as (source, target)."""
    top = os.path.dirname(os.path.dirname(kernel))
    names = {m.replace("_", "-"): m for m in modules}
    found = []
    for folder, _, files in os.walk(os.path.join(top, "lib/modules")):
        found += [(os.path.join(folder, f), f"modules/{names[f[:-3].replace('_', '-')]}.ko")
                  for f in files if f.endswith(".ko") and f[:-3].replace("_", "-") in names]
    if len(found) != len(modules):
        sys.exit(f"bench: {top} lacks some of the modules {', '.join(modules)}")
    return found


def monitors(engine, kernel, initrd, memory, berth=BERTH):
    if engine == "berth":
        return [berth, "run", "-m", str(memory), "--engine", "translate",
                "--kernel", kernel, "--initrd", initrd, "--append", KERNEL_ARGS]
    return ["qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-M", "q35", "-m", str(memory), "-nodefaults",
            "-no-user-config", "-nographic", "-no-reboot", "-serial", "stdio", "-kernel", kernel,
            "-initrd", initrd, "-append", KERNEL_ARGS]


def group_cpu(leader):
    """CPU seconds so far of a process and all that come from it, whatever their groups are by now (cages have their own)."""
    parent, ticks = {}, {}
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        try:
            f = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
        except OSError:
            continue
        parent[pid], ticks[pid] = int(f[1]), int(f[11]) + int(f[12])
    family = {leader}
    while True:
        more = {pid for pid in parent if parent[pid] in family} - family
        if not more:
            return sum(ticks.get(pid, 0) for pid in family) / os.sysconf("SC_CLK_TCK")
        family |= more


def run(engine, args, initrd, memory=512, timeout=900):
    """Runs one boot to its end. Returns output lines with the wall and CPU seconds at which they came."""
    start = time.monotonic()
    child = subprocess.Popen(monitors(engine, args.kernel, initrd, memory, args.berth), stdin=subprocess.DEVNULL,
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
    lines = []
    group = child.pid

    signal.signal(signal.SIGALRM, lambda *_: os.killpg(group, signal.SIGKILL))
    signal.alarm(timeout)
    for raw in child.stdout:
        line = raw.decode(errors="replace").strip()
        at_cpu = group_cpu(group) if "INIT-REACHED" in line else 0.0
        lines.append((line, time.monotonic() - start, at_cpu))
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    child.wait()
    signal.alarm(0)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = (after.ru_utime - before.ru_utime) + (after.ru_stime - before.ru_stime)
    return lines, time.monotonic() - start, used, child.returncode


def boot_once(engine, args, initrd):
    lines, wall, cpu, status = run(engine, args, initrd, memory=256, timeout=120)
    for line, at, at_cpu in lines:
        if "INIT-REACHED" in line:
            return {"init_wall": at, "init_cpu": at_cpu, "off_wall": wall, "off_cpu": cpu}
    sys.exit(f"bench: {engine} did not reach init (status {status}): {[l[0] for l in lines[-5:]]}")


def parse_guest(text):
    out, sums = {}, {}
    for name, kind, ns, checksum in re.findall(r"BENCH (\S+) (\S+) (\d+) (\S+)", text):
        out[name] = (kind, int(ns) / 1e9)
        sums[name] = checksum
    for name, seconds in programs.parse_speed(text).items():
        out[name] = ("app", seconds)
    return out, sums


def median(rows, key):
    return statistics.median(r[key] for r in rows)


def median_ratio(over, under, key):
    """Of what was measured in pairs: the host's clock is not the same from minute to minute."""
    return statistics.median(x[key] / y[key] for x, y in zip(over, under))


def geomean(values):
    values = list(values)
    return math.exp(sum(map(math.log, values)) / len(values)) if values else float("nan")


def bench_boot(args, work, report):
    initrd = initramfs(work, "boot", BOOT_INIT)
    rows = {"berth": [], "tcg": []}
    for i in range(args.pairs):
        for engine in ("berth", "tcg") if i % 2 else ("tcg", "berth"):
            rows[engine].append(boot_once(engine, args, initrd))
            print(f"  boot pair {i + 1}/{args.pairs} {engine}: " +
                  " ".join(f"{k}={v:.2f}" for k, v in rows[engine][-1].items()), file=sys.stderr)
    print(f"{'boot':24}{'berth':>9}{'tcg':>9}{'ratio':>8}   (seconds, medians of {args.pairs} pairs)")
    for key, label in (("init_wall", "to init, wall"), ("init_cpu", "to init, cpu"),
                       ("off_wall", "to power-off, wall"), ("off_cpu", "to power-off, cpu")):
        b, t = median(rows["berth"], key), median(rows["tcg"], key)
        ratio = median_ratio(rows["berth"], rows["tcg"], key)
        report["boot " + key] = {"berth": b, "tcg": t, "ratio": ratio}
        said = "  " + bars.judge(report, f"boot {label}, of TCG's", ratio, most=BOOT_BARS[key]) if key in BOOT_BARS else ""
        print(f"{label:24}{b:9.2f}{t:9.2f}{ratio:8.2f}{said}")


def guest_set(args, work):
    """Builds the set; returns its initramfs and what it measures on the host."""
    binary = os.path.join(work, "bench")
    sources = [os.path.join(HERE, "guest", f) for f in os.listdir(os.path.join(HERE, "guest")) if f.endswith(".c")]
    sh("gcc", "-O2", "-static", "-o", binary, *sources, "-lz", "-lm")
    chosen = programs.chosen(args.names)
    kernels = [name for name in args.names if name not in chosen] or ([] if not args.names else ["--nothing"])
    folder, files = programs.prepare(work, binary, chosen)
    initrd = initramfs(work, "guest", GUEST_INIT % {"names": " ".join(kernels)}, files)
    return initrd, lambda: subprocess.run([binary, *kernels], capture_output=True, text=True).stdout + \
        programs.run_natively(work, folder)


def run_guest(engine, args, initrd, sums):
    """One run of the set in a guest, its results compared with the host's."""
    lines, _, _, status = run(engine, args, initrd)
    text = "\n".join(l[0] for l in lines)
    if "BENCH-END" not in text:
        sys.exit(f"bench: {engine} did not finish (status {status}): ...{text[-400:]}")
    times, found = parse_guest(text)
    for name, checksum in sums.items():
        if found.get(name) != checksum:
            print(f"  WRONG RESULT: {name} under {engine}: {found.get(name)}, native {checksum}")
    return times


def verdict(report, kind, names, tcg, native):
    """Whether a group reaches its bar, in words."""
    said, bar = [], BARS[kind]
    if "tcg" in bar and bar.get("each"):
        said += [f"{name} " + bars.judge(report, f"{name}, times as fast as TCG", gain, least=bar["tcg"])
                 for name, gain in zip(names, tcg)]
    elif "tcg" in bar:
        said.append("x TCG " + bars.judge(report, f"{KINDS[kind]}, times as fast as TCG", geomean(tcg), least=bar["tcg"]))
    if "native" in bar:
        said.append("x native " + bars.judge(report, f"{KINDS[kind]}, times the host's time", geomean(native), most=bar["native"]))
    return ", ".join(said)


def report_groups(rows, report):
    print(f"{'group':18}{'tcg/berth':>11}{'berth/native':>14}  bar   (geometric means)")
    for kind, label in KINDS.items():
        some = [r for r in rows if r[1] == kind]
        if not some:
            continue
        tcg, native = [r[2] for r in some], [r[3] for r in some]
        report["group " + kind] = {"tcg/berth": geomean(tcg), "berth/native": geomean(native)}
        said = verdict(report, kind, [r[0] for r in some], tcg, native)
        print(f"{label:18}{geomean(tcg):11.2f}{geomean(native):14.2f}  {said}")
    gains = [r[2] for r in rows]
    report["guest geomean"] = geomean(gains)
    print(f"all: {geomean(gains):.2f} times as fast as TCG, slowest entry {min(gains):.2f}")


def bench_guest(args, work, report):
    initrd, natively = guest_set(args, work)
    results = {"native": [], "berth": [], "tcg": []}
    for i in range(args.guest_pairs):
        times, sums = parse_guest(natively())
        results["native"].append(times)
        for engine in ("berth", "tcg") if i % 2 else ("tcg", "berth"):
            results[engine].append(run_guest(engine, args, initrd, sums))
            print(f"  guest pair {i + 1}/{args.guest_pairs} {engine} done", file=sys.stderr)
    print(f"{'guest':12}{'native':>9}{'berth':>9}{'tcg':>9}{'tcg/berth':>11}{'berth/native':>14}   "
          f"(seconds and ratios, medians of {args.guest_pairs} pairs)")
    rows = []
    seconds = {who: [{name: at for name, (_, at) in run.items()} for run in runs] for who, runs in results.items()}
    for name, (kind, _) in results["native"][0].items():
        if not all(name in run for runs in seconds.values() for run in runs):
            print(f"{name:12}failed")
            continue
        n, b, t = (median(seconds[who], name) for who in ("native", "berth", "tcg"))
        gain = median_ratio(seconds["tcg"], seconds["berth"], name)
        cost = median_ratio(seconds["berth"], seconds["native"], name)
        rows.append((name, kind, gain, cost))
        report["guest " + name] = {"native": n, "berth": b, "tcg": t}
        print(f"{name:12}{n:9.3f}{b:9.3f}{t:9.3f}{gain:11.2f}{cost:14.2f}")
    report_groups(rows, report)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--pairs", type=int, default=5, help="pairs of boots [5]")
    p.add_argument("--guest-pairs", type=int, default=3, help="pairs of runs of the guest set [3]")
    p.add_argument("--only", choices=("boot", "guest"))
    p.add_argument("--kernel", help="a bzImage; Debian's cloud kernel otherwise")
    p.add_argument("--berth", default=BERTH)
    p.add_argument("--json", help="write the figures to this file")
    p.add_argument("names", nargs="*", metavar="BENCHMARK", help="only these of the guest set")
    args = p.parse_args()
    if not shutil.which("qemu-system-x86_64"):
        sys.exit("bench: qemu-system-x86_64 is not installed; try: tools/install-packages bench")
    if not args.kernel:
        args.kernel = subprocess.run([os.path.join(TOP, "tools/fetch-kernel")], check=True, capture_output=True,
                                     text=True).stdout.strip()
    report = {}
    with tempfile.TemporaryDirectory(prefix="berth-bench.") as work:
        if args.only != "guest":
            bench_boot(args, work, report)
        if args.only != "boot":
            bench_guest(args, work, report)
    if args.json:
        with open(args.json, "w") as f:
            json.dump(report, f, indent=1)


if __name__ == "__main__":
    main()
