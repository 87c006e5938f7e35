#!/usr/bin/env python3
"""What people boot: disks and discs, by SeaBIOS and OVMF, with what is on them read from the screen and the serial line.

    firmware.py [--berth FILE] [--engine ENGINE] CASE...
    firmware.py --list

Exit status: 0 all cases passed, 1 some failed, 77 all were skipped.
"""
import gzip
import os
import re
import shutil
import subprocess
import sys
import time

import boot
import networks
from boot import ARGS, Failure, Guest, Skip, initramfs, kernel, power_off, shell_session, tool

CACHE = os.environ.get("BERTH_CACHE") or os.path.join(os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache")), "berth")
INSTALLER = "/usr/lib/debian-installer/images/12/amd64/text/debian-installer/amd64"
PASSWORD = "berth"
ROOT_AT = 66 << 20  # of the root file system on a disk of build-debian's


class Machine(Guest):
    """A guest with firmware, and a screen that is looked at with Berth's own verbs."""

    def __init__(self, opts, work, *args):
        os.environ["XDG_DATA_HOME"] = work  # UEFI's variables
        self.opts = opts
        self.name = f"firmware-{os.getpid()}"
        net = () if "--net" in args else ("--net", "none")
        super().__init__(opts, "-n", self.name, *net, *args, timeout=opts.timeout)

    def ask(self, *args):
        run = subprocess.run([self.opts.berth, args[0], self.name, *args[1:]], capture_output=True, text=True, timeout=60)
        return run.stdout if run.returncode == 0 else ""

    def expect_screen(self, *texts):
        """Waits until the screen shows all of these at once; what it shows then."""
        while True:
            screen = self.ask("screen")
            if all(text in screen for text in texts):
                return screen
            if time.monotonic() > self.deadline or self.child.poll() is not None:
                raise Failure(f"the screen does not show {texts}: {screen}")
            time.sleep(0.5)

    def key(self, *keys):
        self.ask("sendkey", *keys)

    def type(self, line):
        names = {" ": "spc", "/": "slash", ".": "dot", ":": "shift-semicolon", "-": "minus"}
        self.key(*(names.get(c, c) for c in line), "enter")


def package_file(path, package):
    if not os.path.exists(path):
        raise Skip(f"no {path}; run apt-get install {package}")
    return path


def disc(work, name, menu, files=()):
    """A GRUB disc for BIOS and UEFI. files: (source, name on the disc)."""
    for program, package in (("grub-mkrescue", "grub-common"), ("xorriso", "xorriso"), ("mformat", "mtools")):
        if not shutil.which(program):
            raise Skip(f"no {program}; run apt-get install {package}")
    tree, out = os.path.join(work, name + ".tree"), os.path.join(work, name + ".iso")
    os.makedirs(os.path.join(tree, "boot/grub"))
    for source, target in files:
        shutil.copy(source, os.path.join(tree, target))
    with open(os.path.join(tree, "boot/grub/grub.cfg"), "w") as f:
        f.write("set timeout=0\nserial --unit=0\nterminal_input console serial\nterminal_output console serial\n" + menu)
    run = subprocess.run(["grub-mkrescue", "-o", out, tree], capture_output=True, text=True, timeout=120)
    if run.returncode != 0:
        raise Skip("grub-mkrescue: " + run.stderr.strip().splitlines()[-1])
    return out


# --- a disc that starts and ends itself -------------------------------------------------------------------


def rescue(opts, work, firmware):
    menu = "set timeout=-1\nmenuentry 'First entry' { echo first; }\nmenuentry 'Second entry' { echo off; halt; }\n"
    with Machine(opts, work, disc(work, "rescue", menu), "--firmware", firmware) as m:
        m.expect_screen("First entry", "Second entry")
        m.expect("First entry")
        m.key("down")
        m.key("enter")
        m.expect_status(0)


def rescue_bios(opts, work):
    """a GRUB disc under SeaBIOS: its menu is on screen and serial line, keys choose from it, it powers off"""
    rescue(opts, work, "bios")


def rescue_uefi(opts, work):
    """the same disc under OVMF"""
    rescue(opts, work, "uefi")


def guessed(opts, work):
    """an empty name leaves the choice to the image: a disc for UEFI alone starts by UEFI"""
    tree, out = os.path.join(work, "tree"), os.path.join(work, "efi.iso")
    both = disc(work, "both", "set timeout=-1\nmenuentry 'Only entry' { halt; }\n")
    os.makedirs(tree)
    subprocess.run(["xorriso", "-osirrox", "on", "-indev", both, "-extract", "/", tree], check=True, capture_output=True)
    subprocess.run(["xorriso", "-as", "mkisofs", "-R", "-o", out, "-e", "efi.img", "-no-emul-boot", tree], check=True,
                   capture_output=True)
    with Machine(opts, work, out) as m:
        m.expect_screen("Only entry")
        m.key("enter")
        m.expect_status(0)
    if not [name for name in os.listdir(os.path.join(work, "berth")) if name.endswith(".uefi-vars")]:
        raise Failure("UEFI's variables were not kept")


# --- Debian -----------------------------------------------------------------------------------------------


def debian_disk(opts, work):
    """A disk over one that berth image build-debian made, once for all tests."""
    image, disk = os.path.join(CACHE, "debian-12.qcow2"), os.path.join(work, "debian.qcow2")
    if not os.path.exists(image):
        os.makedirs(CACHE, exist_ok=True)
        run = subprocess.run([opts.berth, "image", "build-debian", "--size", "2G", "--password", PASSWORD, image],
                             capture_output=True, text=True, timeout=1500)
        if run.returncode != 0:
            raise Skip((run.stderr.strip().splitlines() or ["build-debian failed"])[-1])
    subprocess.run([opts.berth, "disk", "create", "-q", "-b", image, disk], check=True)
    return disk


def small_package(work):
    """A package with one program, at the start of a disk; its size."""
    tree, out = os.path.join(work, "package"), os.path.join(work, "package.deb")
    os.makedirs(os.path.join(tree, "DEBIAN"))
    os.makedirs(os.path.join(tree, "usr/bin"))
    with open(os.path.join(tree, "DEBIAN/control"), "w") as f:
        f.write("Package: berth-test\nVersion: 1.0\nArchitecture: all\nMaintainer: root <root@localhost>\nDescription: test\n")
    with open(os.path.join(tree, "usr/bin/berth-test"), "w") as f:
        f.write("#!/bin/sh\necho package-$((40 + 2))\n")
    os.chmod(os.path.join(tree, "usr/bin/berth-test"), 0o755)
    subprocess.run(["dpkg-deb", "--root-owner-group", "-b", tree, out], check=True, capture_output=True)
    size = os.path.getsize(out)
    os.truncate(out, (size + 511) // 512 * 512)
    return out, size


def log_in(m):
    m.expect("login: ")
    m.send("root\n")
    m.expect("Password: ")
    m.send(PASSWORD + "\n")
    m.expect(":~# ")


def check_file_system(opts, work, disk):
    plain = os.path.join(work, "plain.raw")
    subprocess.run([opts.berth, "disk", "check", "-q", disk], check=True)
    subprocess.run([opts.berth, "disk", "convert", "-q", "-O", "raw", disk, plain], check=True)
    run = subprocess.run(["/usr/sbin/e2fsck", "-fn", f"{plain}?offset={ROOT_AT}"], capture_output=True, text=True, timeout=300)
    if run.returncode != 0:
        raise Failure(f"e2fsck: status {run.returncode}: {run.stdout[-1500:]}{run.stderr[-300:]}")


def debian(opts, work, firmware):
    image = debian_disk(opts, work)
    package, size = small_package(work)
    with Machine(opts, work, image, "--firmware", firmware, "--disk", package + ",read-only") as m:
        log_in(m)
        m.send("echo root is $(findmnt -no FSTYPE /), systemd $(systemctl is-system-running --wait)\n")
        m.expect("root is ext4, systemd running\n")
        m.send(f"ls -d /sys/firmware/efi | wc -l; head -c {size} /dev/vdb > /tmp/p.deb; apt-get -y install /tmp/p.deb > /tmp/log 2>&1 || cat /tmp/log; berth-test\n")
        m.expect(("1" if firmware == "uefi" else "0") + "\n")
        m.expect("package-42\n")
        m.send("systemctl reboot\n")
        log_in(m)
        m.send("berth-test; apt-get -y remove berth-test > /tmp/log 2>&1 || cat /tmp/log; dpkg --audit; [ -e /usr/bin/berth-test ] || echo gone-$((40 + 2))\n")
        m.expect("package-42\n")
        m.expect("gone-42\n")
        m.send("systemctl poweroff\n")
        m.expect_status(0)
    check_file_system(opts, work, image)


def debian_bios(opts, work):
    """Debian 12 by SeaBIOS and GRUB: systemd's login, packages, a reboot, a clean file system after power-off"""
    debian(opts, work, "bios")


def debian_uefi(opts, work):
    """the same disk by OVMF"""
    debian(opts, work, "uefi")


def installer_disc(work, append):
    files = [(package_file(os.path.join(INSTALLER, name), "debian-installer-12-netboot-amd64"), name)
             for name in ("linux", "initrd.gz")]
    return disc(work, "installer", f"menuentry 'Install' {{ linux /linux {append}\ninitrd /initrd.gz\n}}\n", files)


def installer_serial(opts, work):
    """Debian's installer asks its first question on the serial line"""
    with Machine(opts, work, installer_disc(work, "console=ttyS0 --- quiet")) as m:
        m.expect("Select a language")
        m.expect("English")


def installer_screen(opts, work):
    """Debian's installer asks its first question on the screen, and the next one after Enter"""
    with Machine(opts, work, installer_disc(work, "vga=normal nomodeset --- quiet")) as m:
        m.expect_screen("Select a language", "English")
        m.key("enter")
        m.expect_screen("Select your location")


# --- other kernels, and no Linux at all -------------------------------------------------------------------


def linux_disc(work, image, initrd):
    menu = f"menuentry 'Linux' {{ linux /linux {ARGS} quiet\ninitrd /initrd\n}}\n"
    return disc(work, "linux", menu, [(image, "linux"), (initrd, "initrd")])


def kernel_686(opts, work):
    """Debian's 32-bit kernel, started by GRUB"""
    initrd = initramfs(work, name="initrd32", shell=tool("fetch-kernel", "busybox-i386"))
    with Machine(opts, work, linux_disc(work, kernel("686"), initrd)) as m:
        shell_session(m, 32)
        power_off(m)


def kernel_5_10(opts, work):
    """the kernel of the release before, 5.10, started by GRUB under both firmwares"""
    image = linux_disc(work, kernel("5.10"), initramfs(work))
    for firmware in ("bios", "uefi"):
        with Machine(opts, work, image, "--firmware", firmware) as m:
            shell_session(m)
            m.send("uname -r\n")
            m.expect("5.10.")
            power_off(m)


def memtest(opts, work):
    """memtest86+ runs its first tests on the screen without errors"""
    program = package_file("/boot/memtest86+x64.bin", "memtest86+")
    image = disc(work, "memtest", "menuentry 'memtest' { linux /memtest }\n", [(program, "memtest")])
    with Machine(opts, work, "-m", "32", image) as m:
        m.expect_screen("Memtest86+", "Test #3", "Errors: 0")


def ipxe(opts, work):
    """iPXE's disc, by ISOLINUX, takes commands on its screen"""
    with Machine(opts, work, package_file("/usr/lib/ipxe/ipxe.iso", "ipxe")) as m:
        m.expect_screen("Ctrl-B for the iPXE command line")
        m.key("ctrl-b")
        m.expect_screen("iPXE>")
        m.type("help")
        m.expect_screen("Available commands", "sanboot")


def ipxe_e1000(opts, work):
    """iPXE drives Intel's card: it gets an address and a file from the host's loopback"""
    fetch_with_ipxe(opts, work, package_file("/usr/lib/ipxe/ipxe.iso", "ipxe"))


def uefi_e1000(opts, work):
    """OVMF drives Intel's card with what the card's ROM brings: an address, and a file from the host's loopback"""
    package_file("/usr/lib/ipxe/qemu/efi-e1000.rom", "ipxe-qemu")
    fetch_with_ipxe(opts, work, "--firmware", "uefi")


def bios_rom(opts, work):
    """SeaBIOS starts from the network with the ROM that a virtio card was given"""
    rom = package_file("/usr/lib/ipxe/qemu/efi-virtio.rom", "ipxe-qemu")
    fetch_with_ipxe(opts, work, "--firmware", "bios", card="virtio,rom=" + rom, chip="virtio-net")


def fetch_with_ipxe(opts, work, *args, card="e1000", chip="82540em"):
    networks.private_home(work)
    try:
        with networks.Server() as server, Machine(opts, work, "--net", "default,model=" + card, *args) as m:
            # iPXE asks for two seconds only, which a busy host may miss; keys that come before wait for it.
            while "iPXE>" not in (screen := m.ask("screen")):
                m.key("ctrl-b")
                if time.monotonic() > m.deadline:
                    raise Failure(f"iPXE does not hear Ctrl-B: {screen}")
                time.sleep(0.3)
            m.type("dhcp")
            m.expect_screen("...... ok")
            m.type("show net0/gateway")
            gateway = re.search(r"net0[^\n]*/gateway:ipv4 = ([\d.]+)", m.expect_screen("gateway:ipv4 = ")).group(1)
            m.type("ifstat")
            m.expect_screen(chip)
            m.type(f"imgfetch http://{gateway}:{server.port}/file")
            m.expect_screen("/file... ok")
    finally:
        networks.end_switches()


def invaders(opts, work):
    """a game that is its own kernel draws its fleet on the screen"""
    program = package_file("/boot/invaders.exec", "grub-invaders")
    image = disc(work, "invaders", "menuentry 'game' { multiboot /invaders }\n", [(program, "invaders")])
    with Machine(opts, work, image) as m:
        m.expect_screen("-*-           -*-", "/ \\")


def mach(opts, work):
    """GNU Mach finds memory, clock and devices, and asks for the programs of a system"""
    program = os.path.join(work, "gnumach")
    subprocess.run(["apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", "gnumach-image-1.8-486"], cwd=work, capture_output=True)
    for name in os.listdir(work):
        if name.startswith("gnumach-image") and name.endswith(".deb"):
            subprocess.run(["dpkg", "-x", name, "mach"], cwd=work, check=True)
    packed = os.path.join(work, "mach/boot/gnumach-1.8-486.gz")
    if not os.path.exists(packed):
        raise Skip("cannot download gnumach-image-1.8-486")
    with gzip.open(packed) as source, open(program, "wb") as out:
        shutil.copyfileobj(source, out)
    image = disc(work, "gnumach", "menuentry 'Mach' { multiboot /gnumach }\n", [(program, "gnumach")])
    with Machine(opts, work, image) as m:
        m.expect_screen("GNU Mach 1.8", "RTC time is", "No bootstrap code loaded")


def u_boot(opts, work):
    """U-Boot in place of SeaBIOS"""
    program = package_file("/usr/lib/u-boot/qemu-x86_64/u-boot.rom", "u-boot-qemu")
    with Machine(opts, work, "--firmware", "bios:" + program) as m:
        m.expect("U-Boot 2")
        m.expect("Hit any key to stop autoboot")
        m.send("\n")
        m.expect("=> ")
        m.send("bdinfo\n")
        m.expect("DRAM bank")


CASES = [rescue_bios, rescue_uefi, guessed, debian_bios, debian_uefi, installer_serial, installer_screen, kernel_686,
         kernel_5_10, memtest, ipxe, ipxe_e1000, uefi_e1000, bios_rom, invaders, mach, u_boot]

if __name__ == "__main__":
    boot.CASES = CASES
    boot.__doc__ = __doc__
    sys.exit(boot.main())
