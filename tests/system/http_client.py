"""A small client for tests of HTTP interfaces: raw requests over a Unix socket or TLS, and WebSockets.
Raw, because what is tested is mostly what a well-behaved library would not send."""
import base64
import hashlib
import json
import os
import socket
import ssl
import struct
import time


class Reply:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    def json(self):
        return json.loads(self.body)


class Client:
    """One connection. at: the path of a Unix socket, or (host, port, certificate file) for TLS."""

    def __init__(self, at, token=None, timeout=10):
        self.token, self.data = token, b""
        if isinstance(at, str):
            self.host = "localhost"
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.settimeout(timeout)
            self.dial(at, timeout)
        else:
            self.host = f"{at[0]}:{at[1]}"
            context = ssl.create_default_context(cafile=at[2])
            self.sock = context.wrap_socket(socket.create_connection(at[:2], timeout), server_hostname=at[0])

    def dial(self, at, timeout):
        end = time.monotonic() + timeout
        while True:
            try:
                return self.sock.connect(at)
            except BlockingIOError:  # many connect at once
                if time.monotonic() > end:
                    raise
                time.sleep(0.01)

    def close(self):
        self.sock.close()

    def send(self, data):
        self.sock.sendall(data)

    def more(self):
        got = self.sock.recv(65536)
        self.data += got
        return len(got) > 0

    def until(self, mark):
        while mark not in self.data:
            if not self.more():
                raise EOFError(f"the server closed the connection after {self.data!r}")
        head, self.data = self.data.split(mark, 1)
        return head

    def exactly(self, n):
        while len(self.data) < n:
            if not self.more():
                raise EOFError("the server closed the connection")
        head, self.data = self.data[:n], self.data[n:]
        return head

    def start(self, method, target, headers=(), body=None):
        """Sends a request. body: an object, or bytes with headers of their own."""
        lines = [f"{method} {target} HTTP/1.1"]
        given = dict(headers)
        if "Host" not in given:
            lines.append(f"Host: {self.host}")
        if self.token and "Authorization" not in given:
            lines.append(f"Authorization: Bearer {self.token}")
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
            given.setdefault("Content-Type", "application/json")
        if body is not None:
            given.setdefault("Content-Length", str(len(body)))
        lines += [f"{name}: {value}" for name, value in given.items()]
        self.send("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + (body or b""))

    def head(self):
        lines = self.until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        headers = {n.lower(): v for n, v in (line.split(": ", 1) for line in lines[1:])}
        return int(lines[0].split()[1]), headers

    def chunk(self):
        size = int(self.until(b"\r\n"), 16)
        data = self.exactly(size)
        self.until(b"\r\n")
        return data

    def reply(self, method="GET"):
        status, headers = self.head()
        body = b""
        if method == "HEAD" or status in (101, 204, 304):
            pass
        elif headers.get("transfer-encoding") == "chunked":
            while part := self.chunk():
                body += part
        elif "content-length" in headers:
            body = self.exactly(int(headers["content-length"]))
        return Reply(status, headers, body)

    def ask(self, method, target, body=None, headers=()):
        self.start(method, target, headers, body)
        return self.reply(method)

    # --- WebSockets (RFC 6455)

    def upgrade(self, target, protocols="berth.stream", headers=()):
        key = base64.b64encode(os.urandom(16)).decode()
        given = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13",
                 "Sec-WebSocket-Key": key, **dict(headers)}
        if protocols:
            given["Sec-WebSocket-Protocol"] = protocols
        self.start("GET", target, given)
        reply = self.reply()
        if reply.status == 101:
            want = base64.b64encode(hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest())
            assert reply.headers["sec-websocket-accept"] == want.decode(), reply.headers
        return reply

    def send_frame(self, data, opcode=2, fin=True, masked=True):
        mask = os.urandom(4) if masked else b""
        size = len(data)
        length = bytes([size]) if size < 126 else b"\x7e" + struct.pack(">H", size) if size < 65536 \
            else b"\x7f" + struct.pack(">Q", size)
        length = bytes([length[0] | (0x80 if masked else 0)]) + length[1:]
        if masked:
            data = bytes(b ^ mask[i & 3] for i, b in enumerate(data))
        self.send(bytes([opcode | (0x80 if fin else 0)]) + length + mask + data)

    def frame(self):
        first, size = self.exactly(2)
        if size == 126:
            size = struct.unpack(">H", self.exactly(2))[0]
        elif size == 127:
            size = struct.unpack(">Q", self.exactly(8))[0]
        return first & 15, self.exactly(size)

    def stream(self, count):
        """count bytes of binary messages."""
        got = b""
        while len(got) < count:
            opcode, data = self.frame()
            if opcode == 9:
                self.send_frame(data, 10)
            elif opcode == 2:
                got += data
            elif opcode == 8:
                raise EOFError(f"the stream ended after {got!r}")
        return got


def once(at, method, target, body=None, headers=(), token=None):
    client = Client(at, token)
    try:
        return client.ask(method, target, body, headers)
    finally:
        client.close()
