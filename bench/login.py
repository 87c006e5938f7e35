#!/usr/bin/env python3
"""Berth's translator against QEMU's (TCG): a Debian disk from power-on to its login, by SeaBIOS or OVMF, in pairs.

    bench/login.py [--pairs N] [--firmware bios|uefi|both] [--image FILE] [--json FILE]

Wall and CPU seconds at which GRUB, the kernel, systemd and the login appear on the serial line; medians, and the medians
of the pairs' ratios, Berth / TCG (smaller is better). Each run has a fresh copy of the disk, without a network card.
"""
import argparse
import json
import os
import select
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

import bars
from run import BERTH, group_cpu

CACHE = os.environ.get("BERTH_CACHE") or os.path.join(os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache")), "berth")
BAR = 0.35  # of TCG's time to the login
MARKS = (("GRUB", b"GRUB"), ("kernel", b"Linux version"), ("systemd", b"systemd[1]"), ("login", b"login: "))
OVMF = "/usr/share/OVMF/OVMF_"


def command(berth, engine, firmware, disk, work):
    if engine == "berth":
        return [berth, "run", "-n", f"bench-{os.getpid()}", "-m", "1024", "--engine", "translate", "--net", "none",
                "--firmware", firmware, disk]
    args = ["qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-M", "q35", "-m", "1024", "-nodefaults", "-no-user-config",
            "-display", "none", "-vga", "std", "-serial", "stdio", "-drive", f"file={disk},format=raw,if=virtio"]
    if firmware == "uefi":
        variables = shutil.copy(OVMF + "VARS_4M.fd", work)
        args += ["-drive", f"if=pflash,format=raw,readonly=on,file={OVMF}CODE_4M.fd",
                 "-drive", f"if=pflash,format=raw,file={variables}"]
    return args


def boot(args, engine, firmware, work, timeout=1800):
    """{mark: (wall, cpu)}"""
    disk = os.path.join(work, "disk.raw")
    subprocess.run(["cp", "--sparse=always", args.image, disk], check=True)
    start, output, seen = time.monotonic(), b"", {}
    child = subprocess.Popen(command(args.berth, engine, firmware, disk, work), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                             stderr=subprocess.STDOUT, start_new_session=True, env=dict(os.environ, XDG_DATA_HOME=work))
    try:
        while len(seen) < len(MARKS):
            left = start + timeout - time.monotonic()
            data = os.read(child.stdout.fileno(), 65536) if select.select([child.stdout], [], [], max(left, 0))[0] else b""
            if not data:
                sys.exit(f"bench: {engine} did not reach a login: ...{output[-500:].decode(errors='replace')}")
            output += data
            for name, text in MARKS:
                if name not in seen and text in output:
                    seen[name] = (time.monotonic() - start, group_cpu(child.pid))
    finally:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    return seen


def compare(args, firmware, work, report):
    rows = {"berth": [], "tcg": []}
    for i in range(args.pairs):
        for engine in ("berth", "tcg") if i % 2 else ("tcg", "berth"):
            rows[engine].append(boot(args, engine, firmware, work))
            print(f"  {firmware} pair {i + 1}/{args.pairs} {engine}: " +
                  " ".join(f"{name}={wall:.1f}/{cpu:.1f}" for name, (wall, cpu) in rows[engine][-1].items()), file=sys.stderr)
    print(f"{firmware:24}{'berth':>9}{'tcg':>9}{'ratio':>8}   (seconds, medians of {args.pairs} pairs)")
    for name, _ in MARKS:
        for k, kind in enumerate(("wall", "cpu")):
            b, t = ([r[name][k] for r in rows[engine]] for engine in ("berth", "tcg"))
            ratio = statistics.median(x / max(y, 0.01) for x, y in zip(b, t))
            report[f"{firmware} {name} {kind}"] = {"berth": statistics.median(b), "tcg": statistics.median(t), "ratio": ratio}
            said = "  " + bars.judge(report, f"disk to login by {firmware}, of TCG's", ratio, most=BAR) if (name, kind) == ("login", "wall") else ""
            print(f"{'to ' + name + ', ' + kind:24}{statistics.median(b):9.2f}{statistics.median(t):9.2f}{ratio:8.2f}{said}")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--pairs", type=int, default=3, help="pairs of boots [3]")
    p.add_argument("--firmware", choices=("bios", "uefi", "both"), default="both")
    p.add_argument("--image", help="a raw disk; one that berth image build-debian makes otherwise")
    p.add_argument("--berth", default=BERTH)
    p.add_argument("--json", help="write the figures to this file")
    args = p.parse_args()
    if not shutil.which("qemu-system-x86_64"):
        sys.exit("bench: qemu-system-x86_64 is not installed; try: tools/install-packages bench")
    if not args.image:
        args.image = os.path.join(CACHE, "debian-12.raw")
        if not os.path.exists(args.image):
            os.makedirs(CACHE, exist_ok=True)
            subprocess.run([args.berth, "image", "build-debian", "--size", "2G", "--password", "berth", args.image], check=True)
    report = {}
    with tempfile.TemporaryDirectory(prefix="berth-bench.") as work:
        for firmware in ("bios", "uefi") if args.firmware == "both" else (args.firmware,):
            compare(args, firmware, work, report)
    if args.json:
        with open(args.json, "w") as f:
            json.dump(report, f, indent=1)


if __name__ == "__main__":
    main()
