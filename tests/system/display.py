#!/usr/bin/env python3
"""What a person sees and types: berth screen, screenshot, sendkey, and a VNC viewer.

    display.py BERTH GUEST [CASE...]
"""
import json
import os
import re
import select
import socket
import struct
import subprocess
import sys
import tempfile
import time
import zlib

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from vnc import Viewer  # noqa: E402


class Failure(Exception):
    pass


def check(condition, words):
    if not condition:
        raise Failure(words)


class Machine:
    """The screen guest under `berth run`, its serial line as text."""

    def __init__(self, *options, vga="std"):
        self.name = f"display-{os.getpid()}"
        command = [BERTH, "run", "-n", self.name, "-m", "64", "--engine", "translate", "--exit-device",
                   "--kernel", GUEST, *(["--vga", vga] if vga else []), *options]
        self.child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                      stderr=subprocess.STDOUT)
        self.output = ""

    def __enter__(self):
        self.wait_for("# ready")
        return self

    def __exit__(self, *_):
        if self.child.poll() is None:
            self.child.kill()
            self.child.wait()

    def wait_for(self, text, seconds=30):
        """Reads until the text has come; what follows it stays for the next call."""
        until = time.monotonic() + seconds
        while text not in self.output:
            ready, _, _ = select.select([self.child.stdout], [], [], max(0, until - time.monotonic()))
            data = os.read(self.child.stdout.fileno(), 65536) if ready else b""
            check(data, f"no {text!r} from the guest: ...{self.output[-500:]!r}")
            self.output += data.decode(errors="replace")
        before, _, self.output = self.output.partition(text)
        return before

    def berth(self, verb, *args, status=0):
        run = subprocess.run([BERTH, verb, self.name, *args], capture_output=True, text=True, timeout=30)
        check(run.returncode == status, f"berth {verb}: status {run.returncode}: {run.stdout}{run.stderr}")
        return run.stdout + run.stderr


def eventually(condition, words, seconds=10):
    until = time.monotonic() + seconds
    while not condition():
        check(time.monotonic() < until, words)
        time.sleep(0.05)


def read_png(path):
    """Width, height and rows of (r, g, b) of an RGB file."""
    data = open(path, "rb").read()
    check(data[:8] == b"\x89PNG\r\n\x1a\n", "not a PNG")
    at, packed = 8, b""
    while at < len(data):
        length, kind = struct.unpack(">I4s", data[at:at + 8])
        body = data[at + 8:at + 8 + length]
        check(struct.unpack(">I", data[at + 8 + length:at + 12 + length])[0] == zlib.crc32(kind + body), "CRC")
        if kind == b"IHDR":
            width, height, depth, colour = struct.unpack(">IIBB", body[:10])
            check((depth, colour) == (8, 2), "not RGB of 8 bits")
        elif kind == b"IDAT":
            packed += body
        at += 12 + length
    raw, stride, rows, above = zlib.decompress(packed), width * 3, [], bytes(width * 3)
    for y in range(height):
        line = bytearray(raw[y * (stride + 1):(y + 1) * (stride + 1)])
        how, line = line[0], line[1:]
        for i in range(stride):
            a = line[i - 3] if i >= 3 else 0
            b, c = above[i], above[i - 3] if i >= 3 else 0
            if how == 1:
                line[i] = (line[i] + a) & 255
            elif how == 2:
                line[i] = (line[i] + b) & 255
            elif how == 3:
                line[i] = (line[i] + (a + b) // 2) & 255
            elif how == 4:
                p = a + b - c
                pa, pb, pc = abs(p - a), abs(p - b), abs(p - c)
                line[i] = (line[i] + (a if pa <= pb and pa <= pc else b if pb <= pc else c)) & 255
        above = bytes(line)
        rows.append(above)
    return width, height, lambda x, y: tuple(rows[y][3 * x:3 * x + 3])


def screen_prints_text(folder):
    with Machine() as m:
        lines = m.berth("screen").splitlines()
        check(lines == ["", "Berth shows text ╔═╗"], f"the screen is {lines[:3]}")
        screen = json.loads(m.berth("screen", "--json"))
        check((screen["columns"], screen["rows"], screen["cursor"]) == (80, 25, None), f"{screen}")
        check(len(screen["lines"]) == 25, f"{screen}")


def screen_of_graphics_says_what_to_do(folder):
    with Machine() as m:
        m.berth("sendkey", "g")
        m.wait_for("k22")
        eventually(lambda: "screenshot" in subprocess.run([BERTH, "screen", m.name], capture_output=True,
                                                           text=True).stderr, "no hint")


def screenshot_shows_text_and_graphics(folder):
    path = os.path.join(folder, "screen.png")
    with Machine() as m:
        m.berth("screenshot", path)
        width, height, pixel = read_png(path)
        check((width, height) == (720, 400), f"{width}x{height}")
        check(pixel(0, 16) == (255, 255, 255), f"a solid glyph is {pixel(0, 16)}")
        check(pixel(9 * 5, 16) == (0, 0, 170), f"a blank is {pixel(45, 16)}")
        check(pixel(0, 0) == (0, 0, 0), f"the first row is {pixel(0, 0)}")
        m.berth("sendkey", "g")
        m.wait_for("ka2")
        eventually(lambda: (m.berth("screenshot", path), read_png(path)[:2])[1] == (800, 600), "no graphics")
        _, _, pixel = read_png(path)
        for x, y in ((0, 0), (799, 599), (300, 17)):
            eventually(lambda: (m.berth("screenshot", path), read_png(path)[2](x, y))[1] ==
                       (x & 255, y & 255, 0x55), f"pixel {x},{y} is {pixel(x, y)}")
        check(not [f for f in os.listdir(folder) if f != "screen.png"], "a temporary file is left")


def screenshot_of_nothing_is_refused(folder):
    with Machine(vga=None) as m:
        words = m.berth("screenshot", os.path.join(folder, "x.png"), status=1)
        check("--vga std" in words, words)
    with Machine() as m:
        words = m.berth("screenshot", "/nonexistent/x.png", status=2)
        check("/nonexistent/x.png" in words, words)


def keys(text):
    return re.findall(r"k([0-9a-f]{2})\n", text.replace("\r", ""))


def sendkey_presses_keys(folder):
    with Machine() as m:
        m.berth("sendkey", "ctrl-alt-delete", "shift-b", "A", "f1")
        got = keys(m.wait_for("kbb") + "kbb\n")
        want = "1d 38 e0 53 e0 d3 b8 9d 2a 30 b0 aa 2a 1e 9e aa 3b bb".split()
        check(got == want, f"got {got}")
        m.berth("sendkey", "--text", "a/?\n")
        got = keys(m.wait_for("k9c") + "k9c\n")
        check(got == "1e 9e 35 b5 2a 35 b5 aa 1c 9c".split(), f"got {got}")
        words = m.berth("sendkey", "hyper-x", status=2)
        check("hyper" in words, words)
        m.berth("sendkey", "--text", "x" * 200)  # more than the keyboard holds
        count = 0
        while count < 200:
            m.wait_for("kad")
            count += 1
        m.berth("sendkey", "q")
        check(m.child.wait(30) == 1, f"status {m.child.returncode}")


def a_viewer_sees_the_screen_and_types(folder):
    path = os.path.join(folder, "vnc")
    with Machine("--display", f"vnc=unix:{path}") as m:
        check(os.stat(path).st_mode & 0o777 == 0o600, "others can reach the socket")
        with Viewer(path) as v:
            check(v.name == m.name, v.name)
            v.until(lambda: v.size == (720, 400) and v.pixel(0, 16) == (255, 255, 255))
            v.key(ord("g"))
            m.wait_for("ka2")
            v.until(lambda: v.size == (800, 600) and v.pixel(799, 599) == (0x1f, 0x57, 0x55))
            v.key(ord("t"))
            v.until(lambda: v.size == (720, 400) and v.pixel(45, 16) == (0, 0, 170))
            v.key(ord("q"))
        m.child.wait(30)
    check(not os.path.exists(path), "the socket's file is left")


def viewers_characters_become_a_us_keyboards(folder):
    path = os.path.join(folder, "vnc")
    with Machine("--display", f"vnc=unix:{path}") as m, Viewer(path) as v:
        v.until(lambda: v.pixel(0, 16) == (255, 255, 255))
        v.event(0xffe1, True)  # Shift+7 is a slash in Germany
        v.key(ord("/"))
        v.event(0xffe1, False)
        v.key(ord("!"))
        v.event(0xfe03, True)  # AltGr+Q is an at sign there
        v.key(ord("@"))
        v.event(0xfe03, False)
        v.key(0xff54)  # down
        got = keys(m.wait_for("kd0") + "kd0\n")
        want = "2a aa 35 2a b5 aa 2a 02 aa 82 e0 38 e0 b8 2a 03 aa e0 38 83 e0 b8 e0 50 e0 d0".split()
        check(got == want, f"got {got}")


def a_viewer_moves_the_mouse(folder):
    path = os.path.join(folder, "vnc")
    with Machine("--display", f"vnc=unix:{path}") as m, Viewer(path) as v:
        v.until(lambda: v.pixel(0, 16) == (255, 255, 255))
        v.key(ord("m"))
        v.follow(1)
        m.wait_for("mfa")
        v.pointer(100, 100, 0)
        v.pointer(105, 97, 1)
        v.follow(1)
        m.wait_for("m09")


def a_password_is_asked_for(folder):
    secret = os.path.join(folder, "secret")
    with open(secret, "w", encoding="ascii") as f:
        f.write("geheim12\n")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    with Machine("--display", f"vnc=127.0.0.1:{port},password-file={secret}"):
        with Viewer(("127.0.0.1", port), password="geheim12") as v:
            v.until(lambda: v.size == (720, 400))
        try:
            with Viewer(("127.0.0.1", port), password="falsch"):
                raise Failure("a wrong password was let in")
        except PermissionError:
            pass


def several_viewers_and_rude_ones(folder):
    path = os.path.join(folder, "vnc")
    with Machine("--display", f"vnc=unix:{path}") as m:
        for rubbish in (b"", b"GET / HTTP/1.0\r\n\r\n", b"RFB 003.008\n" + bytes(range(256)) * 8,
                        b"RFB 003.008\n\x01\x01\x06\xff\xff\xff\xff\xff\xff\xff\xff" + b"\xff" * 5000):
            with socket.socket(socket.AF_UNIX) as s:
                s.connect(path)
                try:
                    s.sendall(rubbish)
                    time.sleep(0.1)
                except OSError:
                    pass
        with Viewer(path) as a:
            a.until(lambda: a.size == (720, 400) and a.pixel(0, 16) == (255, 255, 255))
            with Viewer(path) as b:
                b.until(lambda: b.size == (720, 400) and b.pixel(0, 16) == (255, 255, 255))
                b.key(ord("g"))
                for viewer in (b, a):
                    viewer.until(lambda: viewer.size == (800, 600))
        check("ready" not in m.output and m.child.poll() is None, "the VM is gone")


def wrong_displays_are_refused(folder):
    for options, words in ((["--vga", "std", "--display", "vnc=127.0.0.1:5900"], "password"),
                           (["--display", "window"], "vnc=unix:PATH"),
                           (["--vga", "cirrus"], "std or none"),
                           (["--display", f"vnc=unix:{folder}/v", "--vga", "none"], "--vga std")):
        run = subprocess.run([BERTH, "run", "--kernel", GUEST, *options], capture_output=True, text=True,
                             stdin=subprocess.DEVNULL, timeout=20)
        check(run.returncode == 2 and words in run.stderr, f"{options}: {run.returncode} {run.stderr}")


CASES = [screen_prints_text, screen_of_graphics_says_what_to_do, screenshot_shows_text_and_graphics,
         screenshot_of_nothing_is_refused, sendkey_presses_keys, a_viewer_sees_the_screen_and_types,
         viewers_characters_become_a_us_keyboards, a_viewer_moves_the_mouse, a_password_is_asked_for,
         several_viewers_and_rude_ones, wrong_displays_are_refused]


def main():
    chosen = [c for c in CASES if not sys.argv[3:] or c.__name__ in sys.argv[3:]]
    print(f"1..{len(chosen)}")
    failed = 0
    for number, case in enumerate(chosen, 1):
        problem = None
        with tempfile.TemporaryDirectory(prefix="berth-display-") as folder:
            try:
                case(folder)
            except (Failure, OSError, subprocess.SubprocessError, ValueError) as e:
                problem = e
        if problem is not None:
            failed += 1
            print(f"# {type(problem).__name__}: {problem}")
        print(f"{'not ' if problem is not None else ''}ok {number} - {case.__name__}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    BERTH, GUEST = sys.argv[1:3]
    sys.exit(main())
