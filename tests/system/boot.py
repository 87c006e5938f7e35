#!/usr/bin/env python3
"""Boots real kernels under `berth run` and checks what a user would see.

    boot.py [--berth FILE] [--engine ENGINE] [--debug LIST] CASE...
    boot.py --list

Exit status: 0 all cases passed, 1 some failed, 77 all were skipped (meson's word for it).
"""
import argparse
import glob
import hashlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
ARGS = "console=ttyS0 panic=-1 random.trust_cpu=on"
SHELL_INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin HOME=/ PS1='guest# '
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
echo INIT-REACHED
exec setsid cttyhack sh
"""

LOCKSTEP_INIT = """#!/bin/busybox sh
/bin/busybox sha256sum /bin/busybox
/bin/busybox awk 'BEGIN { for (i = 0; i < 20000; i++) s += sin(i) * i; print s }'
/bin/busybox poweroff -f
"""


class Skip(Exception):
    pass


class Failure(Exception):
    pass


class Guest:
    """One run of `berth run` with its serial line as a conversation."""

    def __init__(self, opts, *args, timeout=240, command=None):
        self.deadline = time.monotonic() + timeout
        if not command:
            command = [opts.berth, "run", "--engine", opts.engine]
            command += ["--debug", opts.debug] if opts.debug else []
        self.child = subprocess.Popen(command + list(args), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                      stderr=subprocess.STDOUT, start_new_session=True)
        self.output = ""
        self.seen = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.child.poll() is None:
            os.killpg(self.child.pid, signal.SIGKILL)
            self.child.wait()

    def _more(self):
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise Failure(f"timeout; the last of the output: ...{self.output[-1500:]}")
        ready, _, _ = select.select([self.child.stdout], [], [], left)
        data = os.read(self.child.stdout.fileno(), 65536) if ready else None
        if data == b"":
            return False
        if data:
            self.output += data.decode(errors="replace").replace("\r", "")
        return True

    def expect(self, text):
        """Waits until text appears in output that no expect() has passed yet."""
        while text not in self.output[self.seen:]:
            if not self._more():
                raise Failure(f"ended without '{text}'; the last of the output: ...{self.output[-1500:]}")
        self.seen = self.output.index(text, self.seen) + len(text)

    def send(self, text):
        self.child.stdin.write(text.encode())
        self.child.stdin.flush()

    def status(self):
        while self._more():
            pass
        return self.child.wait(timeout=20)

    def expect_status(self, want):
        got = self.status()
        if got != want:
            raise Failure(f"exit status {got}, expected {want}; the last of the output: ...{self.output[-800:]}")


def tool(name, *args):
    run = subprocess.run([os.path.join(TOP, "tools", name), *args], capture_output=True, text=True)
    if run.returncode != 0:
        raise Skip(run.stderr.strip().splitlines()[-1] if run.stderr.strip() else f"{name} failed")
    return run.stdout.strip()


def kernel(flavour):
    return tool("fetch-kernel", flavour)


def vmlinux(work, flavour):
    out = os.path.join(work, "vmlinux-" + flavour)
    if not os.path.exists(out):
        tool("extract-vmlinux.py", kernel(flavour), out)
    return out


def busybox():
    for path in ("/bin/busybox", "/usr/bin/busybox"):
        if os.path.exists(path):
            return path
    raise Skip("busybox-static is not installed")


def initramfs(work, init=SHELL_INIT, name="initrd", files=(), shell=None):
    out = os.path.join(work, name + ".cpio")
    if os.path.exists(out):
        return out
    root = os.path.join(work, name + ".root")
    for d in ("bin", "dev", "proc", "sys", "tmp", "mnt"):
        os.makedirs(os.path.join(root, d))
    shutil.copy(shell or busybox(), os.path.join(root, "bin/busybox"))
    for source, target in files:
        os.makedirs(os.path.dirname(os.path.join(root, target)), exist_ok=True)
        shutil.copy(source, os.path.join(root, target))
    with open(os.path.join(root, "init"), "w") as f:
        f.write(init)
    os.chmod(os.path.join(root, "init"), 0o755)
    subprocess.run(f"find . | cpio -o -H newc --quiet -R 0:0 > {out}", shell=True, check=True, cwd=root)
    return out


def initramfs_with(work, name, flavour, *modules, shell=None, more=()):
    """The shell initramfs with these kernel modules loaded, in this order; absent ones are built in. The shell is
    on the kernel's console or on another device. more: further (source, target) files. A 32-bit kernel gets 32-bit
    programs."""
    programs = tool("fetch-kernel", "busybox-i386") if flavour == "686" else None
    tree = os.path.join(os.path.dirname(os.path.dirname(kernel(flavour))), "lib/modules")
    files = []
    for module in modules:
        for directory, _, names in os.walk(tree):
            if module + ".ko" in names:
                files.append((os.path.join(directory, module + ".ko"), f"lib/{module}.ko"))
    load = "".join(f"insmod /{target}\n" for _, target in files)
    load += f"exec < {shell} > {shell} 2>&1\n" if shell else ""
    return initramfs(work, SHELL_INIT.replace("echo INIT", load + "echo INIT"), name, files + list(more), programs)


# --- cases ------------------------------------------------------------------------------------------------


def shell_session(guest, bits=64):
    guest.expect("INIT-REACHED")
    guest.expect("guest# ")
    guest.send("echo answer-$((6 * 7))\n")
    guest.expect("answer-42\n")
    guest.send("uname -m\n")
    guest.expect("x86_64\n" if bits == 64 else "i686\n")
    guest.send("head -c 1000000 /dev/zero | sha256sum\n")
    guest.expect("d29751f2649b32ff572b5e0a9f541ea660a50f94ff0beedfb0b692b924cc8025")


def power_off(guest):
    guest.send("poweroff -f\n")
    guest.expect_status(0)


def boots_to_shell(opts, work, image, memory="256", bits=64, append="", extra=()):
    if bits == 64:
        initrd = initramfs(work)
    else:
        initrd = initramfs(work, name="initrd32", shell=tool("fetch-kernel", "busybox-i386"))
    with Guest(opts, "-m", memory, "--kernel", image, "--initrd", initrd, "--append", ARGS + append, *extra,
               timeout=opts.timeout) as guest:
        shell_session(guest, bits)
        power_off(guest)


def cloud_bzimage(opts, work):
    """Debian's cloud kernel boots by bzImage to a shell; poweroff ends with status 0"""
    boots_to_shell(opts, work, kernel("cloud"))


def cloud_pvh(opts, work):
    """the same kernel as ELF by its PVH entry"""
    boots_to_shell(opts, work, vmlinux(work, "cloud"))


def generic_bzimage(opts, work):
    """Debian's generic kernel boots to a shell"""
    boots_to_shell(opts, work, kernel("generic"), memory="384")


def generic_pvh(opts, work):
    """the generic kernel by PVH"""
    boots_to_shell(opts, work, vmlinux(work, "generic"), memory="384")


def pae_686(opts, work):
    """a 32-bit PAE kernel boots to a shell"""
    boots_to_shell(opts, work, kernel("686"), memory="384", bits=32)


def high_memory(opts, work):
    """4.5 GiB: memory above 4 GiB is found"""
    with Guest(opts, "-m", "4608M", "--kernel", kernel("cloud"), "--initrd", initramfs(work), "--append", ARGS,
               timeout=opts.timeout) as guest:
        guest.expect("guest# ")
        guest.send("echo total $(($(awk '/MemTotal/ {print $2}' /proc/meminfo) / 1000000))\n")
        guest.expect("total 4\n")
        power_off(guest)


def two_cpus(opts, work):
    """two vCPUs come up and both do work"""
    with Guest(opts, "-c", "2", "-m", "256", "--kernel", kernel("cloud"), "--initrd", initramfs(work), "--append",
               ARGS, timeout=opts.timeout) as guest:
        guest.expect("guest# ")
        guest.send("echo cpus $(grep -c ^processor /proc/cpuinfo)\n")
        guest.expect("cpus 2\n")
        for cpu in (1, 2):
            guest.send(f"taskset {cpu} sh -c 'head -c 3000000 /dev/zero | md5sum'\n")
            guest.expect("c9fc2d3dd83ab67a129ac10b09c9ebbb")
        power_off(guest)


def family(leader):
    """A process and all that come from it; cages have process groups of their own."""
    parent = {}
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        try:
            with open(f"/proc/{pid}/stat") as f:
                parent[pid] = int(f.read().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue
    found = {leader}
    while more := {pid for pid in parent if parent[pid] in found} - found:
        found |= more
    return found


def cpu_seconds(leader):
    """CPU time that the threads of a process, and of all that come from it, have used."""
    used = 0
    for task in (task for pid in family(leader) for task in glob.glob(f"/proc/{pid}/task/*/schedstat")):
        try:
            with open(task) as f:
                used += int(f.read().split()[0])
        except OSError:
            continue
    return used / 1e9


def four_cpus(opts, work):
    """four vCPUs use the paravirtual calls, and an idle guest costs under 1 % of a CPU"""
    with Guest(opts, "-c", "4", "-m", "256", "--kernel", kernel("cloud"), "--initrd", initramfs(work), "--append",
               ARGS, timeout=opts.timeout) as guest:
        guest.expect("guest# ")
        guest.send("dmesg | grep -o -e 'PV spinlocks enabled' -e 'setup PV IPIs' -e 'setup pv remote TLB flush' | sort; echo cpus $(grep -c ^processor /proc/cpuinfo)\n")
        guest.expect("\nPV spinlocks enabled\nsetup PV IPIs\nsetup pv remote TLB flush\ncpus 4\n")
        shares = []
        while not shares or min(shares) >= 0.01:
            if len(shares) == 20:
                raise Failure(f"an idle guest takes these shares of a CPU: {shares}")
            before, start = cpu_seconds(guest.child.pid), time.monotonic()
            time.sleep(3)
            shares.append((cpu_seconds(guest.child.pid) - before) / (time.monotonic() - start))
        power_off(guest)


def clock(opts, work):
    """the guest keeps time by the paravirtual clock, and the TSC is there to take over"""
    with Guest(opts, "--kernel", vmlinux(work, "cloud"), "--initrd", initramfs(work), "--append",
               ARGS + " clocksource=kvm-clock", timeout=opts.timeout) as guest:
        guest.expect("guest# ")
        guest.send("cd /sys/devices/system/clocksource/clocksource0; cat current_clocksource available_clocksource\n")
        guest.expect("\nkvm-clock\n")
        guest.expect("tsc kvm-clock")
        guest.send("dmesg | grep -c 'kvm-clock: Using msrs'; a=$(date +%s); sleep 2; echo $(($(date +%s) - a > 1))-later\n")
        guest.expect("\n1\n1-later\n")
        guest.send("echo it-is-$(date +%s)-\n")
        guest.expect("\nit-is-")
        guest.expect("-")
        told = int(guest.output[:guest.seen].rsplit("it-is-", 1)[1].rstrip("-"))
        if abs(told - time.time()) > 60:
            raise Failure(f"the guest takes {told} for the time, the host {time.time():.0f}")
        power_off(guest)


def reboot(opts, work):
    """a guest's reboot starts the kernel again; with --no-reboot it ends with status 0"""
    with Guest(opts, "-m", "256", "--kernel", kernel("cloud"), "--initrd", initramfs(work), "--append", ARGS,
               timeout=opts.timeout) as guest:
        guest.expect("guest# ")
        guest.send("reboot -f\n")
        guest.expect("INIT-REACHED")
        guest.expect("guest# ")
        power_off(guest)
    with Guest(opts, "-m", "256", "--no-reboot", "--kernel", kernel("cloud"), "--initrd", initramfs(work),
               "--append", ARGS, timeout=opts.timeout) as guest:
        guest.expect("guest# ")
        guest.send("reboot -f\n")
        guest.expect_status(0)


def panic(opts, work):
    """a kernel panic reboots (panic=-1) and with --no-reboot ends the VM"""
    with Guest(opts, "-m", "256", "--no-reboot", "--kernel", kernel("cloud"), "--initrd", initramfs(work),
               "--append", ARGS, timeout=opts.timeout) as guest:
        guest.expect("guest# ")
        guest.send("echo c > /proc/sysrq-trigger\n")
        guest.expect("Kernel panic")
        guest.status()


def sigterm(opts, work):
    """SIGTERM presses the power button; the guest sees the event and shuts down"""
    initrd = initramfs_with(work, "button", "cloud", "evdev", "button")
    with Guest(opts, "-m", "256", "--kernel", kernel("cloud"), "--initrd", initrd, "--append", ARGS,
               timeout=opts.timeout) as guest:
        guest.expect("guest# ")
        guest.send("e=$(grep -A 5 'Power Button' /proc/bus/input/devices | grep -o 'event[0-9]*'); echo on $e.\n")
        guest.expect("on event")
        guest.send("head -c 1 /dev/input/$e > /dev/null && echo BUTTON-$((40 + 2)) && poweroff -f\n")
        time.sleep(1)
        os.kill(guest.child.pid, signal.SIGTERM)
        guest.expect("BUTTON-42")
        guest.expect_status(0)


def disk(opts, work):
    """a virtio disk keeps what the guest writes"""
    image = os.path.join(work, "disk.img")
    with open(image, "wb") as f:
        f.truncate(64 << 20)
        f.seek(4096)
        f.write(b"from the host\n")
    initrd = initramfs_with(work, "disk", "cloud", "virtio_ring", "virtio", "virtio_pci_modern_dev",
                            "virtio_pci_legacy_dev", "virtio_pci", "virtio_blk")
    args = ("-m", "256", "--kernel", kernel("cloud"), "--initrd", initrd, "--append", ARGS, "--disk", image)
    with Guest(opts, *args, timeout=opts.timeout) as guest:
        guest.expect("guest# ")
        guest.send("dd if=/dev/vda bs=4096 skip=1 count=1 2>/dev/null | head -n 1\n")
        guest.expect("from the host\n")
        guest.send("head -c 16777216 /dev/urandom > /tmp/p; dd if=/tmp/p of=/dev/vda bs=1M seek=1 conv=fsync 2>/dev/null; "
                   "echo 3 > /proc/sys/vm/drop_caches; dd if=/dev/vda bs=1M skip=1 count=16 2>/dev/null | cmp - /tmp/p && "
                   "echo sum-$((1 + 1)) $(md5sum < /tmp/p)\n")
        guest.expect("sum-2 ")
        guest.expect(" -\n")
        written = guest.output[:guest.seen].rsplit("sum-2 ", 1)[1].split()[0]
        power_off(guest)
    with open(image, "rb") as f:
        f.seek(1 << 20)
        if hashlib.md5(f.read(16 << 20)).hexdigest() != written:
            raise Failure("the image does not hold what the guest wrote")


def console(opts, work):
    """a shell on the virtio console of a guest with two vCPUs and a virtio disk"""
    image = os.path.join(work, "console.img")
    with open(image, "wb") as f:
        f.truncate(8 << 20)
        f.write(b"from the host\n")
    initrd = initramfs_with(work, "console", "cloud", "virtio_ring", "virtio", "virtio_pci_modern_dev",
                            "virtio_pci_legacy_dev", "virtio_pci", "virtio_blk", "virtio_console",
                            shell="/dev/hvc0")
    with Guest(opts, "-c", "2", "-m", "256", "--kernel", kernel("cloud"), "--initrd", initrd, "--append",
               ARGS.replace("console=ttyS0", "console=hvc0"), "--serial", "none", "--console", "stdio", "--disk",
               image, timeout=opts.timeout) as guest:
        shell_session(guest)
        guest.send("head -n 1 /dev/vda; tty; echo cpus $(grep -c ^processor /proc/cpuinfo)\n")
        guest.expect("from the host\n")
        guest.expect("/dev/hvc0\n")
        guest.expect("cpus 2\n")
        guest.send("yes berth | head -n 20000 | tee /dev/vda | md5sum; sync; head -c 120000 /dev/vda | md5sum\n")
        for _ in range(2):
            guest.expect("428fc2e6da5246d5a81d463620672d5b")
        power_off(guest)


def counted_boot(opts, work, *args, engine=""):
    """Boots, works a little and powers off; returns the engine's counters."""
    command = [opts.berth, "run", "--engine", opts.engine + engine, "--json", *args, "--serial", "none", "-m", "256",
               "--kernel", kernel("cloud"), "--initrd", initramfs(work, LOCKSTEP_INIT, "lockstep"), "--append", ARGS]
    run = subprocess.run(command, capture_output=True, text=True, timeout=opts.timeout * 2, stdin=subprocess.DEVNULL)
    events = [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]
    if run.returncode != 0:
        raise Failure(f"status {run.returncode}; {run.stdout[-300:]} {run.stderr[-300:]}")
    counters = {}
    for event in events:
        if "name" in event and "value" in event:
            counters[event["name"]] = counters.get(event["name"], 0) + event["value"]
    return counters


def lockstep(opts, work):
    """a sampled boot: translated blocks leave what the interpreter leaves"""
    compared = counted_boot(opts, work, "--debug", "lockstep")["lockstep_blocks"]
    if compared < 10000:
        raise Failure(f"{compared} blocks compared")


def translations(opts, work):
    """a second boot finds almost all translations in the file, though the kernel lies elsewhere"""
    folder = os.path.join(work, "translations")
    os.mkdir(folder, 0o700)
    boots = [counted_boot(opts, work, engine=f",translation-cache={folder}/file") for _ in range(2)]
    first, second = (b["translated_instructions"] for b in boots)
    if second > first / 10 or boots[1]["loaded_blocks"] < 10000 or boots[1]["refused_blocks"]:
        raise Failure(f"{first} instructions translated at the first boot, {second} at the second; {boots[1]}")


def memtest(opts, work):
    """Debian's memtest86+ starts its test screen on the serial line"""
    image = next((p for p in ("/boot/memtest86+x64.bin", "/boot/mt86+x64") if os.path.exists(p)), None)
    if not image:
        raise Skip("package memtest86+ is not installed")
    with Guest(opts, "-m", "64", "--kernel", image, "--append", "console=ttyS0,115200", timeout=opts.timeout) as guest:
        guest.expect("Memtest86+")
        guest.expect("Pass")


def bad_inputs(opts, work):
    """bad kernels, initrds, sizes and files: one line, status 2 or 3, with something to try"""
    junk = os.path.join(work, "junk")
    with open(junk, "wb") as f:
        f.write(os.urandom(100000))
    image = kernel("cloud")
    with open(image, "rb") as f, open(os.path.join(work, "short"), "wb") as out:
        out.write(f.read(200000))
    empty = os.path.join(work, "empty")
    open(empty, "w").close()
    for args in (["--kernel", junk], ["--kernel", os.path.join(work, "short")], ["--kernel", "/nowhere/kernel"],
                 ["--kernel", empty], ["--kernel", image, "--initrd", "/nowhere/initrd"],
                 ["--kernel", image, "-m", "3"], ["--kernel", image, "-m", "200G"], ["--kernel", image, "-c", "0"],
                 ["--kernel", image, "-m", "32", "--initrd", image + "x"], ["--kernel", image, "--disk", "/nowhere"],
                 ["--kernel", image, "--serial", "carrier-pigeon"], ["--kernel", image, "--engine", "steam"],
                 ["--no-such-option"], []):
        command = [opts.berth, "run", "--engine", opts.engine, *args]
        run = subprocess.run(command, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
        lines = run.stderr.strip().splitlines()
        if run.returncode not in (2, 3) or len(lines) != 1 or not lines[0].startswith("berth"):
            raise Failure(f"{' '.join(args)}: status {run.returncode}, stderr {run.stderr!r}")


CASES = [cloud_bzimage, cloud_pvh, generic_bzimage, generic_pvh, pae_686, high_memory, two_cpus, four_cpus, clock, reboot, panic,
         sigterm, disk, console, lockstep, translations, memtest, bad_inputs]


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--berth", default=os.path.join(TOP, "build/berth"))
    p.add_argument("--engine", default="translate")
    p.add_argument("--debug", default="")
    p.add_argument("--append", default="", help="more of the kernels' command line")
    p.add_argument("--timeout", type=int, default=240, help="seconds for one guest")
    p.add_argument("--list", action="store_true")
    p.add_argument("cases", nargs="*")
    opts = p.parse_args()
    global ARGS
    ARGS += " " + opts.append
    if opts.list:
        for case in CASES:
            print(f"{case.__name__:20} {case.__doc__}")
        return 0
    cases = [c for c in CASES if not opts.cases or c.__name__ in opts.cases]
    failed = skipped = 0
    print(f"1..{len(cases)}")
    with tempfile.TemporaryDirectory(prefix="berth-test.") as work:
        for i, case in enumerate(cases, 1):
            start = time.monotonic()
            try:
                case(opts, work)
                print(f"ok {i} - {case.__name__} # {time.monotonic() - start:.1f} s")
            except Skip as why:
                skipped += 1
                print(f"ok {i} - {case.__name__} # SKIP {why}")
            except (Failure, subprocess.TimeoutExpired) as why:
                failed += 1
                print(f"not ok {i} - {case.__name__}")
                for line in str(why).splitlines()[-40:]:
                    print(f"# {line}")
            sys.stdout.flush()
    return 1 if failed else 77 if skipped == len(cases) else 0


if __name__ == "__main__":
    sys.exit(main())
