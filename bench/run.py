#!/usr/bin/env python3
"""Berth against QEMU's translator (TCG): same kernel, same initramfs, in pairs, medians and ratios.

    bench/run.py [--pairs N] [--only boot|guest] [--kernel bzImage] [--json FILE] [BENCHMARK...]

boot:  wall and CPU seconds from exec to the guest's init, and from power-on to power-off
guest: the kernels of bench/guest and a C compiler, in the guest under both and on the host

Ratios are Berth / TCG (smaller is better) for boot, TCG / Berth (how many times faster) for the guest set.
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

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(HERE)
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
%(compiler)s
/bin/busybox echo BENCH-END
/bin/busybox poweroff -f
"""
COMPILER = """export PATH=/bin
for i in 1 2; do
s=$(/bin/busybox cut -d' ' -f1 /proc/uptime)
/cc1/cc1 -quiet -fpreprocessed -O2 /cc1/in.i -o /tmp/out.s && e=$(/bin/busybox cut -d' ' -f1 /proc/uptime) && /bin/busybox echo CC1 $s $e $(/bin/busybox md5sum < /tmp/out.s)
done
"""


def sh(*args, **kw):
    return subprocess.run(args, check=True, **kw)


def initramfs(work, name, init, extra=()):
    """Makes a cpio archive with busybox, the given init and extra (source, target) files."""
    root = os.path.join(work, name + ".root")
    for d in ("bin", "dev", "proc", "tmp", "cc1", "lib", "lib64"):
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


def program_files(name):
    """A program of the host with its libraries, as (source, target)."""
    program = shutil.which(name)
    if not program:
        sys.exit(f"bench: {name} is not installed; try: tools/install-packages bench")
    libraries = re.findall(r"(/\S+)", subprocess.run(["ldd", program], capture_output=True, text=True).stdout)
    return [(program, "bin/" + name)] + [(path, path.lstrip("/")) for path in libraries]


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


def compiler_files(work):
    """The host's own C compiler proper with its libraries, and something to compile."""
    cc1 = subprocess.run(["gcc", "-print-prog-name=cc1"], capture_output=True, text=True).stdout.strip()
    if not os.path.exists(cc1):
        return []
    source = os.path.join(work, "in.i")
    sh("gcc", "-E", "-O2", os.path.join(HERE, "guest/compute.c"), "-o", source)
    files = [(cc1, "cc1/cc1"), (source, "cc1/in.i")]
    ldd = subprocess.run(["ldd", cc1], capture_output=True, text=True).stdout
    for path in re.findall(r"(/\S+)", ldd):
        files.append((path, path.lstrip("/")))
    return files


def monitors(engine, kernel, initrd, memory, berth=os.path.join(TOP, "build/berth")):
    if engine == "berth":
        return [berth, "run", "-m", str(memory), "--engine", "translate",
                "--kernel", kernel, "--initrd", initrd, "--append", KERNEL_ARGS]
    return ["qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-M", "q35", "-m", str(memory), "-nodefaults",
            "-no-user-config", "-nographic", "-no-reboot", "-serial", "stdio", "-kernel", kernel,
            "-initrd", initrd, "-append", KERNEL_ARGS]


def group_cpu(group):
    """CPU seconds so far of the processes of a group."""
    total = 0.0
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            f = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(f[2]) == group:
            total += (int(f[11]) + int(f[12])) / os.sysconf("SC_CLK_TCK")
    return total


def run(engine, kernel, initrd, memory=512, timeout=900):
    """Runs one boot to its end. Returns output lines with the wall and CPU seconds at which they came."""
    start = time.monotonic()
    child = subprocess.Popen(monitors(engine, kernel, initrd, memory), stdin=subprocess.DEVNULL,
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


def boot_once(engine, kernel, initrd):
    lines, wall, cpu, status = run(engine, kernel, initrd, memory=256, timeout=120)
    for line, at, at_cpu in lines:
        if "INIT-REACHED" in line:
            return {"init_wall": at, "init_cpu": at_cpu, "off_wall": wall, "off_cpu": cpu}
    sys.exit(f"bench: {engine} did not reach init (status {status}): {[l[0] for l in lines[-5:]]}")


def parse_guest(text):
    out, sums = {}, {}
    for name, kind, ns, checksum in re.findall(r"BENCH (\S+) (\S+) (\d+) (\S+)", text):
        out[name] = (kind, int(ns) / 1e9)
        sums[name] = checksum
    cc = re.findall(r"CC1 ([\d.]+) ([\d.]+) (\S+)", text)
    if cc:
        out["cc1"] = ("int", min(float(e) - float(s) for s, e, _ in cc))
        sums["cc1"] = cc[0][2]
    return out, sums


def median(rows, key):
    return statistics.median(r[key] for r in rows)


def geomean(values):
    values = list(values)
    return math.exp(sum(map(math.log, values)) / len(values)) if values else float("nan")


def bench_boot(args, work, report):
    initrd = initramfs(work, "boot", BOOT_INIT)
    rows = {"berth": [], "tcg": []}
    for i in range(args.pairs):
        for engine in ("berth", "tcg") if i % 2 else ("tcg", "berth"):
            rows[engine].append(boot_once(engine, args.kernel, initrd))
            print(f"  boot pair {i + 1}/{args.pairs} {engine}: " +
                  " ".join(f"{k}={v:.2f}" for k, v in rows[engine][-1].items()), file=sys.stderr)
    print(f"{'boot':24}{'berth':>9}{'tcg':>9}{'ratio':>8}   (seconds, medians of {args.pairs} pairs)")
    for key, label in (("init_wall", "to init, wall"), ("init_cpu", "to init, cpu"),
                       ("off_wall", "to power-off, wall"), ("off_cpu", "to power-off, cpu")):
        b, t = median(rows["berth"], key), median(rows["tcg"], key)
        ratio = statistics.median(x[key] / y[key] for x, y in zip(rows["berth"], rows["tcg"]))
        report["boot " + key] = {"berth": b, "tcg": t, "ratio": ratio}
        print(f"{label:24}{b:9.2f}{t:9.2f}{ratio:8.2f}")


def bench_guest(args, work, report):
    binary = os.path.join(work, "bench")
    sources = [os.path.join(HERE, "guest", f) for f in os.listdir(os.path.join(HERE, "guest")) if f.endswith(".c")]
    sh("gcc", "-O2", "-static", "-o", binary, *sources, "-lz", "-lm")
    compiler = [] if args.names and "cc1" not in args.names else compiler_files(work)
    names = " ".join(n for n in args.names if n != "cc1") or ("--nothing" if args.names else "")
    init = GUEST_INIT % {"names": names, "compiler": COMPILER if compiler else ""}
    initrd = initramfs(work, "guest", init, [(binary, "bin/bench")] + compiler)
    native_text = subprocess.run([binary] + names.split(), capture_output=True, text=True).stdout
    if compiler:
        took = []
        for _ in range(2):
            s = time.monotonic()
            sh(compiler[0][0], "-quiet", "-fpreprocessed", "-O2", compiler[1][0], "-o", os.path.join(work, "out.s"))
            took.append(time.monotonic() - s)
        native_text += f"\nCC1 0 {min(took):.3f} " + subprocess.run(
            ["md5sum"], stdin=open(os.path.join(work, "out.s")), capture_output=True, text=True).stdout
    native, native_sums = parse_guest(native_text)
    results = {"berth": [], "tcg": []}
    for i in range(args.guest_pairs):
        for engine in ("berth", "tcg") if i % 2 else ("tcg", "berth"):
            lines, _, _, status = run(engine, args.kernel, initrd)
            text = "\n".join(l[0] for l in lines)
            if "BENCH-END" not in text:
                sys.exit(f"bench: {engine} did not finish (status {status}): ...{text[-400:]}")
            times, sums = parse_guest(text)
            for name, checksum in sums.items():
                if native_sums.get(name) not in (None, checksum):
                    print(f"  WRONG RESULT: {name} under {engine}: {checksum}, native {native_sums[name]}")
            results[engine].append(times)
            print(f"  guest pair {i + 1}/{args.guest_pairs} {engine} done", file=sys.stderr)
    print(f"{'guest':12}{'native':>9}{'berth':>9}{'tcg':>9}{'tcg/berth':>11}{'berth/native':>14}")
    gains, kinds = {}, {}
    for name in results["berth"][0]:
        kind = results["berth"][0][name][0]
        b = statistics.median(r[name][1] for r in results["berth"])
        t = statistics.median(r[name][1] for r in results["tcg"])
        n = native.get(name, (kind, float("nan")))[1]
        gains[name], kinds[name] = t / b, kind
        report["guest " + name] = {"native": n, "berth": b, "tcg": t}
        print(f"{name:12}{n:9.3f}{b:9.3f}{t:9.3f}{t / b:11.2f}{b / n:14.2f}")
    for kind in ("int", "fp", "mem", "os"):
        some = [g for name, g in gains.items() if kinds[name] == kind]
        if some:
            print(f"geomean {kind:4}{geomean(some):41.2f}  times as fast as TCG")
    print(f"geomean all {geomean(gains.values()):40.2f}  times as fast as TCG, slowest entry {min(gains.values()):.2f}")
    report["guest geomean"] = geomean(gains.values())


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--pairs", type=int, default=5, help="pairs of boots [5]")
    p.add_argument("--guest-pairs", type=int, default=1, help="pairs of runs of the guest set [1]")
    p.add_argument("--only", choices=("boot", "guest"))
    p.add_argument("--kernel", help="a bzImage; Debian's cloud kernel otherwise")
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
