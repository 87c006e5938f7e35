#!/usr/bin/env python3
"""Screens of real firmware, boot loaders and kernels, read and typed at by `berth screen` and `berth sendkey`.

    screens.py [--berth FILE] [--engine ENGINE] CASE...
    screens.py --list

Exit status: 0 all cases passed, 1 some failed, 77 all were skipped.
"""
import json
import os
import shutil
import subprocess
import sys
import time

import boot
from boot import Failure, Guest, Skip, initramfs, initramfs_with, kernel
from vnc import Viewer

CONSOLE = "console=tty0 panic=-1 random.trust_cpu=on"
BOCHS = ("drm", "drm_kms_helper", "ttm", "drm_ttm_helper", "drm_vram_helper", "bochs", "libps2", "psmouse", "mousedev")


class Screen(Guest):
    """A guest that is watched by its screen; its serial line is not looked at."""

    def __init__(self, opts, *args):
        self.name = f"screens-{os.getpid()}"
        self.berth = opts.berth
        super().__init__(opts, "-n", self.name, "--vga", "std", "--net", "none", "--serial", "none", *args,
                         timeout=opts.timeout)

    def verb(self, verb, *args):
        return subprocess.run([self.berth, verb, self.name, *args], capture_output=True, text=True, timeout=30)

    def screen(self):
        return self.verb("screen").stdout

    def shows(self, text):
        """Waits until the screen shows a text; returns the screen."""
        while True:
            screen = self.screen()
            if text in screen:
                return screen
            if self.child.poll() is not None:
                raise Failure(f"ended without '{text}': {self.child.stdout.read().decode(errors='replace')}")
            if time.monotonic() > self.deadline:
                raise Failure(f"the screen does not show '{text}' but\n{screen}{self.verb('screen').stderr}")
            time.sleep(0.3)

    def type(self, *keys):
        run = self.verb("sendkey", *keys)
        if run.returncode:
            raise Failure(f"sendkey {keys}: {run.stderr}")

    def answers(self, command, answer):
        """A shell on the screen does what is typed."""
        self.type("--text", command + "\n")
        return self.shows(answer)

    def power_off(self):
        self.type("--text", "poweroff -f\n")
        self.expect_status(0)


def need(*paths):
    for path in paths:
        if not os.path.exists(path):
            raise Skip(f"{path} is missing")


def disc(work, name, config):
    """A disc with GRUB, the cloud kernel and a shell."""
    if not shutil.which("grub-mkrescue") or not os.path.exists("/usr/lib/grub/i386-pc"):
        raise Skip("grub-mkrescue with grub-pc-bin is not installed")
    root, out = os.path.join(work, name), os.path.join(work, name + ".iso")
    os.makedirs(root + "/boot/grub")
    shutil.copy(kernel("cloud"), root + "/boot/vmlinuz")
    shutil.copy(initramfs(work), root + "/boot/initrd")
    with open(root + "/boot/grub/grub.cfg", "w", encoding="ascii") as f:
        f.write(config)
    made = subprocess.run(["grub-mkrescue", "-o", out, root], capture_output=True, text=True)
    if made.returncode:
        raise Skip("grub-mkrescue: " + made.stderr.strip().splitlines()[-1])
    return out


def seabios(opts, work):
    """SeaBIOS says on the screen that there is nothing to boot from"""
    need("/usr/share/seabios/bios-256k.bin")
    with Screen(opts, "--firmware", "bios", "-m", "64") as s:
        if not s.shows("No bootable device").startswith("SeaBIOS (version"):
            raise Failure(s.screen())


def uefi(opts, work):
    """OVMF's shell is read off its frame buffer and typed at"""
    need("/usr/share/OVMF/OVMF_CODE_4M.fd")
    with Screen(opts, "--firmware", "uefi", "--uefi-vars", os.path.join(work, "vars.fd"), "-m", "256") as s:
        s.shows("Shell>")
        s.answers("echo four-%foo", "four-%foo\n")


def text_console(opts, work):
    """GRUB's menu and Linux' text console, 80x25 and 80x50"""
    iso = disc(work, "text", f"""
set timeout=-1
menuentry "wide" {{ true }}
menuentry "tall" {{
  linux16 /boot/vmlinuz vga=ext {CONSOLE}
  initrd16 /boot/initrd
}}
""")
    with Screen(opts, "--firmware", "bios", "-m", "256", "--cdrom", iso) as s:
        menu = s.shows("│ tall")
        if "GNU GRUB" not in menu or "│*wide" not in menu or "┌──" not in menu:
            raise Failure(menu)
        s.type("down")
        s.shows("*tall")
        s.type("enter")
        s.shows("guest#")
        s.answers("echo answer-$((6 * 7)) '|~'", "answer-42 |~\n")
        screen = json.loads(s.verb("screen", "--json").stdout)
        if (screen["columns"], screen["rows"]) != (80, 50) or not screen["cursor"]:
            raise Failure(f"{screen}")
        if screen["lines"][screen["cursor"]["row"]] != "guest#" or screen["cursor"]["column"] != 7:
            raise Failure(f"the cursor: {screen}")
        s.power_off()


def grub_graphics(opts, work):
    """GRUB's graphical terminal in modes of the video BIOS, true colour and 16 colours in planes"""
    for driver, mode in (("vbe", "800x600x32"), ("vga", "640x480x4")):
        iso = disc(work, driver, f"""
insmod {driver}
loadfont unicode
set gfxmode={mode}
terminal_output gfxterm
set timeout=-1
menuentry "entry of a graphical menu" {{ true }}
""")
        with Screen(opts, "--firmware", "bios", "-m", "256", "--cdrom", iso) as s:
            s.shows("entry of a graphical menu")
            picture = os.path.join(work, driver + ".png")
            if f"{mode[:3]} x {mode[4:7]} pixels" not in s.verb("screenshot", picture).stdout:
                raise Failure(f"the screen is not in mode {mode}")
            if driver == "vga":  # it is too slow for a typist
                continue
            s.type("c")
            s.shows("grub>")
            s.answers("echo in $feature_200_final pixels", "in y pixels\n")


def bochs(opts, work):
    """Linux' bochs driver: a console of 1024x768, a shell, a viewer, and the mouse"""
    initrd = initramfs_with(work, "bochs", "generic", *BOCHS)
    path = os.path.join(work, "vnc")
    with Screen(opts, "-m", "384", "--kernel", kernel("generic"), "--initrd", initrd, "--append", CONSOLE,
                "--display", f"vnc=unix:{path}") as s:
        s.shows("guest#")
        s.answers("echo answer-$((6 * 7)); cat /sys/class/drm/card*/status; grep -c Mouse /proc/bus/input/devices",
                  "answer-42\nconnected\n")
        with Viewer(path) as v:
            v.until(lambda: v.size == (1024, 768))
            s.type("--text", "head -c 9 /dev/input/mice | hexdump -e '3/1 \" %d\" \"\\n\"'\n")
            for _ in range(60):  # until all is typed
                if '"\\n"\'\n' in s.screen() + "\n":
                    break
                v.follow(0.5)
            v.follow(2)
            for x, y, buttons in ((100, 100, 0), (110, 95, 0), (110, 95, 1), (110, 95, 0)):
                v.pointer(x, y, buttons)  # right and up; a click
                v.follow(0.5)
            s.shows(" 8 10 5\n 9 0 0\n 8 0 0\n")
        s.power_off()


def efi_frame_buffer(opts, work):
    """Linux' console on the frame buffer that OVMF has set up"""
    need("/usr/share/OVMF/OVMF_CODE_4M.fd")
    with Screen(opts, "--firmware", "uefi", "--uefi-vars", os.path.join(work, "efi.fd"), "-m", "384", "--kernel",
                kernel("cloud"), "--initrd", initramfs(work), "--append", CONSOLE) as s:
        s.shows("guest#")
        s.answers("cat /proc/fb", "EFI VGA")
        s.power_off()


CASES = [seabios, uefi, text_console, grub_graphics, bochs, efi_frame_buffer]

if __name__ == "__main__":
    boot.CASES = CASES
    boot.__doc__ = __doc__
    sys.exit(boot.main())
