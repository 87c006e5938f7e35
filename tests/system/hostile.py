#!/usr/bin/env python3
"""VMs whose process has been taken over by its guest: what they do to the manager and to others. Prints TAP.

    hostile.py BERTH BERTH_VMM HOSTILE_VMM GUEST [CASE...]

HOSTILE_VMM (hostile_vmm.c) runs in the place of berth-vmm: a VM that is called evil-... attacks, others are real.
GUEST is the multiboot file of obey.c.
"""
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time

from berthd import Manager, run_all
from http_client import Client, once
from tap import until

BERTH, VMM, HOSTILE, GUEST = (os.path.abspath(path) for path in sys.argv[1:5])
SANITIZED = b"__asan_init" in open(VMM, "rb").read()
WAIT = 120
LOG_MAX = 4 << 20  # both logs of 1 MiB, with an older part each, and what is on its way
GROWTH_MAX = 64 << 20  # of the manager, under any attack
TESTS = []


def test(function):
    TESTS.append(function)
    return function


class Hostile(Manager):
    """A manager of programs in a folder of their own, with a VM that works, the witness."""

    def __init__(self):
        self.programs = tempfile.mkdtemp(prefix="berth-hostile-")
        build = os.path.dirname(BERTH)
        for source, name in ((BERTH, "berth"), (f"{build}/berthd", "berthd"), (HOSTILE, "berth-vmm"), (VMM, "berth-vmm.real")):
            try:
                os.link(source, f"{self.programs}/{name}")
            except OSError:
                shutil.copy(source, f"{self.programs}/{name}")
        super().__init__(f"{self.programs}/berth")
        self.add("witness")
        self.witness = self.console("witness")
        self.hear(b"# ready")

    def close(self):
        self.witness.close()
        try:
            self.remove("witness")
        finally:
            super().close()
            shutil.rmtree(self.programs)

    def add(self, name, start=True, **more):
        self.ask("POST", "/vms", {"name": name, "definition": {"memory_mib": 32, "kernel": GUEST, **more}})
        if start:
            self.ask("POST", f"/vms/{name}/start")

    def clear(self):
        for vm in self.ask("GET", "/vms")["vms"]:
            if vm["name"] != "witness":
                self.remove(vm["name"])

    def remove(self, name):
        client = Client(self.local, timeout=WAIT)
        assert client.ask("DELETE", f"/v1/vms/{name}?force=true").status == 200
        client.close()

    def console(self, name):
        s = socket.socket(socket.AF_UNIX)
        s.settimeout(WAIT)
        s.connect(f"{self.folder}/run/berth/vm/{name}/console.sock")
        return s

    def hear(self, word):
        seen = b""
        while word not in seen:
            data = self.witness.recv(4096)
            assert data, f"the witness has gone after {seen[-200:]!r}"
            seen += data

    def resident(self):
        with open(f"/proc/{self.process.pid}/statm", encoding="ascii") as f:
            return int(f.read().split()[1]) * os.sysconf("SC_PAGESIZE")

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def folder_of(self, name):
        return self.ask("GET", f"/vms/{name}")["folder"]

    def all_is_well(self):
        """The manager and the witness do what is asked of them."""
        assert self.process.poll() is None, "the manager has ended"
        states = {vm["name"]: vm["state"] for vm in self.ask("GET", "/vms")["vms"]}
        assert states["witness"] == "running", states
        self.witness.sendall(b"?")
        self.hear(b"<?>")
        assert self.ask("GET", "/vms/witness/stats")["counters"]
        self.ask("POST", "/vms/witness/pause")
        self.ask("POST", "/vms/witness/resume")
        until(lambda: self.ask("GET", "/vms/witness")["state"] == "running")


def log_of(m, name):
    """What a VM's process said, as the supervisor kept it."""
    with open(m.folder_of(name) + "/log", "rb") as f:
        return f.read().decode(errors="replace")


def attack(m, kind, during=lambda m, name: None):
    """Lets one loose; the others must not notice."""
    name, before, descriptors = f"evil-{kind}", m.resident(), m.descriptors()
    m.add(name, start=False)
    m.ask("POST", f"/vms/{name}/start")
    for _ in range(5):
        m.all_is_well()
        time.sleep(0.2)
    during(m, name)
    grown = m.resident() - before
    assert SANITIZED or grown < GROWTH_MAX, f"the manager has grown by {grown}"
    m.remove(name)
    m.all_is_well()
    until(lambda: m.descriptors() <= descriptors)


@test
def one_that_crashes(m):
    def during(m, name):
        vm = until(lambda: m.ask("GET", f"/vms/{name}")["state"] == "failed" and m.ask("GET", f"/vms/{name}"))
        assert vm["reason"] == "killed" or vm["status"] == 3, vm
    attack(m, "crash", during)


@test
def one_that_spins(m):
    def during(m, name):
        assert m.ask("GET", "/usage")["vms"]
        m.verb("stop", "--force", name)
    attack(m, "spin", during)


@test
def one_that_takes_all_memory(m):
    def during(m, name):
        pid = m.ask("GET", f"/vms/{name}")["pid"]
        with open(f"/proc/{pid}/limits", encoding="ascii") as f:
            limit = next(line.split()[3] for line in f if line.startswith("Max data size"))
        assert limit != "unlimited" and int(limit) < 1 << 30, limit

        def full():
            with open(f"/proc/{pid}/status", encoding="ascii") as f:
                return next(int(line.split()[1]) << 10 for line in f if line.startswith("VmData")) > int(limit) - (1 << 20)
        until(full)
        m.all_is_well()
    if SANITIZED:
        return "sanitizers need the memory that is limited"
    return attack(m, "memory", during)


@test
def one_that_fills_its_log(m):
    def during(m, name):
        folder = m.folder_of(name)
        until(lambda: os.path.exists(f"{folder}/log.1"))
        for _ in range(10):
            sizes = sum(os.path.getsize(f"{folder}/{file}") for file in os.listdir(folder) if os.path.exists(f"{folder}/{file}"))
            assert sizes < LOG_MAX, sizes
            m.all_is_well()
    attack(m, "log", during)


@test
def one_that_sends_random_bytes(m):
    attack(m, "bytes")


@test
def one_that_sends_a_line_without_end(m):
    attack(m, "huge-line")


@test
def one_that_sends_huge_events_chokes_no_listener(m):
    listener = Client(m.local, timeout=WAIT)
    listener.start("GET", "/v1/events")
    assert listener.head()[0] == 200
    listener.chunk()
    attack(m, "huge-event")
    m.add("told", start=False)
    text = b""
    while b'"created","vm":"told"' not in text:
        text += listener.chunk()
    assert b'"big"' not in text
    listener.close()
    m.remove("told")


@test
def one_that_sends_events_for_ever_does_not_displace_others(m):
    def during(m, name):
        m.add("other", start=False)
        for _ in range(10):
            m.all_is_well()
            time.sleep(0.2)
        events = m.ask("GET", "/history?last=1000")["events"]
        assert sum(event.get("vm") == name for event in events) < 10, len(events)
        assert any(event["event"] == "created" and event["vm"] == "other" for event in events)
        assert not any(event["event"] == "removed" and event.get("vm") == "witness" for event in events)
        m.remove("other")
    attack(m, "events", during)


@test
def one_that_sends_half_a_line(m):
    attack(m, "half", lambda m, name: m.ask("GET", "/usage"))


@test
def one_that_answers_what_nobody_asked(m):
    attack(m, "unasked")


@test
def one_that_sends_descriptors(m):
    def during(m, name):
        assert m.descriptors() < 100
    attack(m, "descriptors", during)


@test
def one_that_sends_what_is_no_answer(m):
    def during(m, name):
        for _ in range(25):  # each connection gets another kind
            m.ask("GET", "/usage")
            time.sleep(0.1)
        m.all_is_well()
    attack(m, "json", during)


@test
def one_that_lies(m):
    def during(m, name):
        vm = m.ask("GET", f"/vms/{name}")
        assert vm["pid"] == 0, vm  # it said 1
        for vm in m.ask("GET", "/usage")["vms"]:
            assert vm["memory_resident_bytes"] >= 0 and all(vm.get(key, 0) >= 0 for key in (
                "cpu_seconds", "disk_read_bytes", "disk_written_bytes", "net_sent_bytes")), vm
        assert once(m.local, "GET", "/metrics").status == 200
        m.verb("top", "--once", "--json", status=None)
        m.ask("GET", "/pools")
    attack(m, "lies", during)


@test
def one_that_answers_nothing_holds_no_survey_up(m):
    def during(m, name):
        begun = time.monotonic()
        usage = {vm["name"]: vm for vm in m.ask("GET", "/usage")["vms"]}
        assert "exits" in usage["witness"] and "exits" not in usage[name], usage
        assert time.monotonic() - begun < WAIT / 4
    attack(m, "mute", during)


# --- agents

def execute(m, name, status, **more):
    client = Client(m.local, timeout=WAIT)
    reply = client.ask("POST", f"/v1/vms/{name}/exec", {"command": ["true", "--json"], **more})
    client.close()
    assert reply.status == status, (reply.status, reply.body[:300])
    return reply.json()


@test
def an_agents_answer_is_the_commands(m):
    def during(m, name):
        assert m.ask("GET", f"/vms/{name}")["agent"] is True
        assert execute(m, name, 200) == {"status": 7, "stdout": "out\n", "stderr": "err\n"}
        client = Client(m.local, timeout=WAIT)
        assert client.upgrade(f"/v1/vms/{name}/agent").status == 101
        assert client.stream(8)[4] == 1  # its greeting comes as it is
        client.close()
        for wrong in ({"command": []}, {"command": ["x", 7]}, {"command": "x"}, {"command": ["x" * 5000]}, {"seconds": 0}, {"command": ["x"] * 65}):
            execute(m, name, 400, **wrong)
    attack(m, "agent-obeys", during)
    assert "agent" in m.ask("POST", "/vms/witness/exec", {"command": ["true"]}, status=422)["error"]["text"]


@test
def an_agent_that_floods_fills_nothing(m):
    attack(m, "agent-floods", lambda m, name: [execute(m, name, 422) for _ in range(3)])


@test
def an_agent_that_babbles_is_refused(m):
    attack(m, "agent-babbles", lambda m, name: execute(m, name, 422))


@test
def an_agent_that_hangs_is_given_up(m):
    def during(m, name):
        assert "time" in execute(m, name, 409, seconds=1)["error"]["text"]
    attack(m, "agent-hangs", during)


# --- two VMs

def target(m):
    """Where the witness's disk, socket and memory are, as hostile_vmm.c reads it."""
    pid = m.ask("GET", "/vms/witness")["pid"]
    with open(f"/proc/{pid}/maps", encoding="ascii") as f:
        address = f.readline().split("-")[0]
    disk = m.folder_of("witness") + "/lock"
    return f"{disk};{m.folder}/run/berth/vm/witness/control.sock;{pid};{address}"


@test
def the_filter_kills_who_reaches_for_another_vm(m):
    if SANITIZED:
        return "there is no filter under sanitizers"
    for what in ("open-disk", "open-memory", "connect", "read-memory", "trace", "signal"):
        name = f"evil-{what}"
        m.add(name, start=False, append=target(m))
        m.verb("start", name, status=None)
        vm = until(lambda: m.ask("GET", f"/vms/{name}")["state"] == "failed" and m.ask("GET", f"/vms/{name}"))
        assert vm["status"] == 3 and '"reached"' not in log_of(m, name), (vm, log_of(m, name))
        assert "forbidden" in log_of(m, name) + vm.get("text", "") + said(m, name), (vm, log_of(m, name))
        m.remove(name)
        m.all_is_well()
    return None


def said(m, name):
    with open(m.folder_of(name) + "/said", encoding="utf-8") as f:
        return f.read()


@test
def without_the_filter_the_other_layers_hold(m):
    layers = {f["name"]: f["state"] for f in json.loads(m.verb("doctor", "--json", status=None))}
    if SANITIZED or layers["namespaces"] != "ok":
        return "the host has no namespaces for it"
    m.add("raw-reach", start=False, append=target(m))
    m.ask("POST", "/vms/raw-reach/start")
    until(lambda: log_of(m, "raw-reach").count('"reached"') == 7)
    for line in log_of(m, "raw-reach").splitlines():
        event = json.loads(line)
        if event["event"] != "reached":
            continue
        if event["what"] == "inherited":
            assert event["result"] == 0, event
        else:  # there is no such file, no such process
            assert event["result"] < 0 and event["errno"] in (1, 2, 3, 13), event
    m.remove("raw-reach")
    m.all_is_well()
    return None


@test
def another_user_reaches_nothing_of_a_vm(m):
    if os.geteuid() != 0 or not shutil.which("setpriv"):
        return "only root can be somebody else"
    folder, runtime = m.folder_of("witness"), f"{m.folder}/run/berth"
    os.chmod(m.folder, 0o755)  # the test's own; what Berth made has to hold by itself
    for inner in ("run", "data"):
        os.chmod(f"{m.folder}/{inner}", 0o755)
    connect = "import socket,sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
    someone = ["setpriv", "--reuid", "4321", "--regid", "4321", "--clear-groups"]
    tries = [["cat", f"{folder}/lock"], ["ls", folder], ["cat", f"{m.folder}/data/berth/berth.db"], ["ls", f"{runtime}/vm"],
             [sys.executable, "-c", connect, f"{runtime}/vm/witness/control.sock"],
             [sys.executable, "-c", connect, f"{runtime}/vm/witness/console.sock"], [sys.executable, "-c", connect, m.local],
             ["cat", f"/proc/{m.ask('GET', '/vms/witness')['pid']}/mem"]]
    for words in tries:
        done = subprocess.run([*someone, *words], capture_output=True, text=True, timeout=WAIT, check=False)
        assert done.returncode and "ermission denied" in done.stderr, (words, done.stdout, done.stderr)
    m.all_is_well()
    return None


def main():
    manager = Hostile()
    try:
        return run_all(TESTS, manager, sys.argv[5:])
    finally:
        manager.close()


if __name__ == "__main__":
    sys.exit(main())
