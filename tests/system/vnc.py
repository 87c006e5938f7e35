"""A small VNC viewer for tests: RFB 3.8 (RFC 6143) with raw rectangles, new sizes and password
authentication, for which it has openssl do the DES."""
import select
import socket
import struct
import subprocess
import time

ENCODINGS = [0, -223]  # raw, new size


class Viewer:
    """address: a Unix socket's path or (host, port)."""

    def __init__(self, address, password=None, timeout=20):
        self.socket = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
        self.socket.settimeout(timeout)
        self.socket.connect(address)
        self.timeout, self.password = timeout, password

    def __enter__(self):
        try:
            self._shake_hands()
        except BaseException:
            self.socket.close()
            raise
        return self

    def __exit__(self, *_):
        self.socket.close()

    def _read(self, length):
        data = b""
        while len(data) < length:
            more = self.socket.recv(length - len(data))
            if not more:
                raise ConnectionError("the server hung up")
            data += more
        return data

    def _answer(self, challenge):
        key = bytes(int(f"{c:08b}"[::-1], 2) for c in self.password.encode()[:8].ljust(8, b"\0"))
        return subprocess.run(["openssl", "enc", "-des-ecb", "-provider", "legacy", "-provider", "default",
                               "-nopad", "-K", key.hex()], input=challenge, capture_output=True, check=True).stdout

    def _shake_hands(self):
        if self._read(12) != b"RFB 003.008\n":
            raise ConnectionError("not RFB 3.8")
        self.socket.sendall(b"RFB 003.008\n")
        kinds = self._read(self._read(1)[0])
        kind = 1 if self.password is None else 2
        if kind not in kinds:
            raise PermissionError(f"the server offers security types {list(kinds)}")
        self.socket.sendall(bytes([kind]))
        if kind == 2:
            self.socket.sendall(self._answer(self._read(16)))
        if struct.unpack(">I", self._read(4))[0]:
            raise PermissionError("refused")
        self.socket.sendall(b"\x01")  # shared
        width, height = struct.unpack(">HH", self._read(4))
        self._read(16)
        self.name = self._read(struct.unpack(">I", self._read(4))[0]).decode()
        self._resize(width, height)
        self.socket.sendall(struct.pack(">B3xBBBBHHHBBB3x", 0, 32, 24, 0, 1, 255, 255, 255, 16, 8, 0))
        self.socket.sendall(struct.pack(f">BxH{len(ENCODINGS)}i", 2, len(ENCODINGS), *ENCODINGS))
        self._ask(False)

    def _resize(self, width, height):
        self.size = (width, height)
        self.pixels = bytearray(width * height * 4)

    def _ask(self, incremental):
        self.socket.sendall(struct.pack(">BBHHHH", 3, incremental, 0, 0, *self.size))

    def _rectangle(self):
        x, y, width, height, encoding = struct.unpack(">HHHHi", self._read(12))
        if encoding == -223:
            self._resize(width, height)
            return
        data = self._read(width * height * 4)
        for row in range(height):
            at = ((y + row) * self.size[0] + x) * 4
            self.pixels[at:at + width * 4] = data[row * width * 4:(row + 1) * width * 4]

    def _message(self):
        kind = self._read(1)[0]
        if kind == 0:
            before = self.size
            for _ in range(struct.unpack(">xH", self._read(3))[0]):
                self._rectangle()
            self._ask(self.size == before)
        elif kind == 3:
            self._read(struct.unpack(">3xI", self._read(7))[0])
        elif kind != 2:
            raise ConnectionError(f"message {kind}")

    def pixel(self, x, y):
        at = (y * self.size[0] + x) * 4
        return self.pixels[at + 2], self.pixels[at + 1], self.pixels[at]

    def until(self, condition):
        """Follows the screen until the condition holds."""
        end = time.monotonic() + self.timeout
        while not condition():
            if time.monotonic() > end:
                raise TimeoutError(f"the screen of {self.size} does not show what it should")
            if select.select([self.socket], [], [], 0.1)[0]:
                self._message()

    def follow(self, seconds):
        """Follows the screen for so long: a viewer that does not read is dropped."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if select.select([self.socket], [], [], left)[0]:
                self._message()

    def event(self, keysym, down):
        self.socket.sendall(struct.pack(">BBxxI", 4, down, keysym))

    def key(self, keysym):
        self.event(keysym, True)
        self.event(keysym, False)

    def pointer(self, x, y, buttons):
        self.socket.sendall(struct.pack(">BBHH", 5, buttons, x, y))
