#!/usr/bin/env python3
"""What keeps VMs apart, seen from outside: layers that are in force, and VMs that die badly. Prints TAP.

    isolation.py BERTH BERTH_VMM GUEST

GUEST is the multiboot file of obey.c.
"""
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import tap
from tap import Skip

BERTH, VMM, GUEST = (os.path.abspath(path) for path in sys.argv[1:4])
SANITIZED = b"__asan_init" in open(VMM, "rb").read()
WAIT = 30
OWN = ["own users", "own mounts", "own network", "own IPC", "own host name", "own control groups", "own processes"]


class Guest:
    """A VM whose serial port is a pipe, started by a command line that may wrap berth's."""

    def __init__(self, name, *wrap):
        self.name = f"{name}-{os.getpid()}"
        self.process = subprocess.Popen([*wrap, BERTH, "run", "-n", self.name, "-m", "32", "--kernel", GUEST],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.expect(b"# ready")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()

    def expect(self, word):
        seen = b""
        while word not in seen:
            data = os.read(self.process.stdout.fileno(), 4096)
            assert data, f"no {word!r} in {seen!r}"
            seen += data

    def obeys(self):
        self.process.stdin.write(b"?")
        self.process.stdin.flush()
        self.expect(b"<?>")

    def vmm(self):
        with open(f"/proc/{self.process.pid}/task/{self.process.pid}/children", encoding="ascii") as f:
            return int(f.read().split()[0])


def berth(*args, wrap=()):
    return subprocess.run([*wrap, BERTH, *args], capture_output=True, text=True, timeout=WAIT,
                          stdin=subprocess.DEVNULL)


def findings(*args, wrap=()):
    done = berth("doctor", "--json", *args, wrap=wrap)
    return {f["name"]: f for f in json.loads(done.stdout)}, done.returncode


def host_has_namespaces():
    return findings()[0]["namespaces"]["state"] == "ok"


def check_layers(guest):
    found, status = findings(guest.name)
    wanted = ["no_new_privs", "no capabilities"]
    if not SANITIZED:
        wanted += ["seccomp"]
    if host_has_namespaces():
        wanted += OWN + ([] if SANITIZED else ["empty root"])
    for name in wanted:
        assert found[name]["state"] == "ok", found[name]
    assert SANITIZED or status == 0


def a_vm_is_kept_apart_by_every_layer_that_the_host_has():
    with Guest("layers") as guest:
        check_layers(guest)
        guest.obeys()


def an_ordinary_users_vm_is_kept_apart_as_well():
    """What only root can try: as somebody who owns nothing here."""
    if os.geteuid():
        raise Skip("only root can be somebody else")
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(GUEST, f"{folder}/guest")
        for path in (folder, f"{folder}/guest"):
            os.chown(path, 4321, 4321)
        someone = ["setpriv", "--reuid", "4321", "--regid", "4321", "--clear-groups", "env", f"HOME={folder}",
                   f"XDG_RUNTIME_DIR={folder}"]
        if subprocess.run([*someone, BERTH, "version"], capture_output=True, check=False).returncode:
            raise Skip("the build is in a folder that others cannot enter")
        with Guest("someone", *someone) as guest:
            layers = {f["name"]: f["state"] for f in
                      json.loads(berth("doctor", "--json", guest.name, wrap=someone).stdout)}
            assert layers["no capabilities"] == "ok" and layers["no_new_privs"] == "ok", layers
            if findings(wrap=someone)[0]["namespaces"]["state"] == "ok":
                assert all(layers[name] == "ok" for name in OWN), layers


def where_namespaces_are_refused_vms_run_and_doctor_says_why():
    if not host_has_namespaces():
        raise Skip("there are none to be refused")
    wrap = ["unshare", "--user", "--map-root-user", "sh", "-c",
            'echo 0 > /proc/sys/user/max_user_namespaces; exec "$@"', "sh"]
    found, status = findings(wrap=wrap)
    assert found["namespaces"]["state"] == "missing" and "max_user_namespaces" in found["namespaces"]["fix"], found
    with Guest("refused", *wrap) as guest:
        guest.obeys()


def doctor_fails_where_vms_cannot_run():
    with tempfile.TemporaryDirectory() as folder:
        alone = shutil.copy(BERTH, folder)
        done = subprocess.run([alone, "doctor"], capture_output=True, text=True, timeout=WAIT, check=False)
        if "NO  berth-vmm" not in done.stdout:
            raise Skip("Berth is installed here")
        assert done.returncode == 1 and "make" in done.stdout, done.stdout


def a_vm_without_a_terminal_heeds_signals():
    """The first process of a namespace ignores what it has no handler for."""
    with Guest("signals") as guest:
        guest.process.stdin.write(b"b")
        guest.process.stdin.flush()
        guest.expect(b"<b>")
        guest.process.terminate()
        assert guest.process.wait(WAIT) == 0
    with Guest("orphan") as guest:
        vmm = guest.vmm()
        guest.process.kill()
        guest.process.wait()
        end = time.monotonic() + WAIT
        while os.path.exists(f"/proc/{vmm}") and time.monotonic() < end:
            with open(f"/proc/{vmm}/stat", encoding="ascii") as f:
                if f.read().split(")")[1].split()[0] == "Z":
                    break
            time.sleep(0.02)
        else:
            assert not os.path.exists(f"/proc/{vmm}")


def a_vm_that_dies_takes_nothing_else_with_it():
    with Guest("witness") as witness:
        for _ in range(3):
            with Guest("victim") as victim:
                os.kill(victim.vmm(), signal.SIGKILL)
                assert victim.process.wait(WAIT) == 3
            witness.obeys()
        assert "victim" not in berth("ls").stdout


def a_vm_that_hangs_holds_nobody_up():
    with Guest("witness") as witness, Guest("stuck") as stuck:
        os.kill(stuck.vmm(), signal.SIGSTOP)
        began = time.monotonic()
        rows = berth("ls").stdout
        assert witness.name in rows, rows
        assert time.monotonic() - began < 20
        witness.obeys()
        os.kill(stuck.vmm(), signal.SIGCONT)
        stuck.obeys()


CASES = [
    a_vm_is_kept_apart_by_every_layer_that_the_host_has,
    an_ordinary_users_vm_is_kept_apart_as_well,
    where_namespaces_are_refused_vms_run_and_doctor_says_why,
    doctor_fails_where_vms_cannot_run,
    a_vm_without_a_terminal_heeds_signals,
    a_vm_that_dies_takes_nothing_else_with_it,
    a_vm_that_hangs_holds_nobody_up,
]


if __name__ == "__main__":
    sys.exit(tap.run(CASES))
