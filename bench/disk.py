#!/usr/bin/env python3
"""Disks of Berth against QEMU's: fio in the same guest on the same images under both translators, in pairs.

    bench/disk.py [--pairs N] [--formats raw,qcow2] [--direct] [--cpus N] [--json FILE] [CASE...]

Cases: seq-read, seq-write (128 KiB, 8 at a time), seq-read-4k, seq-write-4k, rand-read, rand-write (4 KiB, 32 at
a time), rand-read-1, rand-write-1 (4 KiB, one at a time), sync-write (4 KiB, each with a flush). Figures are
MiB or operations a second, of time and of the CPU time that the monitor took on the host, which other work there
does not change.
The ratio is Berth / QEMU (greater is better), the median of the pairs'. Both monitors use their defaults,
--direct makes both leave out the host's page cache, --fresh measures how images grow (those of each guest are new
and empty, of 4 GiB), and --qemu-aio chooses QEMU's way of I/O.
"""
import argparse
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

from programs import program_files
from run import KERNEL_ARGS, TOP, geomean, group_cpu, initramfs, module_files, monitors, sh

# name: (fio's workload, block size, depth, more)
CASES = {
    "seq-read": ("read", "128k", 8, ""),
    "seq-write": ("write", "128k", 8, ""),
    "seq-read-4k": ("read", "4k", 32, ""),
    "seq-write-4k": ("write", "4k", 32, ""),
    "rand-read": ("randread", "4k", 32, ""),
    "rand-write": ("randwrite", "4k", 32, ""),
    "rand-read-1": ("randread", "4k", 1, ""),
    "rand-write-1": ("randwrite", "4k", 1, ""),
    "sync-write": ("randwrite", "4k", 1, "--fdatasync=1"),
}
MODULES = ("virtio_ring", "virtio", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci", "virtio_blk")
INIT = """#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc p /proc; $b mount -t sysfs s /sys; $b mount -t devtmpfs d /dev; $b mount -t tmpfs t /tmp
for m in %(modules)s; do $b insmod /modules/$m.ko; done
while [ ! -b /dev/vda ]; do $b sleep 0.1; done
cd /tmp
fio() { /bin/fio --filename=/dev/vda --ioengine=libaio --direct=1 --time_based --norandommap --randrepeat=0 \\
    --output-format=terse --terse-version=3 "$@" 2>&1; }
fio --name=warm --rw=read --bs=1m --iodepth=4 --runtime=2 > /dev/null
%(cases)s
$b sleep 1
$b echo BENCH-END
$b poweroff -f
"""


def in_mib(name):
    return CASES[name][1] != "4k"


def make_initrd(work, kernel, cases, seconds):
    lines = []
    for name in cases:
        rw, size, depth, more = CASES[name]
        lines.append(f"$b echo; $b echo START {name}")
        lines.append(f"$b echo CASE {name} $(fio --name={name} --rw={rw} --bs={size} --iodepth={depth} "
                     f"--runtime={seconds} {more})")
    init = INIT % {"modules": " ".join(MODULES), "cases": "\n".join(lines)}
    return initramfs(work, "disk", init, program_files("fio") + module_files(kernel, MODULES))


def make_empty(image, form):
    sh("qemu-img", "create", "-q", "-f", form, image, "4G")


def make_images(work, formats, megabytes):
    """Images whose clusters are all allocated: what is measured is I/O, not growth."""
    raw = os.path.join(work, "disk.raw")
    with open(raw, "wb") as f:
        for _ in range(megabytes):
            f.write(os.urandom(1 << 20))
    images = {"raw": raw}
    if "qcow2" in formats:
        images["qcow2"] = os.path.join(work, "disk.qcow2")
        sh("qemu-img", "convert", "-O", "qcow2", raw, images["qcow2"])
    os.sync()
    return images


def command(engine, args, initrd, image, form):
    disk = f"{image},format={form}" + (",direct" if args.direct else "")
    drive = f"file={image},format={form},if=virtio,cache={'none' if args.direct else 'writeback'},aio={args.qemu_aio}"
    cpus = str(args.cpus)
    more = ["-c", cpus, "--disk", disk] if engine == "berth" else ["-smp", cpus, "-drive", drive]
    return monitors(engine, args.kernel, initrd, 1024, args.berth) + more


def run_once(engine, args, initrd, image, form):
    """One guest that goes through all cases. Returns {case: (figure, the same for each second of host CPU)}."""
    timeout = 240 + 3 * args.seconds * len(args.cases)
    if args.fresh:
        make_empty(image, form)
    start = time.monotonic()
    child = subprocess.Popen(command(engine, args, initrd, image, form), stdin=subprocess.DEVNULL,
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
    signal.signal(signal.SIGALRM, lambda *_: os.killpg(child.pid, signal.SIGKILL))
    signal.alarm(timeout)
    text, out, cpu = "", {}, 0.0
    for raw in child.stdout:
        line = raw.decode(errors="replace")
        text += line
        if line.startswith("START "):
            cpu = group_cpu(child.pid)
        elif case := re.match(r"CASE (\S+) (3;.*)", line):
            name, f = case[1], case[2].split(";")
            first = 5 if "read" in CASES[name][0] else 46
            kbytes, kbytes_a_second, operations, ms = (float(f[first + i]) for i in range(4))
            rate = kbytes_a_second / 1024 if in_mib(name) else operations
            out[name] = rate, rate * ms / 1000 / max(group_cpu(child.pid) - cpu, 0.01)
    child.wait()
    signal.alarm(0)
    if "BENCH-END" not in text or set(out) != set(args.cases):
        sys.exit(f"bench: {engine} did not finish (status {child.returncode}): ...{text[-600:]}")
    print(f"  {form} {engine} {time.monotonic() - start:.0f} s: " + " ".join(f"{n}={v[0]:.0f}/{v[1]:.0f}" for n, v in out.items()),
          file=sys.stderr)
    return out


def bench(args, form, initrd, image, report):
    rows = {"berth": [], "qemu": []}
    for i in range(args.pairs):
        for engine in ("berth", "qemu") if i % 2 else ("qemu", "berth"):
            rows[engine].append(run_once(engine, args, initrd, image, form))
    ratios = ([], [])
    print(f"{form:14}{'a second':>25}{'':8}{'a second of CPU':>24}   (medians of {args.pairs} pairs)\n"
          f"{'':14}" + f"{'berth':>10}{'qemu':>9}{'ratio':>7} " * 2)
    for name in args.cases:
        print(f"{name:14}", end="")
        for i, what in enumerate(("", " cpu")):
            b, q = (statistics.median(r[name][i] for r in rows[engine]) for engine in ("berth", "qemu"))
            ratio = statistics.median(x[name][i] / y[name][i] for x, y in zip(rows["berth"], rows["qemu"]))
            ratios[i].append(ratio)
            report[f"disk {form} {name}{what}"] = {"berth": b, "qemu": q, "ratio": ratio}
            print(f"{b:10.0f}{q:9.0f}{ratio:7.2f}", end=" ")
        print("  MiB" if in_mib(name) else "  operations")
    print(f"{'geomean':14}{geomean(ratios[0]):26.2f}{geomean(ratios[1]):27.2f}   times QEMU, "
          f"slowest {min(ratios[0]):.2f} and {min(ratios[1]):.2f}")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--pairs", type=int, default=3, help="pairs of guests for each format [3]")
    p.add_argument("--formats", default="raw,qcow2", help="image formats [raw,qcow2]")
    p.add_argument("--seconds", type=int, default=4, help="for each case [4]")
    p.add_argument("--megabytes", type=int, default=512, help="size of the image [512]")
    p.add_argument("--cpus", type=int, default=1, help="vCPUs of the guest [1]")
    p.add_argument("--direct", action="store_true", help="without the host's page cache")
    p.add_argument("--fresh", action="store_true", help="images that are empty at first")
    p.add_argument("--qemu-aio", default="threads", choices=("threads", "native", "io_uring"))
    p.add_argument("--kernel", help="a bzImage with its modules beside it; Debian's cloud kernel otherwise")
    p.add_argument("--berth", default=os.path.join(TOP, "build/berth"), help="the program to measure [build/berth]")
    p.add_argument("--dir", help="where the images are made; the directory for temporary files otherwise")
    p.add_argument("--json", help="write the figures to this file")
    p.add_argument("cases", nargs="*", metavar="CASE", help="only these")
    args = p.parse_args()
    args.cases = args.cases or list(CASES)
    formats = args.formats.split(",")
    if set(args.cases) - set(CASES) or set(formats) - {"raw", "qcow2"}:
        sys.exit(f"bench: the cases are {', '.join(CASES)}, the formats raw and qcow2")
    for tool in ("qemu-system-x86_64", "qemu-img"):
        if not shutil.which(tool):
            sys.exit(f"bench: {tool} is not installed; try: tools/install-packages bench")
    if not args.kernel:
        args.kernel = subprocess.run([os.path.join(TOP, "tools/fetch-kernel")], check=True, capture_output=True,
                                     text=True).stdout.strip()
    report = {}
    with tempfile.TemporaryDirectory(prefix="berth-bench.", dir=args.dir) as work:
        initrd = make_initrd(work, args.kernel, args.cases, args.seconds)
        images = make_images(work, formats, args.megabytes)
        for form in formats:
            bench(args, form, initrd, images[form], report)
    if args.json:
        with open(args.json, "w") as f:
            json.dump(report, f, indent=1)


if __name__ == "__main__":
    main()
