#!/usr/bin/env python3
"""berth net and berth port as people and scripts use them. Prints TAP.

    network_cli.py BERTH GUEST

GUEST is the multiboot file of obey.c.
"""
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

BERTH, GUEST = (os.path.abspath(path) for path in sys.argv[1:3])
WAIT = 30


def berth(*args, status=0):
    done = subprocess.run([BERTH, *args], capture_output=True, text=True, timeout=WAIT, stdin=subprocess.DEVNULL)
    assert done.returncode == status, f"{args}: status {done.returncode}: {done.stderr}"
    if status:
        assert done.stderr.count("\n") == 1 and done.stderr.startswith("berth: "), done.stderr
        return done.stderr
    return done.stdout


def ask(*args):
    return json.loads(berth(*args, "--json"))


def until(condition):
    end = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < end, "it did not come to be"
        time.sleep(0.1)


class Vm:
    def __init__(self, name, *args):
        self.name = name
        self.process = subprocess.Popen([BERTH, "run", "-n", name, "-m", "32", "--kernel", GUEST, *args],
                                        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def __enter__(self):
        until(lambda: any(vm["name"] == self.name for vm in ask("ls")))
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


def cards(network):
    return {p["vm"]: p for p in ask("net", "info", network).get("ports", [])}


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def answers(port):
    try:
        socket.create_connection(("127.0.0.1", port), 5).close()
        return True
    except ConnectionRefusedError:
        return False


# --- cases

def networks_are_made_shown_and_removed():
    assert [n["name"] for n in ask("net", "ls")] == ["default"]
    made = ask("net", "create", "lab", "--kind", "host", "--subnet", "10.77.0.0/22", "--subnet6", "none", "--mtu", "9000",
               "--isolated", "--idle", "5", "--in", "10M", "--out", "1.5G", "--policy", "deny host:22")
    assert made["kind"] == "host" and made["limit_in"] == 10_000_000 and made["limit_out"] == 1_500_000_000
    assert made["mtu"] == 9000 and made["isolated"] and made["idle_seconds"] == 5 and made["policy"] == "deny host:22"
    assert "10.77.0.0/22" in berth("net", "info", "lab") and "lab" in berth("net", "ls")
    assert "is there" in berth("net", "create", "lab", status=2)
    berth("net", "rm", "lab")
    assert [n["name"] for n in ask("net", "ls")] == ["default"]
    assert "always there" in berth("net", "rm", "default", status=2)


def wrong_words_are_refused_with_the_next_step():
    for args, word in ((["net"], "berth net --help"), (["net", "make"], "berth net --help"),
                       (["net", "create"], "a name"), (["net", "create", "../x"], "no name"),
                       (["net", "create", "x", "--kind", "bridge"], "nat, host or private"),
                       (["net", "create", "x", "--subnet", "10.0.0.1/24"], "10.5.6.0/24"),
                       (["net", "create", "x", "--in", "5"], "10M"), (["net", "create", "x", "--mtu", "100"], "1280"),
                       (["net", "create", "x", "--policy", "permit"], "allow or deny"),
                       (["net", "ls", "--kind", "nat"], "no option of net ls"), (["net", "info", "x"], "net create x"),
                       (["net", "rm", "x"], "net create x"), (["net", "policy", "web"], "berth ls"),
                       (["net", "limit", "we b"], "VM:1"), (["net", "capture", "default"], "berth net ls"),
                       (["port"], "berth port --help"), (["port", "add", "web"], "HOST:GUEST"),
                       (["port", "add", "web", "x"], "8080:80"), (["port", "rm", "8080"], "berth port ls")):
        said = berth(*args, status=2)
        assert word in said, said
    for command in ("net", "port"):
        assert berth(command, "--help").startswith(f"usage: berth {command}")


def a_card_moves_between_networks_while_its_vm_runs():
    berth("net", "create", "lab", "--kind", "private")
    with Vm("web", "--net", "default"):
        until(lambda: "web" in cards("default"))
        mac = cards("default")["web"]["mac"]
        assert "1 network cards" in berth("net", "stop", "default", status=3)
        assert ask("net", "connect", "web:0", "lab")["mac"] == mac
        assert cards("lab")["web"]["mac"] == mac
        until(lambda: "web" not in cards("default"))
        assert "private" in berth("net", "policy", "web", "none", status=1)
        assert "lab" in berth("net", "disconnect", "web:0")
        until(lambda: not cards("lab"))
        assert "net connect web" in berth("net", "policy", "web", status=1)
        assert "no network card 1" in berth("net", "connect", "web:1", "lab", status=2)
        berth("net", "stop", "default")
        assert not ask("net", "ls")[0]["running"]
        berth("net", "connect", "web", "default")
        assert "web" in cards("default")
    until(lambda: not cards("default"))


def cards_come_and_go_while_the_vm_runs():
    with Vm("web", "--net", "none"):
        made = ask("net", "connect", "web", "default")
        assert made["new"] and made["nic"] == 0 and cards("default")["web"]["mac"] == made["mac"]
        os.kill(ask("net", "info", "default")["pid"], signal.SIGKILL)
        until(lambda: "web" in cards("default"))
        assert cards("default")["web"]["mac"] == made["mac"]
        assert ask("net", "connect", "web", "default")["nic"] == 1  # this guest sees them when it starts anew
        berth("net", "disconnect", "web")
        again = ask("net", "connect", "web", "default")
        assert not again["new"] and again["nic"] == 0 and again["mac"] == made["mac"]
        assert "starts anew" in berth("net", "disconnect", "--remove", "web:1")
        assert "no network card 5" in berth("net", "disconnect", "--remove", "web:5", status=2)
        assert "net create nowhere" in berth("net", "connect", "web", "nowhere", status=2)
        assert json.loads(berth("control", "web", "info"))["nics"][1]["network"] == "default"
        berth("control", "web", "reset")
        until(lambda: json.loads(berth("control", "web", "info"))["nics"][1] is None)
        assert ask("net", "connect", "web", "default")["nic"] == 1


def policies_and_limits_change_while_the_vm_runs():
    with Vm("web", "--net", "default"):
        until(lambda: "web" in cards("default"))
        assert "open" in berth("net", "policy", "web")
        assert "allow example.org:443" in berth("net", "policy", "web", "allow example.org:443")
        assert ask("net", "policy", "web")["policy"] == "allow example.org:443"
        assert "allow or deny" in berth("net", "policy", "web", "permit all", status=2)
        berth("net", "limit", "--in", "20M", "--out", "5M", "--priority", "3", "web")
        port = ask("net", "limit", "web")
        assert (port["limit_in"], port["limit_out"], port["priority"]) == (20_000_000, 5_000_000, 3)
        assert "no limit" in berth("net", "limit", "--in", "none", "web:0")
        assert "deny" not in berth("net", "policy", "web", "open")


def what_a_card_is_given_at_its_start_outlives_the_networks_process():
    with Vm("web", "--net", "default,policy=deny host,in=10M,priority=2,isolated"):
        until(lambda: "web" in cards("default"))
        for again in (True, False):
            port = cards("default")["web"]
            assert port["policy"] == "deny host" and port["limit_in"] == 10_000_000, port
            assert port["priority"] == 2 and port["isolated"], port
            if again:
                os.kill(ask("net", "info", "default")["pid"], signal.SIGKILL)
                until(lambda: "web" in cards("default"))
    assert "allow or deny" in berth("run", "--kernel", GUEST, "--net", "default,policy=permit", status=2)


def egress_closes_all_cards_that_say_nothing_else():
    with Vm("web", "--net", "default", "--net", "default,policy=deny host", "--egress", "none"):
        until(lambda: len(ask("net", "info", "default")["ports"]) == 2)
        assert [p["policy"] for p in ask("net", "info", "default")["ports"]] == ["none", "deny host"]
    assert "allow or deny" in berth("run", "--kernel", GUEST, "--net", "default", "--egress", "permit", status=2)
    assert "cannot keep" in berth("run", "--kernel", GUEST, "--net", "tap:x", "--egress", "none", status=2)


def ports_of_the_host_lead_to_vms_until_they_are_removed():
    first, second = free_port(), free_port()
    with Vm("web", "--net", "default", "-p", f"{first}:80"):
        until(lambda: "web" in cards("default"))
        assert answers(first) and not answers(second)
        berth("port", "add", "web", f"{second}:81")
        assert answers(second)
        shown = {(p["vm"], p["forward"]) for p in ask("port", "ls", "web")}
        assert shown == {("web", f"tcp:127.0.0.1:{first}:80"), ("web", f"tcp:127.0.0.1:{second}:81")}
        assert "taken" in berth("port", "add", "web", f"{first}:82", status=3)
        berth("port", "rm", f"tcp:127.0.0.1:{first}:80")
        berth("port", "rm", str(second))
        assert not answers(first) and not answers(second)
        assert "no port leads" in berth("port", "ls")


def a_capture_is_written_until_it_is_interrupted():
    file = os.path.join(os.environ["XDG_RUNTIME_DIR"], "pcap")
    with Vm("web", "--net", "default"):
        until(lambda: "web" in cards("default"))
        capture = subprocess.Popen([BERTH, "net", "capture", "-w", file, "default"])
        until(lambda: os.path.exists(file) and os.path.getsize(file) >= 24)
        with Vm("db", "--net", "default"):
            until(lambda: os.path.getsize(file) > 24 + 16 + 60)  # the router, advertised to it
        capture.send_signal(signal.SIGINT)
        capture.wait(WAIT)
    with open(file, "rb") as f:
        assert f.read(4) == b"\x4d\x3c\xb2\xa1"


CASES = [
    networks_are_made_shown_and_removed,
    wrong_words_are_refused_with_the_next_step,
    a_card_moves_between_networks_while_its_vm_runs,
    cards_come_and_go_while_the_vm_runs,
    policies_and_limits_change_while_the_vm_runs,
    what_a_card_is_given_at_its_start_outlives_the_networks_process,
    egress_closes_all_cards_that_say_nothing_else,
    ports_of_the_host_lead_to_vms_until_they_are_removed,
    a_capture_is_written_until_it_is_interrupted,
]


def main():
    failed = 0
    print(f"1..{len(CASES)}", flush=True)
    for number, case in enumerate(CASES, 1):
        home = tempfile.mkdtemp(prefix="berth-net-cli-")
        os.environ["XDG_RUNTIME_DIR"] = os.environ["XDG_DATA_HOME"] = home
        try:
            case()
            line = f"ok {number} - {case.__name__}"
        except (AssertionError, OSError, ValueError, LookupError, subprocess.TimeoutExpired) as why:
            failed += 1
            at = why.__traceback__.tb_next
            print(f"# {type(why).__name__} in line {at.tb_lineno}: {why}")
            line = f"not ok {number} - {case.__name__}"
        for network in ("default", "lab"):
            subprocess.run([BERTH, "net", "stop", "--force", network], capture_output=True, timeout=WAIT)
        shutil.rmtree(home)
        print(line, flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
