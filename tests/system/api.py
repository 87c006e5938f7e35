#!/usr/bin/env python3
"""api.py BERTH GUEST [CASE...]: the manager's REST API as programs use and misuse it: every address of its
description, tokens, what is malformed, oversized or out of place, events, consoles, metrics.
GUEST is the multiboot file of obey.c."""
import json
import os
import re
import shutil
import subprocess
import sys
import time

from berthd import Manager, run_all
from http_client import Client, once

GUEST = os.path.abspath(sys.argv[2])
METHODS = ("get", "post", "put", "patch", "delete")
TESTS = []


def test(function):
    TESTS.append(function)
    return function


def definition(**more):
    return {"memory_mib": 16, "kernel": GUEST, "exit_device": True, "no_reboot": True, **more}


def create(m, name, **more):
    return m.ask("POST", "/vms", {"name": name, "definition": definition(**more)})


def routes(m):
    for path, item in m.ask("GET", "/openapi.json")["paths"].items():
        for method in METHODS:
            if method in item:
                yield method.upper(), path, item[method]


@test
def a_vm_lives_from_create_to_remove(m):
    vm = create(m, "life")
    assert vm["state"] == "stopped" and len(vm["id"]) == 12
    assert m.ask("POST", "/vms/life/start")["state"] == "running"
    assert m.ask("POST", "/vms/life/pause") == {}
    assert m.ask("GET", f"/vms/{vm['id']}")["state"] == "paused"
    assert m.ask("POST", "/vms/life/resume") == {}
    assert "cpu_seconds" in m.ask("GET", "/vms/life/stats")
    assert m.ask("DELETE", "/vms/life", status=409)["error"]["code"] == "busy"
    m.ask("POST", "/vms/life/stop", {"force": True})
    m.ask("DELETE", "/vms/life")
    assert m.ask("GET", "/vms/life", status=404)["error"]["code"] == "not found"


@test
def every_address_is_described_and_every_description_answers(m):
    create(m, "all")
    seen = 0
    for method, path, operation in routes(m):
        at = path.replace("{vm}", "all")
        at = re.sub(r"\{\w+\}", "missing", at)
        if path in ("/v1/events", "/metrics") or "101" in operation["responses"]:
            continue
        seen += 1
        if method == "GET":
            reply = once(m.local, method, at)
            assert reply.status in (200, 404, 400), (at, reply.status, reply.body)
            reply.json()
        else:  # an argument that nothing takes
            reply = once(m.local, method, at + ("?nothing=1" if method == "DELETE" else ""),
                         None if method == "DELETE" else {"nothing": 1})
            assert reply.status == 400 and "nothing" in reply.json()["error"]["text"], (method, at, reply.body)
        assert once(m.local, "OPTIONS", at).status == 405
    assert seen >= 20, seen
    m.ask("DELETE", "/vms/all")


@test
def the_description_is_openapi(m):
    document = m.ask("GET", "/openapi.json")
    assert document["openapi"].startswith("3.0.") and document["info"]["title"] == "Berth"
    known = {name for name in document["components"]["responses"]}
    ids = []
    for method, path, operation in routes(m):
        ids.append(operation["operationId"])
        braces = set(re.findall(r"\{(\w+)\}", path))
        parameters = operation.get("parameters", [])
        assert braces == {p["name"] for p in parameters if p["in"] == "path"}, path
        assert all(p["schema"]["type"] in ("string", "integer", "boolean") for p in parameters)
        assert method == "POST" or method == "PATCH" or "requestBody" not in operation, path
        for response in operation["responses"].values():
            assert response.get("$ref", "#/components/responses/Refused").split("/")[-1] in known
    assert len(ids) == len(set(ids))
    said = m.verb("api", "openapi")
    assert json.loads(said) == document


@test
def nobody_gets_in_without_a_token(m):
    token = m.token("ops")
    name, secret = token.split(".")
    for method, path, _ in routes(m):
        at = re.sub(r"\{\w+\}", "x", path)
        reply = once(m.tls, method, at)
        assert reply.status == 401, (method, at, reply.status)
    wrong = [secret, name, f"{name}.", f".{secret}", f"{name}.{secret[:-1]}", f"{name}.{secret}0", f"other.{secret}", f"{name}.{'0' * 64}",
             f"{name}.{secret.upper()}", f"{name}..{secret}", "' OR 1=1 --", "x" * 5000, f"{'a' * 60}.{secret}"]
    for token_ in wrong:
        assert once(m.tls, "GET", "/v1/vms", token=token_).status in (401, 431), token_
    assert once(m.tls, "GET", "/v1/vms", token=token).status == 200
    assert secret.encode() not in open(m.folder + "/data/berth/berth.db", "rb").read()  # only its hash
    m.ask("DELETE", "/tokens/ops")
    assert once(m.tls, "GET", "/v1/vms", token=token).status == 401  # at once


@test
def a_reader_sees_and_does_not_touch(m):
    token = m.token("looker", "reader")
    create(m, "seen")
    for method, path, operation in routes(m):
        at = re.sub(r"\{\w+\}", "seen", path)
        if path == "/v1/events":
            continue
        reply = once(m.tls, method, at, token=token, body=None if method in ("GET", "DELETE") else {})
        if method == "GET" and "101" not in operation["responses"]:
            assert reply.status in (200, 400, 404), (method, at, reply.status)
        else:
            assert reply.status in (403, 426), (method, at, reply.status)
    assert m.ask("GET", "/vms/seen")["state"] == "stopped"
    m.ask("DELETE", "/vms/seen")


@test
def tokens_are_made_listed_and_revoked_by_the_command(m):
    said = json.loads(m.verb("token", "create", "--json", "script", "--role", "reader"))
    assert said["token"].startswith("script.") and said["role"] == "reader"
    assert once(m.tls, "GET", "/v1/vms", token=said["token"]).status == 200
    assert "script" in m.verb("token", "ls") and said["token"] not in m.verb("token", "ls", "--json")
    m.verb("token", "create", "script", status=2)
    m.verb("token", "rm", "script")
    m.verb("token", "rm", "script", status=2)
    assert once(m.tls, "GET", "/v1/vms", token=said["token"]).status == 401


@test
def tricks_in_names_reach_nothing(m):
    before = sorted(os.listdir(m.folder + "/data/berth"))
    for name in ("../x", "..", "/etc/passwd", "a/b", ".x", "a\u0000b", "", "x" * 64, "a b", "a\n", "é", "-x", "%2e%2e", "a;rm", "$(id)"):
        reply = once(m.local, "POST", "/v1/vms", {"name": name, "definition": definition()})
        assert reply.status == 400, (name, reply.status, reply.body)
        reply = once(m.local, "POST", "/v1/vms", {"name": "ok", "definition": definition(), "image": name or "../x"})
        assert reply.status in (400, 404), (name, reply.status, reply.body)
    for at in ("/v1/vms/..", "/v1/vms/%2e%2e%2f", "/v1/images/..%2fberth.db", "/v1/images/%2e%2e", "/v1/vms/a%00b", "/v1/tokens/%2f"):
        for method in ("GET", "DELETE"):
            assert once(m.local, method, at).status in (400, 404, 405), at
    assert m.ask("GET", "/vms") == {"vms": []}
    assert sorted(os.listdir(m.folder + "/data/berth")) == before


@test
def malformed_and_oversized_requests_change_nothing(m):
    kind = {"Content-Type": "application/json"}
    for body in (b"", b"{", b"[]", b"{}", b'{"name":1,"definition":{}}', b'{"name":"a","definition":[]}', b'{"name":"a","definition":{"vcpus":-1}}',
                 b'{"name":"a","definition":{"vcpus":1e99}}', b'{"name":"a","definition":{"nonsense":1}}', b'{"name":"a","name":"b"}',
                 b'{"name":"a","definition":' + b'{"a":' * 3000 + b"1" + b"}" * 3001, b"\xff"):
        assert once(m.local, "POST", "/v1/vms", body, kind).status == 400, body[:40]
    assert once(m.local, "POST", "/v1/vms", b"{" + b" " * 70000 + b"}", kind).status == 413
    assert m.ask("GET", "/vms") == {"vms": []}


@test
def slow_clients_hold_up_nobody(m):
    slow = [Client(m.local) for _ in range(40)]
    for c in slow:
        c.send(b"POST /v1/vms HTTP/1.1\r\nHost: localhost\r\nContent-Le")
    times = []
    for _ in range(3):  # the host may be busy meanwhile
        begun = time.monotonic()
        for _ in range(20):
            m.ask("GET", "/vms")
        times.append(time.monotonic() - begun)
    assert min(times) < 10, times
    assert m.verb("ls", "--json")
    for c in slow:
        c.close()


@test
def events_tell_what_happens(m):
    token = m.token("listener", "reader")
    c = Client(m.tls, token)
    c.start("GET", "/v1/events")
    assert c.head()[0] == 200
    c.chunk()
    create(m, "told")
    m.ask("POST", "/vms/told/start")
    m.ask("POST", "/vms/told/stop", {"force": True})
    m.ask("DELETE", "/vms/told")
    text = b""
    while b'"removed"' not in text:
        text += c.chunk()
    events = [json.loads(line) for line in text.splitlines() if line.strip()]
    assert all(event["vm"] == "told" for event in events if "vm" in event)
    assert {"created", "removed"} <= {event["event"] for event in events}
    c.close()


@test
def the_console_is_a_websocket(m):
    token = m.token("typist")
    create(m, "talk")
    m.ask("POST", "/vms/talk/start")
    c = Client(m.tls)
    assert c.upgrade("/v1/vms/talk/console", f"berth.stream, berth.token.{token}").status == 101
    got = b""
    while b"# ready" not in got:  # also when it was said before somebody listened
        got += c.stream(1)
    c.send_frame(b"hi")
    while b"<h><i>" not in got:
        got += c.stream(1)
    c.close()
    c = Client(m.tls)
    assert c.upgrade("/v1/vms/talk/console", "berth.stream, berth.token.typist.00").status == 401
    c.close()
    c = Client(m.tls)
    assert c.upgrade("/v1/vms/none/console", f"berth.stream, berth.token.{token}").status == 404
    c.close()
    m.ask("DELETE", "/vms/talk?force=true")


@test
def the_screen_is_a_websocket(m):
    disk = m.boot_disk("Berth")
    m.ask("POST", "/vms", {"name": "show", "definition": {"memory_mib": 32, "disks": [{"path": disk}]}})
    m.ask("POST", "/vms/show/start")
    c = Client(m.local)
    assert c.upgrade("/v1/vms/show/screen").status == 101
    assert c.stream(12) == b"RFB 003.008\n"
    c.close()
    m.ask("DELETE", "/vms/show?force=true")


@test
def metrics_follow_what_vms_do(m):
    create(m, "meter")
    create(m, "idle")
    m.ask("POST", "/vms/meter/start")
    first = m.metrics()
    time.sleep(1)
    second = m.metrics()

    def value(text, name, more=""):
        found = re.search(rf'^{name}{{vm="meter",id="\w+"{more}}} (\S+)$', text, re.M)
        assert found, (name, text)
        return float(found[1])

    assert value(second, "berth_vm_cpu_seconds_total") >= value(first, "berth_vm_cpu_seconds_total") > 0
    assert value(second, "berth_vm_memory_resident_bytes") > 1e6
    assert value(second, "berth_vm_state", ',state="running"') == 1 and value(second, "berth_vm_state", ',state="stopped"') == 0
    assert value(second, "berth_vm_disk_bytes_total", ',direction="read"') == 0
    assert value(second, "berth_vm_network_bytes_total", ',direction="sent"') == 0
    assert value(second, "berth_vm_exits_total") > 0
    for line in second.splitlines():  # each family's help and type come once, before its samples
        assert re.fullmatch(r"# (HELP|TYPE) \w+ .+|\w+(\{\w+=\"[^\"]*\"(,\w+=\"[^\"]*\")*\})? [0-9.e+-]+", line), line
    helps = re.findall(r"^# HELP (\w+)", second, re.M)
    assert len(helps) == len(set(helps)) >= 12
    for name in ("meter", "idle"):
        m.ask("DELETE", f"/vms/{name}?force=true")
    if not shutil.which("promtool"):
        return None
    checked = subprocess.run(["promtool", "check", "metrics"], input=second, capture_output=True, text=True, timeout=30)
    assert checked.returncode == 0, checked.stderr + checked.stdout
    return None


@test
def a_new_manager_keeps_tokens_and_certificate(m):
    token = m.token("lasting")
    certificate = open(m.tls[2], encoding="ascii").read()
    m.process.kill()
    m.process.wait()
    m.begin()
    assert once(m.tls, "GET", "/v1/vms", token=token).status == 200
    assert open(m.tls[2], encoding="ascii").read() == certificate
    assert os.stat(m.folder + "/data/berth/tls-key.pem").st_mode & 0o777 == 0o600
    assert os.stat(m.local).st_mode & 0o777 in (0o600, 0o700)


def main():
    manager = Manager(sys.argv[1])
    try:
        return run_all(TESTS, manager, sys.argv[3:])
    finally:
        manager.close()


if __name__ == "__main__":
    sys.exit(main())
