#!/usr/bin/env python3
"""http_server.py SERVER WEB: src/http as clients meet it, good and bad ones, over a Unix socket and TLS.
SERVER is http_server with its small table, WEB a folder with the web page."""
import os
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time

from http_client import Client, once

TESTS = []


def test(function):
    TESTS.append(function)
    return function


class Server:
    def __init__(self, program, web):
        self.folder = tempfile.TemporaryDirectory(prefix="berth-http-")
        self.local = self.folder.name + "/s"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        certificate = self.folder.name + "/certificate.pem"
        self.tls = ("127.0.0.1", port, certificate)
        self.process = subprocess.Popen([program, self.local, str(port), web, certificate],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout.readline() == "ready\n"

    def end(self):
        self.process.stdin.close()
        status = self.process.wait(20)
        self.folder.cleanup()
        return status


def check_refused(reply, status):
    assert reply.status == status, (reply.status, reply.body)
    error = reply.json()["error"]
    assert error["code"] and error["text"], error


@test
def arguments_come_from_path_query_and_body(s):
    c = Client(s.local)
    assert c.ask("GET", "/v1/things/a?number=3&flag").json() == {"name": "a", "number": 3, "flag": True}
    assert c.ask("POST", "/v1/things/a", {"number": 4}).json() == {"name": "a", "number": 4}
    assert c.ask("POST", "/v1/things/%C3%A9").json() == {"name": "é"}
    assert c.ask("DELETE", "/v1/things/a").json() == {"name": "a"}
    head = c.ask("HEAD", "/v1/things/a")
    assert head.status == 200 and not head.body
    c.close()


@test
def what_a_handler_refuses_has_a_status_and_a_hint(s):
    reply = once(s.local, "POST", "/v1/busy")
    check_refused(reply, 409)
    assert reply.json()["error"] == {"code": "busy", "text": "it is taken", "hint": "ask again later"}
    check_refused(once(s.local, "GET", "/v1/things/a?number=11"), 400)
    check_refused(once(s.local, "GET", "/v1/things/a?other=1"), 400)
    check_refused(once(s.local, "GET", "/v1/nothing"), 404)
    check_refused(once(s.local, "PUT", "/v1/things/a"), 405)


@test
def tls_needs_a_token(s):
    check_refused(once(s.tls, "GET", "/v1/things/a"), 401)
    for token in ("wrong", "operato", "operatorr", "OPERATOR", "x" * 128, "x" * 129, "a b", "\xe9"):
        check_refused(once(s.tls, "GET", "/v1/things/a", token=token), 401)
    for header in ("Basic b3BlcmF0b3I6", "operator", "Bearer", "Bearer operator reader", ""):
        check_refused(once(s.tls, "GET", "/v1/things/a", headers={"Authorization": header}), 401)
    assert "bearer" in once(s.tls, "GET", "/v1/things/a").headers["www-authenticate"].lower()
    assert once(s.tls, "GET", "/v1/things/a", token="operator").status == 200
    check_refused(once(s.tls, "GET", "/metrics"), 401)
    check_refused(once(s.tls, "GET", "/v1/nothing"), 401)  # who is nobody learns nothing
    check_refused(once(s.tls, "GET", "/v1/events"), 401)
    assert once(s.tls, "GET", "/").status == 200  # the page itself is no secret


@test
def a_readers_token_changes_nothing(s):
    assert once(s.tls, "GET", "/v1/things/a", token="reader").status == 200
    check_refused(once(s.tls, "POST", "/v1/things/a", token="reader"), 403)
    check_refused(once(s.tls, "DELETE", "/v1/things/a", token="reader"), 403)
    c = Client(s.tls, "reader")
    check_refused(c.upgrade("/v1/stream"), 403)
    c.close()


@test
def malformed_bodies_are_refused(s):
    for body in (b"{", b"[]", b'{"number":1,"number":2}', b"\xff\xfe", b'{"name":"b"}', b"null", b"[" * 60000,
                 b'{"flag":"' + b"x" * 60000 + b'"}', b'{"number":' + b"9" * 5000 + b"}"):
        reply = once(s.local, "POST", "/v1/things/a", body, {"Content-Type": "application/json"})
        check_refused(reply, 400)
    for kind in ("text/plain", "application/x-www-form-urlencoded", "application/jsonx", ""):
        check_refused(once(s.local, "POST", "/v1/things/a", b"{}", {"Content-Type": kind}), 415)
    check_refused(once(s.local, "GET", "/v1/things/a", {"number": 1}), 400)


@test
def oversized_requests_are_refused(s):
    json_type = {"Content-Type": "application/json"}
    c = Client(s.local)  # refused by its length, before a byte of it
    c.start("POST", "/v1/things/a", {**json_type, "Content-Length": "10000000"})
    check_refused(c.reply(), 413)
    c.close()
    for at in (s.local, s.tls):  # without a length, in chunks
        c = Client(at, "operator")
        c.start("POST", "/v1/things/a", {**json_type, "Transfer-Encoding": "chunked"})
        for _ in range(20):
            c.send(b"1000\r\n" + b" " * 4096 + b"\r\n")
        c.send(b"0\r\n\r\n")
        check_refused(c.reply(), 413)
        c.close()
    c = Client(s.local)
    c.start("POST", "/v1/things/a", {**json_type, "Transfer-Encoding": "chunked"})
    try:
        for _ in range(1000):
            c.send(b"1000\r\n" + b" " * 4096 + b"\r\n")
        raise AssertionError("4 MB of a body were taken")
    except (BrokenPipeError, ConnectionResetError):
        pass
    c.close()
    c = Client(s.local)
    c.start("GET", "/v1/things/a", {"X-Long": "x" * 100000})
    assert c.head()[0] in (413, 431)
    c.close()
    assert once(s.local, "GET", "/v1/things/" + "a" * 5000).status == 414


@test
def broken_http_is_refused_or_dropped(s):
    for text in (b"GARBAGE\r\n\r\n", b"GET\r\n\r\n", b"\x16\x03\x01\x02\x00\x01", b"\0" * 1000 + b"\r\n\r\n", b"\r\n" * 500,
                 b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
                 b"GET /v1/things/a HTTP/9.9\r\n\r\n", b"POST /v1/things/a HTTP/1.1\r\nHost: localhost\r\n"
                 b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"):
        c = Client(s.local)
        c.send(text)
        c.sock.settimeout(1)
        got = b""
        try:
            while part := c.sock.recv(4096):
                got += part
        except TimeoutError:  # it waits for the rest of a request
            pass
        assert not got or got.split()[1][:1] == b"4" or got.split()[1] == b"505", (text, got)
        c.close()
    assert once(s.local, "GET", "/v1/things/a").status == 200


@test
def path_tricks_reach_no_file(s):
    for path in ("/../../etc/passwd", "/..%2f..%2fetc%2fpasswd", "/%2e%2e/x", "//etc/passwd", "/./index.html",
                 "/vendor/novnc/../../../../etc/passwd", "/vendor/novnc/..%2f", "/vendor/", "/vendor/novnc/",
                 "/index.html%00.js", "/index.html/", "/.hidden", "/index.htm", "/a\\b", "index.html", "*",
                 "/" + "a/" * 90 + "b.js", "/" + "a" * 3000, "/etc/passwd", "/meson.build"):
        reply = once(s.local, "GET", path)
        assert reply.status in (400, 404), (path, reply.status)
        assert b"root:" not in reply.body
    for name in ("..", "%2e%2e", "a%2Fb", ".x", "a%00b", "%0d%0aX:1"):
        check_refused(once(s.local, "GET", f"/v1/things/{name}"), 400)


@test
def the_page_comes_with_a_strict_policy(s):
    reply = once(s.local, "GET", "/")
    policy = reply.headers["content-security-policy"]
    assert reply.status == 200 and reply.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
    assert reply.headers["x-content-type-options"] == "nosniff"
    again = once(s.local, "GET", "/", headers={"If-None-Match": reply.headers["etag"]})
    assert again.status == 304 and not again.body
    assert once(s.local, "POST", "/").status == 405
    assert once(s.local, "GET", "/v1/things/a").headers["cache-control"] == "no-store"


@test
def other_sites_pages_are_refused(s):
    for headers in ({"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}):
        check_refused(once(s.local, "POST", "/v1/things/a", headers=headers), 403)
        c = Client(s.tls, "operator")
        check_refused(c.upgrade("/v1/stream", headers=headers), 403)
        c.close()
    check_refused(once(s.local, "GET", "/v1/things/a", headers={"Host": "evil.example"}), 403)
    assert once(s.local, "GET", "/v1/things/a", headers={"Origin": "http://localhost"}).status == 200


@test
def events_are_streamed_as_lines_and_as_server_sent_events(s):
    for at in (s.local, s.tls):
        lines, sent = Client(at, "reader"), Client(at, "reader")
        lines.start("GET", "/v1/events")
        sent.start("GET", "/v1/events", {"Accept": "text/event-stream"})
        assert lines.head()[1]["content-type"] == "application/x-ndjson" and lines.chunk() == b"\n"
        assert sent.head()[1]["content-type"] == "text/event-stream" and sent.chunk() == b":\n\n"
        for _ in range(3):
            once(s.local, "POST", "/v1/tell")
        got, events = b"", b""
        while got.count(b"\n") < 3:
            got += lines.chunk()
        while events.count(b"\n\n") < 3:
            events += sent.chunk()
        assert got == b'{"event":"told"}   \n' * 3, got
        assert events == b'data: {"event":"told"}   \n\n' * 3, events
        lines.close()
        sent.close()


@test
def who_does_not_read_events_is_dropped_and_holds_up_nobody(s):
    lazy, eager = Client(s.local), Client(s.local)
    lazy.start("GET", "/v1/events")
    eager.start("GET", "/v1/events")
    eager.head()
    got = 0
    for _ in range(30):  # 3 MB
        assert once(s.local, "POST", "/v1/tell", {"bytes": 100000}).status == 200
        while got < 100000:
            got += len(eager.chunk())
        got -= 100000
    total = 0
    lazy.sock.settimeout(5)
    while part := lazy.sock.recv(65536):
        total += len(part)
    assert total < 2000000, total
    eager.close()
    lazy.close()


@test
def an_answer_may_come_later(s):
    for at in (s.local, s.tls):
        c = Client(at, "operator")
        c.start("POST", "/v1/later")
        time.sleep(0.1)
        once(s.local, "POST", "/v1/settle/a")
        assert c.reply().json() == {"n": 1}
        c.start("POST", "/v1/later")
        time.sleep(0.1)
        once(s.local, "POST", "/v1/settle/a", {"flag": True})
        check_refused(c.reply(), 409)
        assert c.ask("GET", "/v1/things/a").status == 200  # the connection goes on
        c.start("POST", "/v1/later")
        time.sleep(0.1)
        c.close()  # gone before its answer
        once(s.local, "POST", "/v1/settle/a")
    c = Client(s.local)
    c.start("POST", "/v1/later")  # waits while the server ends
    s.waiting = c


@test
def a_websocket_carries_bytes_both_ways(s):
    for at, protocols in ((s.local, None), (s.tls, "berth.stream, berth.token.operator")):
        c = Client(at)
        reply = c.upgrade("/v1/stream", protocols)
        assert reply.status == 101, reply.body
        assert reply.headers.get("sec-websocket-protocol") == (protocols and "berth.stream")
        c.send_frame(b"hello")
        assert c.stream(5) == b"hello"
        c.send_frame("wörter".encode(), 1)
        assert c.stream(7) == "wörter".encode()
        data = os.urandom(200000)
        parts = [data[i:i + 50000] for i in range(0, len(data), 50000)]
        if at == s.local:  # faster than they come back
            threading.Thread(target=lambda: [c.send_frame(part) for part in parts]).start()
            assert c.stream(len(data)) == data
        for part in parts:  # Python's TLS is for one thread
            c.send_frame(part)
            assert c.stream(len(part)) == part
        c.send_frame(b"par", fin=False)
        c.send_frame(b"ping", 9)
        c.send_frame(b"ts", 0)
        got, pong = b"", None
        while got != b"parts" or pong != b"ping":
            opcode, part = c.frame()
            got, pong = (got, part) if opcode == 10 else (got + part, pong)
        c.send_frame(b"!")  # the stream's other end leaves
        opcode, code = c.frame()
        assert opcode == 8 and code == b"\x03\xe8", (opcode, code)
        c.close()


@test
def broken_websockets_are_refused_or_dropped(s):
    check_refused(once(s.local, "GET", "/v1/stream"), 426)
    c = Client(s.local)
    check_refused(c.upgrade("/v1/stream", headers={"Sec-WebSocket-Version": "12"}), 400)
    c.close()
    c = Client(s.local)
    check_refused(c.upgrade("/v1/stream", headers={"Sec-WebSocket-Key": "short"}), 400)
    c.close()
    c = Client(s.tls)
    check_refused(c.upgrade("/v1/stream", "berth.stream, berth.token.wrong"), 401)
    c.close()
    for breaks in (lambda c: c.send_frame(b"x", masked=False), lambda c: c.send_frame(b"x", opcode=3),
                   lambda c: c.send_frame(b"x", opcode=0), lambda c: c.send(b"\xff" * 100),
                   lambda c: c.send_frame(b"\xff\xfe", opcode=1),
                   lambda c: c.send(b"\x82\xff" + b"\x7f" * 8 + b"abcd" + b"x" * 100)):
        c = Client(s.local)
        assert c.upgrade("/v1/stream").status == 101
        breaks(c)
        try:
            assert c.frame()[0] == 8
            assert not c.more()
        except (EOFError, ConnectionResetError):  # not even a frame to answer
            pass
        c.close()


@test
def a_websocket_client_that_vanishes_frees_the_stream(s):
    before = len(os.listdir(f"/proc/{s.process.pid}/fd"))
    clients = [Client(s.local) for _ in range(20)]
    for c in clients:
        assert c.upgrade("/v1/stream").status == 101
    for c in clients:
        c.close()
    for _ in range(100):
        if len(os.listdir(f"/proc/{s.process.pid}/fd")) <= before:
            return
        time.sleep(0.05)
    raise AssertionError(f"{len(os.listdir(f'/proc/{s.process.pid}/fd'))} descriptors, {before} before")


@test
def slow_and_many_clients_hold_up_nobody(s):
    slow = [Client(s.local) for _ in range(30)]
    for c in slow:
        c.send(b"GET /v1/things/a HTTP/1.1\r\nHost: loc")
    raw = [socket.create_connection(s.tls[:2]) for _ in range(16)]  # TLS that never begins
    begun = time.monotonic()
    for _ in range(20):
        assert once(s.local, "GET", "/v1/things/a").status == 200
    assert time.monotonic() - begun < 5
    for c in raw:
        c.close()
    for c in slow:  # a byte now and then does not keep the connection
        c.sock.setblocking(False)
    left = set(slow)
    while left and time.monotonic() - begun < 40:
        time.sleep(1)
        for c in list(left):
            try:
                c.sock.send(b"x")
            except OSError:
                left.discard(c)
    assert not left, f"{len(left)} slow clients are still there"
    for c in slow:
        c.close()
    assert once(s.tls, "GET", "/v1/things/a", token="reader").status == 200


@test
def plain_text_and_old_tls_are_refused(s):
    with socket.create_connection(s.tls[:2], 10) as plain:
        plain.send(b"GET /v1/things/a HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer operator\r\n\r\n")
        try:
            got = plain.recv(4096)
        except ConnectionResetError:
            got = b""
        assert b"HTTP" not in got, got
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    try:
        context.wrap_socket(socket.create_connection(s.tls[:2], 10)).close()
        raise AssertionError("TLS 1.1 was taken")
    except (ssl.SSLError, ConnectionResetError):
        pass


@test
def metrics_are_text(s):
    reply = once(s.local, "GET", "/metrics")
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert b"berth_test 1\n" in reply.body
    assert once(s.local, "POST", "/metrics").status == 405


def main():
    server = Server(*sys.argv[1:3])
    only = sys.argv[3:]
    tests = [t for t in TESTS if not only or t.__name__ in only]
    print(f"1..{len(tests) + 1}")
    failed = 0
    for i, run in enumerate(tests):
        try:
            run(server)
            print(f"ok {i + 1} - {run.__name__}", flush=True)
        except Exception as error:  # the next test may still say something
            failed += 1
            print(f"not ok {i + 1} - {run.__name__}\n# {type(error).__name__}: {str(error)[:400]}", flush=True)
    status = server.end()
    failed += status != 0
    print(f"{'not ' if status else ''}ok {len(tests) + 1} - the_server_ends_by_itself_with_status_0")
    return failed != 0


if __name__ == "__main__":
    sys.exit(main())
