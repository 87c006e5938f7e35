#!/usr/bin/env python3
"""Disks of every kind under Debian's kernels: what the guest writes is on the image, what is there it reads.

    disks.py [--berth FILE] [--engine ENGINE] CASE...
    disks.py --list

Exit status: 0 all cases passed, 1 some failed, 77 all were skipped.
"""
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import boot
from boot import ARGS, Failure, Guest, Skip, initramfs_with, kernel, power_off

SCSI = ("scsi_common", "scsi_mod", "crct10dif_common", "crct10dif_generic", "crc-t10dif", "crc64",
        "crc64_rocksoft_generic", "crc64-rocksoft", "t10-pi", "sd_mod", "cdrom", "sr_mod", "isofs")
AHCI = SCSI + ("libata", "libahci", "ahci")
NVME = ("crct10dif_common", "crct10dif_generic", "crc-t10dif", "crc64", "crc64_rocksoft_generic",
        "crc64-rocksoft", "t10-pi", "nvme-common", "nvme-core", "nvme")
VIRTIO = ("virtio_ring", "virtio", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci", "virtio_blk")
EXT4 = ("crc16", "crc32c_generic", "libcrc32c", "mbcache", "jbd2", "ext4")


def guest(opts, work, name, modules, *args, cpus="1"):
    initrd = initramfs_with(work, name, "generic", *modules, *EXT4)
    return Guest(opts, "-m", "384", "-c", cpus, "--kernel", kernel("generic"), "--initrd", initrd, "--append", ARGS + " quiet",
                 *args, timeout=opts.timeout)


def new_image(work, name, megabytes=64):
    image = os.path.join(work, name)
    with open(image, "wb") as f:
        f.truncate(megabytes << 20)
        f.seek(4096)
        f.write(b"from the host\n")
    return image


def md5_of(image, offset, size):
    with open(image, "rb") as f:
        f.seek(offset)
        return hashlib.md5(f.read(size)).hexdigest()


def answer(g, command, mark):
    """Runs a command in the guest; returns what it says after the mark on its line."""
    g.send(f"echo {mark[0]}''{mark[1:]} $({command})\n")
    g.expect(mark + " ")
    start = g.seen
    g.expect("\n")
    return g.output[start:g.seen].strip()


def use_disk(g, device, image, name):
    """Reads, writes 16 MiB past the cache, a file system, TRIM; leaves the sum of what is at 1 MiB."""
    g.expect("guest# ")
    g.send(f"while [ ! -b {device} ]; do sleep 0.1; done; dd if={device} bs=4096 skip=1 count=1 2>/dev/null | head -n 1\n")
    g.expect("from the host\n")
    g.send("head -c 16777216 /dev/urandom > /tmp/p\n")
    if answer(g, f"dd if=/tmp/p of={device} bs=1M seek=1 conv=fsync 2>/dev/null; echo 3 > /proc/sys/vm/drop_caches; "
              f"dd if={device} bs=1M skip=1 count=16 2>/dev/null | cmp - /tmp/p && echo same", "COMPARED") != "same":
        raise Failure(f"{name}: the guest does not read what it wrote")
    return answer(g, "md5sum < /tmp/p", "SUM").split()[0]


def use_file_system(g, device, name):
    g.send(f"mke2fs {device} >/dev/null 2>&1; mount -t ext4 {device} /mnt && cp /tmp/p /mnt/p && sync; echo 3 > /proc/sys/vm/drop_caches\n")
    if answer(g, "cmp /mnt/p /tmp/p && rm /mnt/p && sync && fstrim /mnt && umount /mnt && echo same", "FILES") != "same":
        raise Failure(f"{name}: the file system does not hold what was copied")


def whole_disk(opts, work, name, modules, device, *options, cpus="1"):
    image = new_image(work, name + ".img")
    args = ("--disk", ",".join((image,) + options))
    with guest(opts, work, name, modules, *args, cpus=cpus) as g:
        written = use_disk(g, device, image, name)
        power_off(g)
    if md5_of(image, 1 << 20, 16 << 20) != written:
        raise Failure(f"{name}: the image does not hold what the guest wrote")
    with guest(opts, work, name, modules, *args, cpus=cpus) as g:
        use_disk(g, device, image, name)
        use_file_system(g, device, name)
        power_off(g)


def ahci(opts, work):
    """a SATA disk: queued reads and writes, a file system, TRIM"""
    whole_disk(opts, work, "ahci", AHCI, "/dev/sda", "bus=ahci", "serial=S1")


def nvme(opts, work):
    """an NVMe disk with a queue for each of two vCPUs"""
    whole_disk(opts, work, "nvme", NVME, "/dev/nvme0n1", "bus=nvme", cpus="2")


def virtio(opts, work):
    """a virtio disk with two queues, a file system and discards"""
    whole_disk(opts, work, "virtio", VIRTIO, "/dev/vda", cpus="2")


def berth(opts, *args):
    """Asks a running VM; returns the answer."""
    return json.loads(subprocess.run([opts.berth, args[0], "--json", *args[1:]], check=True, capture_output=True).stdout)


def virtio_guest(opts, work, image, *options, cpus="1", more=()):
    """Debian's cloud kernel with a virtio disk: the guest, and its name."""
    vm = f"disks-{os.getpid()}-{time.monotonic_ns()}"
    initrd = initramfs_with(work, "cloud-virtio" + "-more" * bool(more), "cloud", *VIRTIO, more=more)
    return Guest(opts, "--name", vm, "-m", "256", "-c", cpus, "--kernel", kernel("cloud"), "--initrd", initrd, "--append",
                 ARGS + " quiet", "--disk", ",".join((image,) + options), timeout=opts.timeout), vm


def libraries(program):
    return [(f, f.lstrip("/")) for f in re.findall(r"(/\S+)", subprocess.run(["ldd", program], capture_output=True,
                                                                            text=True).stdout)]


def virtio_requests(opts, work):
    """what a virtio disk offers: a queue for each vCPU, its serial number, discards, zeros, flushes"""
    program = shutil.which("blkdiscard", path="/usr/sbin:/sbin")
    if not program:
        raise Skip("no blkdiscard of util-linux")
    image = new_image(work, "requests.img")
    g, vm = virtio_guest(opts, work, image, "serial=tell-tale", cpus="2",
                         more=[(program, "bin/blkdiscard-all")] + libraries(program))
    with g:
        g.expect("guest# ")
        g.send("while [ ! -b /dev/vda ]; do sleep 0.1; done; mount -t sysfs s /sys; cd /sys/block/vda\n")
        for what, want in (("ls mq | wc -l", "2"), ("cat serial", "tell-tale"), ("cat queue/write_cache", "write back"),
                           ("cat queue/discard_granularity", "512")):
            if (said := answer(g, what, "ASKED")) != want:
                raise Failure(f"'{what}' says '{said}', not '{want}'")
        answer(g, "tr '\\0' x < /dev/zero | dd of=/dev/vda bs=1M count=32 iflag=fullblock conv=fsync 2>/dev/null; echo ok", "WROTE")
        before = os.stat(image).st_blocks
        answer(g, "blkdiscard -o 8388608 -l 8388608 /dev/vda; blkdiscard-all -z -o 20971520 -l 1048576 /dev/vda; sync; echo ok", "GONE")
        if before - os.stat(image).st_blocks < 8 * 2048:
            raise Failure("discarding gives no space back")
        left = answer(g, "echo 3 > /proc/sys/vm/drop_caches; for at in 8 15 20 7 21; do dd if=/dev/vda bs=1M skip=$at count=1"
                      " 2>/dev/null | tr -d '\\0' | wc -c; done", "LEFT").split()
        if left != ["0", "0", "0", "1048576", "1048576"]:
            raise Failure(f"discards and zeros left {left}")
        counters = berth(opts, "stats", vm)["counters"]
        for name in ("disk0.reads", "disk0.written_bytes", "disk0.flushes", "disk0.discards"):
            if not counters.get(name):
                raise Failure(f"{name} is not counted")
        power_off(g)


def seconds_of(g, megabytes):
    """How long the guest takes to read so much past its cache, 64 KiB at a time."""
    up = "$(cut -d ' ' -f 1 /proc/uptime)"
    start, end = answer(g, f"echo {up}; dd if=/dev/vda of=/dev/null bs=64k count={megabytes * 16} iflag=direct 2>/dev/null; "
                        f"echo {up}", "TOOK").split()
    return float(end) - float(start)


def share_of_limit(g, mib, saved, rate):
    """What part of its limit a guest reaches in the best of a few windows. What has been saved up goes at once, and then
    the rate holds."""
    best = 0
    for _ in range(5):
        time.sleep(saved / rate)
        best = max(best, (mib - saved) / seconds_of(g, mib) / rate)
        if best > 0.95:
            break
    return best


def limits(opts, work):
    """bandwidth and operations are what the limits say within 5 %, and limits change while the guest runs"""
    image = new_image(work, "limits.img")
    g, vm = virtio_guest(opts, work, image, "bps=2M", "bps-burst=1M")
    shares = []
    with g:
        g.expect("guest# ")
        g.send("while [ ! -b /dev/vda ]; do sleep 0.1; done\n")
        for mib, saved, rate, change in ((16, 1, 2, ()), (32, 1, 4, ("bps=4M",)), (28, 8, 4, ("bps-burst=8M",)),
                                         (20, 20 / 16, 40 / 16, ("bps=0", "iops-read=40", "iops-read-burst=20"))):
            if change:
                berth(opts, "limit", vm, "disk0", *change)
            shares.append(share_of_limit(g, mib, saved, rate))
        measured = "measured, as a part of the limit: " + " ".join(f"{share:.3f}" for share in shares)
        if max(shares) > 1.05:
            raise Failure(measured)
        if berth(opts, "limit", vm, "disk0") != {"iops_read": 40, "iops_read_burst": 20}:
            raise Failure("the limits that hold are not those that were set")
        if min(shares) < 0.95:
            berth(opts, "limit", vm, "disk0", "iops-read=0")
            if (free := 64 / seconds_of(g, 64)) > 40:
                raise Failure(measured)
            print(f"# {measured}; without limits it would be {free:.0f} MiB a second, too few to judge by")
        power_off(g)


def cdrom(opts, work):
    """a SATA CD-ROM drive: an ISO image is mounted and read; an empty drive says so"""
    maker = shutil.which("xorrisofs") or shutil.which("genisoimage") or shutil.which("mkisofs")
    if not maker:
        raise Skip("no xorrisofs, genisoimage or mkisofs")
    tree = os.path.join(work, "tree")
    os.makedirs(tree, exist_ok=True)
    with open(os.path.join(tree, "data"), "wb") as f:
        f.write(os.urandom(9 << 20))
    iso = os.path.join(work, "cd.iso")
    subprocess.run([maker, "-quiet", "-R", "-o", iso, tree], check=True, capture_output=True)
    with guest(opts, work, "cdrom", AHCI, "--cdrom", iso, "--cdrom", "none") as g:
        g.expect("guest# ")
        g.send("while [ ! -b /dev/sr1 ]; do sleep 0.1; done; mount -t iso9660 -o ro /dev/sr0 /mnt\n")
        if answer(g, "md5sum < /mnt/data", "SUM").split()[0] != md5_of(os.path.join(tree, "data"), 0, 9 << 20):
            raise Failure("the guest reads something else from the disc")
        if answer(g, "head -c 1 /dev/sr1 2>&1 | grep -c -i 'no medium'", "EMPTY") != "1":
            raise Failure("the empty drive is not empty")
        power_off(g)


def disk_tool(opts, *args, status=0):
    done = subprocess.run([opts.berth, "disk", *args], capture_output=True, text=True, timeout=60)
    if done.returncode != status:
        raise Failure(f"berth disk {' '.join(args)}: {done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def qcow2(opts, work):
    """a qcow2 disk over a raw one: what the guest wrote is there, the image is sound, and nobody else gets it meanwhile"""
    base, image = new_image(work, "base.img"), os.path.join(work, "over.qcow2")
    plain = os.path.join(work, "plain.img")
    before = md5_of(base, 0, 64 << 20)
    disk_tool(opts, "create", "-b", "base.img", image)
    args = ("--disk", image)
    with guest(opts, work, "qcow2", VIRTIO, *args, cpus="2") as g:
        written = use_disk(g, "/dev/vda", image, "qcow2")
        if "in use" not in disk_tool(opts, "resize", image, "+1M", status=3):
            raise Failure("the image can be resized while its VM runs")
        if "(in use)" not in disk_tool(opts, "info", image):
            raise Failure("the image does not show that it is in use")
        power_off(g)
    disk_tool(opts, "check", image)
    disk_tool(opts, "convert", "-O", "raw", image, plain)
    if md5_of(plain, 1 << 20, 16 << 20) != written:
        raise Failure("the image does not hold what the guest wrote")
    kept = md5_of(image, 0, 1 << 30)
    with guest(opts, work, "qcow2", VIRTIO, "--snapshot", *args) as g:
        use_disk(g, "/dev/vda", image, "qcow2")
        use_file_system(g, "/dev/vda", "qcow2")
        power_off(g)
    if md5_of(image, 0, 1 << 30) != kept or md5_of(base, 0, 64 << 20) != before:
        raise Failure("an image changed that should not")


def vmm_of(g):
    """The process that is the VM: the child of berth's own."""
    with open(f"/proc/{g.child.pid}/task/{g.child.pid}/children", encoding="ascii") as f:
        return int(f.read().split()[0])


def qcow2_killed(opts, work):
    """a VM killed with SIGKILL while it writes: its qcow2 image is sound, without leaks, and holds all that was flushed"""
    image, plain = os.path.join(work, "killed.qcow2"), os.path.join(work, "plain.img")
    disk_tool(opts, "create", "--cluster-size", "4K", image, "64M")
    last = 0
    for seconds in (0.3, 1, 2.2):
        with guest(opts, work, "killed", VIRTIO, "--disk", image) as g:
            g.expect("guest# ")
            g.send("while [ ! -b /dev/vda ]; do sleep 0.1; done\n")
            g.send(f"i={last}; while :; do i=$((i+1)); yes $i | head -c 4096 | dd of=/dev/vda bs=4096 seek=$((i*7)) conv=fsync "
                   "2>/dev/null; echo WRO''TE $i; done\n")
            g.expect("WROTE ")
            time.sleep(seconds)
            os.kill(vmm_of(g), signal.SIGKILL)
            g.status()
            last = max(int(line) for line in re.findall(r"WROTE (\d+)\n", g.output))
        found = json.loads(subprocess.run([opts.berth, "disk", "check", "--json", image], capture_output=True,
                                          timeout=60).stdout)
        if found["errors"] or found["leaks"]:
            raise Failure(f"the image has errors: {found['findings'][:5]}")
        if shutil.which("qemu-img") and subprocess.run(["qemu-img", "check", "-q", image], timeout=60).returncode:
            raise Failure("qemu-img finds errors in the image")
        disk_tool(opts, "convert", "--force", "-O", "raw", image, plain)
        with open(plain, "rb") as f:
            for i in range(1, last + 1):
                f.seek(i * 7 * 4096)
                if f.read(4096) != (b"%d\n" % i * 4096)[:4096]:
                    raise Failure(f"block {i} of {last} was flushed and is lost")
    print(f"# {last} flushed writes")


CASES = [ahci, nvme, virtio, virtio_requests, limits, cdrom, qcow2, qcow2_killed]

if __name__ == "__main__":
    boot.CASES = CASES
    boot.__doc__ = __doc__
    sys.exit(boot.main())
