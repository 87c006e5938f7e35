#!/usr/bin/env python3
"""The command line as a person or a script sees it. Prints TAP.

    cli.py BERTH BERTH_VMM GUEST

GUEST is the multiboot file of obey.c. Cases that need a guest run one under `--engine auto`.
"""
import json
import os
import pty
import random
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import termios
import time

import tap
from tap import Skip

BERTH, VMM, GUEST = (os.path.abspath(path) for path in sys.argv[1:4])
SANITIZED = b"__asan_init" in open(VMM, "rb").read()
WAIT = 30


def run(*args, **kwargs):
    return subprocess.run([BERTH, *args], capture_output=True, text=True, timeout=WAIT,
                          stdin=subprocess.DEVNULL, **kwargs)


def check_words(done, status, *words):
    assert done.returncode == status, f"status {done.returncode}: {done.stderr}"
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("berth: "), done.stderr
    for word in words:
        assert word in done.stderr, done.stderr


class Guest:
    """A running `berth run` with its serial port on a pipe, or on a terminal of its own."""

    def __init__(self, *options, terminal=False):
        self.seen = b""
        command = [BERTH, "run", "-m", "32", "--kernel", GUEST, "--exit-device", *options]
        if terminal:
            self.fd, slave = pty.openpty()
            self.terminal = slave
            self.before = termios.tcgetattr(slave)
            self.process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave,
                                            start_new_session=True)
        else:
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                            stderr=subprocess.STDOUT)
            self.fd = self.process.stdout.fileno()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def expect(self, word):
        end = time.monotonic() + WAIT
        while word not in self.seen:
            ready = select.select([self.fd], [], [], max(0, end - time.monotonic()))[0]
            data = os.read(self.fd, 4096) if ready else b""
            assert data, f"no {word!r} in {self.seen[-400:]!r}"
            self.seen += data
        self.seen = self.seen[self.seen.index(word) + len(word):]

    def type(self, data):
        os.write(self.fd if hasattr(self, "terminal") else self.process.stdin.fileno(), data)

    def status(self):
        return self.process.wait(WAIT)

    def vmm(self):
        path = f"/proc/{self.process.pid}/task/{self.process.pid}/children"
        with open(path, encoding="ascii") as f:
            return int(f.read().split()[0])


def started(*options, **kwargs):
    guest = Guest(*options, **kwargs)
    guest.expect(b"# ready")
    return guest


# --- without a guest

def help_lists_every_command():
    done = run("--help")
    assert done.returncode == 0
    for command in ("run", "info", "doctor", "ls", "pause", "resume", "reset", "stop", "events", "stats", "control",
                    "explain", "image",                    "version", "help"):
        assert f"\n  {command} " in done.stdout
        assert run(command, "--help").stdout.startswith(f"usage: berth {command}")


def every_command_has_a_manual_page():
    pages = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../docs/man")
    text = ""
    for name in os.listdir(pages):
        with open(os.path.join(pages, name), encoding="utf-8") as page:
            text += page.read().replace("\\", "")
    for command in re.findall(r"^  ([a-z]+) ", run("--help").stdout, re.M):
        assert command in ("help", "version") or re.search(rf"berth[ -]{command}\b", text), command


def the_shells_complete_commands_options_and_names():
    def complete(*words):
        script = 'eval "$("$0" completion bash)"; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _berth; printf "%s\\n" "${COMPREPLY[@]}"'
        done = subprocess.run(["bash", "-c", script, BERTH, "berth", *words], capture_output=True, text=True, timeout=WAIT,
                              env={**os.environ, "PATH": os.path.dirname(os.path.abspath(BERTH)) + ":" + os.environ["PATH"]})
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    assert complete("pa") == ["pause"]
    assert "--restart" in complete("create", "--re") and complete("create", "--autos") == ["--autostart"]
    assert {"create", "set", "ls", "rm"} <= set(complete("pool", "")), complete("pool", "")
    for shell, words in (("zsh", "#compdef berth"), ("fish", "complete -c berth")):
        assert words in run("completion", shell).stdout


def version_is_one_line():
    assert run("version").stdout == run("--version").stdout
    assert run("version").stdout.startswith("berth ")


def wrong_usage_is_one_line_and_status_2():
    check_words(run("launch"), 2, "'launch'", "berth --help")
    check_words(run("run"), 2, "--kernel")
    check_words(run("run", "--frobnicate"), 2, "'--frobnicate'", "berth run --help")
    check_words(run("run", "--kernel"), 2, "needs a value")
    check_words(run("run", "-c", "65", "--kernel", GUEST), 2, "'65'", "1 to 64")
    check_words(run("run", "-m", "lots", "--kernel", GUEST), 2, "'lots'", "512M")
    check_words(run("run", "--engine", "xen", "--kernel", GUEST), 2, "'xen'", "translate")
    check_words(run("run", "--debug", "slow", "--kernel", GUEST), 2, "'slow'", "interpret")
    check_words(run("run", "--serial", "tty", "--kernel", GUEST), 2, "'tty'", "file:PATH")
    check_words(run("info", "now"), 2, "'now'")


def missing_files_are_named_with_what_to_give():
    check_words(run("run", "--kernel", "/none"), 2, "kernel '/none'", "No such file", "bzImage")
    check_words(run("run", "--kernel", GUEST, "--initrd", "/none"), 2, "initrd '/none'")
    check_words(run("run", "--kernel", GUEST, "--disk", "/none"), 2, "disk '/none'")
    check_words(run("run", "--kernel", "/"), 2, "directory")


def a_file_that_is_no_kernel_is_refused():
    check_words(run("run", "--kernel", "/etc/passwd"), 2, "/etc/passwd")


def more_memory_than_the_host_has_is_refused_with_a_proposal():
    with open("/proc/meminfo", encoding="ascii") as f:
        total = int(f.readline().split()[1]) // 1024
    if total >= 200 * 1024:
        raise Skip("this host has more memory than a VM may have")
    check_words(run("run", "-m", str(total + 1024), "--kernel", GUEST), 3, "try -m")


def info_is_readable_by_scripts():
    info = json.loads(run("info", "--json").stdout)
    assert info["memory"]["total_mib"] > 0 and "lm" in info["cpu"]["features"]
    assert any(e["name"] == "translate" and e["usable"] for e in info["engines"])
    assert {layer["name"] for layer in info["sandbox"]} >= {"seccomp", "landlock", "no_new_privs", "namespaces"}
    assert info["direct"]["usable"] or info["direct"]["why"]
    assert "sandbox" in run("info").stdout and "\ndirect     " in run("info").stdout


def a_forbidden_system_call_kills_the_vm_process():
    if SANITIZED:
        raise Skip("sanitizer builds have no filters")
    for name in ("main", "vcpu", "block"):
        done = subprocess.run([VMM, "--self-test-sandbox", name], timeout=WAIT)
        assert done.returncode == -signal.SIGSYS, done.returncode


# --- with a guest

def keys_reach_the_guest_and_power_off_is_status_0():
    with started() as guest:
        guest.type(b"z")
        guest.expect(b"<z>")
        guest.type(b"p")
        assert guest.status() == 0


def the_exit_device_hands_out_the_guests_status():
    with started() as guest:
        guest.type(b"x")
        assert guest.status() == 41


def a_reset_starts_the_guest_anew():
    with started() as guest:
        guest.type(b"r")
        guest.expect(b"# ready")
        guest.type(b"p")
        assert guest.status() == 0


def with_no_reboot_a_reset_ends_the_vm():
    with started("--no-reboot") as guest:
        guest.type(b"r")
        assert guest.status() == 0


def a_triple_fault_with_no_reboot_is_status_1():
    with started("--no-reboot") as guest:
        guest.type(b"t")
        assert guest.status() == 1
        assert b"triple fault" in guest.seen + guest.process.stdout.read()


def events_tell_a_script_what_happened():
    with tempfile.NamedTemporaryFile() as log:
        with Guest("--json", "--no-reboot", "--serial", f"file:{log.name}", "-n", "x1") as guest:
            guest.expect(b'"started"')
            while b"# ready" not in open(log.name, "rb").read():
                time.sleep(0.05)
            os.kill(guest.process.pid, signal.SIGTERM)
            rest = (b'{"event":"started"' + guest.seen + guest.process.stdout.read()).splitlines()
            assert guest.status() == 1
    stopped = json.loads(rest[-1])
    assert stopped["event"] == "stopped" and stopped["reason"] == "stopped", stopped
    assert stopped["status"] == 1


def sigterm_presses_the_power_button():
    with started() as guest:
        guest.type(b"b")
        guest.expect(b"<b>")
        os.kill(guest.process.pid, signal.SIGTERM)
        assert guest.status() == 0


def a_terminal_is_raw_while_the_guest_has_it_and_ctrl_bracket_leaves():
    with started(terminal=True) as guest:
        guest.type(b"\x03")
        guest.expect(b"<\x03>")
        assert termios.tcgetattr(guest.terminal) != guest.before
        guest.type(b"\x1d")
        assert guest.status() == 0
        assert termios.tcgetattr(guest.terminal) == guest.before


def the_terminal_is_restored_when_the_vm_process_dies():
    with started(terminal=True) as guest:
        os.kill(guest.vmm(), signal.SIGKILL)
        assert guest.status() == 3
        assert termios.tcgetattr(guest.terminal) == guest.before


def the_terminal_is_restored_by_every_signal():
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        with started(terminal=True) as guest:
            os.kill(guest.process.pid, number)
            assert guest.status() == 1, number
            assert termios.tcgetattr(guest.terminal) == guest.before


def when_berth_is_killed_the_vm_ends_and_gives_the_terminal_back():
    with started(terminal=True) as guest:
        vmm = guest.vmm()
        os.kill(guest.process.pid, signal.SIGKILL)
        guest.status()
        end = time.monotonic() + WAIT
        while os.path.exists(f"/proc/{vmm}") and time.monotonic() < end:
            with open(f"/proc/{vmm}/stat", encoding="ascii") as f:
                if f.read().split(")")[1].split()[0] == "Z":
                    break
            time.sleep(0.02)
        assert termios.tcgetattr(guest.terminal) == guest.before


def a_pty_is_announced_and_leads_to_the_guest():
    with Guest("--serial", "pty") as guest:
        guest.expect(b"serial is at ")
        rest = guest.seen
        while b"\n" not in rest:
            rest += os.read(guest.fd, 100)
        path = rest.split(b"\n")[0].decode().strip()
        guest.seen = b""
        fd = os.open(path, os.O_RDWR | os.O_NOCTTY)
        guest.fd, pipe = fd, guest.fd
        guest.expect(b"# ready")
        os.write(fd, b"p")
        assert guest.status() == 0
        os.close(fd)
        guest.fd = pipe


# --- verbs for running VMs


def name_of_this_test():
    return f"cli-{os.getpid()}"


def a_running_vm_is_found_by_name():
    name = name_of_this_test()
    with started("-n", name) as guest:
        rows = {vm["name"]: vm for vm in json.loads(run("ls", "--json").stdout)}
        assert rows[name]["pid"] == guest.vmm() and rows[name]["state"] == "running", rows
        info = json.loads(run("info", "--json", name).stdout)
        assert info["memory_mib"] == 32 and info["engine"] in ("translate", "kvm"), info
        assert info["direct"] == (not info["direct_reason"]), info
        check_words(run("run", "-n", name, "--kernel", GUEST), 2, name, "-n")
        assert json.loads(run("control", name, "ping").stdout) == {}
        check_words(run("control", name, "nmi", "vcpu=1"), 2, "vCPU 1")
        check_words(run("control", name, "fly"), 2, "'fly'")
        check_words(run("stop", name), 1, "--force")
        assert run("stop", "--force", name).returncode == 0
        assert guest.status() == 1
    check_words(run("info", name), 2, name, "berth ls")
    assert name not in run("ls").stdout


def names_that_are_paths_are_refused():
    for name in ("../x", "..", "/tmp", "a/b"):
        check_words(run("info", name), 2, name)
        check_words(run("run", "-n", name, "--kernel", GUEST), 2, name)


def vms_without_a_name_get_different_ones():
    with started() as one, started() as two:
        mine = (one.vmm(), two.vmm())
        names = [vm["name"] for vm in json.loads(run("ls", "--json").stdout) if vm["pid"] in mine]
        assert len(set(names)) == 2 and all(n.startswith("vm") for n in names), names


def a_paused_vm_stands_still_until_it_is_resumed():
    name = name_of_this_test()
    with started("-n", name) as guest:
        guest.expect(b"\n")
        assert run("pause", name).returncode == 0
        guest.type(b"z")
        first = json.loads(run("stats", "--json", name).stdout)
        time.sleep(0.3)
        assert not select.select([guest.fd], [], [], 0)[0]
        assert json.loads(run("stats", "--json", name).stdout)["guest_seconds"] == first["guest_seconds"]
        assert json.loads(run("info", "--json", name).stdout)["state"] == "paused"
        check_words(run("stop", name), 2, "resume")
        assert run("reset", name).returncode == 0
        assert json.loads(run("info", "--json", name).stdout)["state"] == "paused"
        assert run("resume", name).returncode == 0
        guest.expect(b"# ready")
        guest.type(b"p")
        assert guest.status() == 0


def stop_presses_the_power_button_and_waits():
    name = name_of_this_test()
    with started("-n", name) as guest:
        guest.type(b"b")
        guest.expect(b"<b>")
        events = subprocess.Popen([BERTH, "events", "--json", name], stdout=subprocess.PIPE)
        stats = json.loads(run("stats", "--json", name).stdout)["counters"]
        assert stats["com1.accesses"] > 10, stats
        time.sleep(0.3)
        assert "has stopped" in run("stop", name).stdout
        assert guest.status() == 0
        seen = [json.loads(line)["event"] for line in events.communicate(timeout=WAIT)[0].splitlines()]
        assert seen[0] == "shutdown-requested" and seen[-1] == "stopped", seen


def runtime_directory():
    own = os.environ.get("XDG_RUNTIME_DIR", "")
    return f"{own}/berth" if os.path.isdir(own) and os.stat(own).st_uid == os.geteuid() \
        else f"/tmp/berth-{os.geteuid()}"


def a_hostile_client_cannot_disturb_the_vm():
    name = name_of_this_test()
    with started("-n", name) as guest:
        path = f"{runtime_directory()}/vm/{name}/control.sock"
        clients = []
        random.seed(1)
        for round_ in range(40):
            s = socket.socket(socket.AF_UNIX)
            s.connect(path)
            s.settimeout(1)
            try:
                if round_ % 4 == 0:
                    s.sendall(random.randbytes(100000))
                elif round_ % 4 == 1:
                    s.sendall(b'{"request":"help"}\n' * 3000)
                elif round_ % 4 == 2:
                    s.sendall(b'{"request":"events"}\n{"request":"stats","id":"' + b"x" * 200 + b'"}\n[[[')
                else:
                    s.sendall(b"[" * 60000 + b"\n")
            except OSError:
                pass
            clients.append(s)
            if len(clients) > 12:
                clients.pop(0).close()
        for s in clients:
            s.close()
        guest.type(b"z")
        guest.expect(b"<z>")
        assert run("control", name, "ping").returncode == 0
        guest.type(b"p")
        assert guest.status() == 0


def what_a_killed_berth_leaves_is_cleared_away():
    name = name_of_this_test()
    with started("-n", name) as guest:
        vmm = guest.vmm()
        os.kill(guest.process.pid, signal.SIGKILL)
        guest.status()
        end = time.monotonic() + WAIT
        while os.path.exists(f"/proc/{vmm}/fd/0") and time.monotonic() < end:
            time.sleep(0.02)
        assert os.path.exists(f"{runtime_directory()}/vm/{name}")
        assert name not in run("ls").stdout
        assert not os.path.exists(f"{runtime_directory()}/vm/{name}")


def seed_file(name, file):
    seed = f"{runtime_directory()}/vm/{name}/seed.img"
    return subprocess.run(["mtype", "-i", seed, f"::{file}"], capture_output=True, text=True, check=True).stdout


def a_seed_carries_user_data_as_it_is_and_keys_beside_it():
    if not shutil.which("mformat"):
        raise Skip("mtools is not installed")
    name = name_of_this_test() + ".x"
    key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5 me@here"
    with tempfile.TemporaryDirectory() as work:
        user, keys = f"{work}/user-data", f"{work}/id.pub"
        text = "#cloud-config\nssh_authorized_keys:\n- ssh-rsa BBBB\n"
        with open(user, "w", encoding="ascii") as f:
            f.write(text)
        with open(keys, "w", encoding="ascii") as f:
            f.write(f"# mine\n{key}\n")
        with started("-n", name, "--cloud-init", user, "--ssh-key", keys) as guest:
            meta = json.loads(seed_file(name, "meta-data"))
            assert meta["public-keys"] == [key], meta
            assert meta["local-hostname"] == name.replace(".", "-"), meta
            assert meta["instance-id"].startswith(meta["local-hostname"] + "-"), meta
            assert seed_file(name, "user-data") == text
            disk = json.loads(run("info", "--json", name).stdout)["disks"][0]
            assert disk["read_only"] and disk["path"].endswith("seed.img"), disk
            guest.type(b"p")
            assert guest.status() == 0
        assert not os.path.exists(f"{runtime_directory()}/vm/{name}")
        check_words(run("run", "--kernel", GUEST, "--cloud-init", "/etc/passwd"), 2, "#cloud-config")
        check_words(run("run", "--kernel", GUEST, "--ssh-key", user), 2, ".pub")


def image_arguments_are_checked_before_anything_is_made():
    check_words(run("image"), 2, "berth image --help")
    for words in (("--size", "12"), ("--hostname", "a;b"), ("--packages", "x $(y)"), ("--user", "A"),
                  ("--firmware", "coreboot"), ("--format", "vmdk"), ("--kernel", "mach"), ("--password", "a\nb"), ("--suite", "../x")):
        check_words(run("image", "build-debian", *words, "/nowhere/x"), 2, words[0])
    check_words(run("image", "build-debian", "/etc/passwd"), 2, "there already")


def every_counter_of_an_engine_is_in_the_manual():
    name = name_of_this_test()
    with open(os.path.join(os.path.dirname(__file__), "../../docs/man/berth-control.1"), encoding="utf-8") as f:
        manual = re.sub(r"\\f[BRI]", "", f.read())
    with started("-n", name, "--engine", "translate"):
        counters = json.loads(run("stats", "--json", name).stdout)["counters"]
        assert counters["executed_ticks"] > 0 and counters["translated_blocks"] > 0, counters
        missing = [counter for counter in counters if "." not in counter and not re.search(rf"\b{counter}\b", manual)]
        assert not missing, missing
        assert run("stop", "--force", name).returncode == 0


def explain_names_the_device_that_a_guest_polls():
    name = name_of_this_test()
    with started("-n", name, "--engine", "translate,direct=off") as guest:
        assert "direct     no: switched off" in run("info", name).stdout
        told = json.loads(run("explain", "--json", name).stdout)
        words = " ".join(finding["what"] + finding["try"] for finding in told["findings"])
        assert told["engine"] == "translate" and "ACPI timer" in words and "clocksource=tsc" in words, told
        assert run("pause", name).returncode == 0
        assert f"berth resume {name}" in run("explain", name).stdout
        assert run("stop", "--force", name).returncode == 0


CASES = [
    help_lists_every_command, every_command_has_a_manual_page, the_shells_complete_commands_options_and_names,
    version_is_one_line,
    wrong_usage_is_one_line_and_status_2,
    missing_files_are_named_with_what_to_give,
    a_file_that_is_no_kernel_is_refused,
    more_memory_than_the_host_has_is_refused_with_a_proposal,
    info_is_readable_by_scripts,
    a_forbidden_system_call_kills_the_vm_process,
    keys_reach_the_guest_and_power_off_is_status_0,
    the_exit_device_hands_out_the_guests_status,
    a_reset_starts_the_guest_anew,
    with_no_reboot_a_reset_ends_the_vm,
    a_triple_fault_with_no_reboot_is_status_1,
    events_tell_a_script_what_happened,
    sigterm_presses_the_power_button,
    a_terminal_is_raw_while_the_guest_has_it_and_ctrl_bracket_leaves,
    the_terminal_is_restored_when_the_vm_process_dies,
    the_terminal_is_restored_by_every_signal,
    when_berth_is_killed_the_vm_ends_and_gives_the_terminal_back,
    a_pty_is_announced_and_leads_to_the_guest,
    a_running_vm_is_found_by_name,
    names_that_are_paths_are_refused,
    vms_without_a_name_get_different_ones,
    a_paused_vm_stands_still_until_it_is_resumed,
    stop_presses_the_power_button_and_waits,
    a_hostile_client_cannot_disturb_the_vm,
    what_a_killed_berth_leaves_is_cleared_away,
    a_seed_carries_user_data_as_it_is_and_keys_beside_it,
    image_arguments_are_checked_before_anything_is_made,
    every_counter_of_an_engine_is_in_the_manual, explain_names_the_device_that_a_guest_polls,
]


if __name__ == "__main__":
    sys.exit(tap.run(CASES))
