#!/usr/bin/env python3
"""The manager and the commands of kept VMs, as people and scripts use them. Prints TAP.

    manager.py BERTH GUEST [CASE...]

GUEST is the multiboot file of obey.c. Each case has an inventory and a runtime directory of its own.
"""
import json
import os
import pty
import random
import select
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time

import tap
from tap import Skip, until

BERTH, GUEST = (os.path.abspath(path) for path in sys.argv[1:3])
SANITIZED = b"__asan_init" in open(BERTH, "rb").read()  # its end under system-call filters is a status of its own
WAIT = 120 if SANITIZED else 40
HOME = None


def berth(*args, status=0, wait=WAIT, **kwargs):
    done = subprocess.run([BERTH, *args], capture_output=True, text=True, timeout=wait, stdin=subprocess.DEVNULL,
                          **kwargs)
    assert status is None or done.returncode == status, f"{args}: status {done.returncode}: {done.stderr}{done.stdout}"
    return done


def answer(*args, **kwargs):
    return json.loads(berth(*args, "--json", **kwargs).stdout)


def create(name, *options, start=False):
    berth("create", "-n", name, "-m", "16", "--kernel", GUEST, "--exit-device", "--no-reboot", *options,
          *(["--start"] if start else []))


def info(name):
    return answer("info", name)


def state(name):
    return info(name)["state"]


def manager():
    return answer("daemon", "start")["pid"]


def kill_manager():
    pid = manager()
    os.kill(pid, signal.SIGKILL)
    until(lambda: not alive(pid))


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as f:
            return f.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def console(name):
    s = socket.socket(socket.AF_UNIX)
    s.connect(f"{HOME}/run/berth/vm/{name}/console.sock")
    s.settimeout(WAIT)
    return s


def hear(s, word):
    seen = b""
    while word not in seen:
        data = s.recv(4096)
        assert data, f"no {word!r} in {seen!r}"
        seen += data
    return seen


def tell(name, letters):
    with console(name) as s:
        hear(s, b"# ready")
        s.sendall(letters)
        hear(s, b"<" + letters[-1:] + b">") if letters[-1:] not in b"pxtr" else None


def processes():
    """Everything that runs out of this case's directories: the manager, supervisors, VMs."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/environ", "rb") as f:
                if f"XDG_DATA_HOME={HOME}/data\0".encode() in f.read() and int(pid) != os.getpid() and alive(pid):
                    found.append(int(pid))
        except OSError:
            pass
    return found


def is_cage(pid):
    """One of the processes in which programs of a VM run directly, where that is possible."""
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8") as f:
            return f.read() == "berth-cages\n"
    except OSError:
        return False


def left():
    files = []
    for folder, _, names in os.walk(f"{HOME}/data/berth"):
        files += [os.path.relpath(os.path.join(folder, name), f"{HOME}/data/berth") for name in names]
    return sorted(f for f in files if not f.startswith("berth"))


# --- life

def a_vm_is_created_started_stopped_and_removed():
    create("one")
    assert state("one") == "stopped"
    berth("start", "one")
    vm = info("one")
    assert vm["state"] == "running" and alive(vm["pid"]) and vm["memory_mib"] == 16, vm
    assert [v["name"] for v in answer("ls")] == ["one"]
    tell("one", b"b")
    assert "has stopped" in berth("stop", "one").stdout
    vm = info("one")
    assert vm["reason"] == "poweroff" and (SANITIZED or vm["state"] == "stopped" and vm["status"] == 0), vm
    assert "--force" in berth("rm", "one", status=2).stderr
    berth("rm", "--force", "one")
    assert answer("ls") == [] and left() == []
    assert "there is no VM 'one'" in berth("start", "one", status=2).stderr


def rm_asks_on_a_terminal():
    create("one")
    for reply, stays in ((b"n\n", True), (b"y\n", False)):
        fd, terminal = pty.openpty()
        asking = subprocess.Popen([BERTH, "rm", "one"], stdin=terminal, stdout=subprocess.DEVNULL)
        os.write(fd, reply)
        assert asking.wait(WAIT) == 0
        os.close(fd)
        os.close(terminal)
        assert len(answer("ls")) == stays


def names_and_ids_both_find_a_vm():
    create("one", start=True)
    vm_id = info("one")["id"]
    assert info(vm_id)["name"] == info(vm_id[:5])["name"] == "one"
    berth("pause", vm_id)
    assert state("one") == "paused"
    berth("resume", vm_id[:6])
    until(lambda: state(vm_id) == "running")
    assert "running" in berth("rename", "one", "two", status=3).stderr
    berth("stop", "--force", vm_id)
    berth("rename", "one", "two")
    assert info("two")["id"] == vm_id
    create("one")
    assert "already" in berth("rename", "two", "one", status=2).stderr
    assert "already" in berth("create", "-n", "one", "--kernel", GUEST, status=2).stderr


def stop_is_graceful_then_forced():
    create("deaf", start=True)
    begun = time.monotonic()
    berth("stop", "--timeout", "1", "deaf")
    assert time.monotonic() - begun > 0.9
    assert info("deaf")["reason"] == "stopped"
    create("hears", start=True)
    tell("hears", b"b")
    berth("pause", "hears")
    berth("stop", "hears")  # a paused one is resumed for it
    assert info("hears")["reason"] == "poweroff"


def restart_and_reset_begin_anew():
    create("one", start=True)
    pid = info("one")["pid"]
    berth("restart", "--force", "one")
    assert state("one") == "running" and info("one")["pid"] != pid
    pid = info("one")["pid"]
    berth("edit", "one", "-m", "24")
    assert info("one")["memory_mib"] == 16  # what runs stays as it was
    berth("restart", "--timeout", "1", "one")
    assert info("one")["memory_mib"] == 24 and info("one")["pid"] != pid


def a_vm_that_cannot_start_says_why():
    create("one")
    kernel = f"{HOME}/kernel"
    shutil.copy(GUEST, kernel)
    berth("create", "-n", "two", "--kernel", kernel)
    os.unlink(kernel)
    assert kernel in berth("start", "two", status=2).stderr
    vm = info("two")
    assert vm["state"] == "failed" and kernel in vm["text"], vm


def names_and_paths_that_are_tricks_are_refused():
    for name in ("../x", "..", "/tmp", "a/b", "", "x" * 64, "-x"):
        ask(status="invalid", request="create", name=name, definition={"kernel": GUEST})
    create("one")
    for name in ("../one", "a/../one", "/one"):
        ask(status="invalid", request="rename", vm="one", name=name)
        ask(status="invalid", request="clone", vm="one", name=name)
        ask(status="not found", request="start", vm=name)
        ask(status="invalid", request="image-import", name=name, file=".new-x", hash="0" * 64)
        ask(status="invalid", request="image-import", name="x", file=name, hash="0" * 64)
        ask(status="invalid", request="image-import", name="x", file=".new-" + name, hash="0" * 64)
    for definition in ({"kernel": "../../berth.db"}, {"kernel": GUEST, "disks": [{"path": "../x/disk0.qcow2"}]},
                       {"kernel": GUEST, "serial": "file:lock"}, {"kernel": GUEST, "name": "../x", "nonsense": 1}):
        ask(status="invalid", request="create", name="x", definition=definition)
    assert [vm["name"] for vm in answer("ls")] == ["one"]


def ask(status=None, **line):
    manager_socket = f"{HOME}/run/berth/manager/berthd/control.sock"
    if not os.path.exists(manager_socket):
        manager()
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(manager_socket)
        s.settimeout(WAIT)
        s.sendall(json.dumps(line).encode() + b"\n")
        reply = json.loads(s.makefile().readline())
    if status:
        assert reply.get("error", {}).get("code") == status, (line, reply)
    return reply


# --- the manager's ends

def vms_survive_the_managers_death_and_are_found_again():
    create("one", start=True)
    create("two", start=True)
    tell("one", b"b")
    before = info("one")["pid"], info("two")["pid"]
    kill_manager()
    assert alive(before[0]) and alive(before[1])
    assert {vm["name"]: vm["state"] for vm in answer("ls")} == {"one": "running", "two": "running"} or \
        until(lambda: state("one") == state("two") == "running")
    assert (info("one")["pid"], info("two")["pid"]) == before
    berth("pause", "two")
    until(lambda: state("two") == "paused")
    berth("daemon", "stop")
    berth("daemon", "start")
    until(lambda: state("two") == "paused" and state("one") == "running")
    berth("stop", "one")
    assert info("one")["reason"] == "poweroff"
    berth("rm", "--force", "two")
    assert not alive(before[1])


def what_ended_while_the_manager_was_away_is_settled():
    create("off", start=True)
    create("failed", "--restart", "on-failure", start=True)
    create("killed", start=True)
    pids = {name: info(name)["pid"] for name in ("off", "failed", "killed")}
    kill_manager()
    tell("off", b"p")
    tell("failed", b"t")
    os.kill(pids["killed"], signal.SIGKILL)
    until(lambda: not any(alive(pid) for pid in pids.values()))
    assert info("off")["reason"] == "poweroff" and (SANITIZED or state("off") == "stopped")
    assert state("killed") == "failed", info("killed")
    until(lambda: state("failed") == "running")
    assert info("failed")["restarts"] == 1 and info("failed")["pid"] != pids["failed"]


def restart_policies_hold():
    if SANITIZED:
        raise Skip("the sanitizer's own status hides the guest's")
    for policy, letter, again in (("no", b"t", False), ("on-failure", b"p", False), ("on-failure", b"t", True),
                                  ("always", b"p", True)):
        create("vm", "--restart", policy, start=True)
        pid = info("vm")["pid"]
        tell("vm", letter)
        until(lambda: not alive(pid))
        if again:
            until(lambda: info("vm")["restarts"] == 1 and state("vm") == "running")
        else:
            until(lambda: state("vm") in ("stopped", "failed"))
            time.sleep(0.5)
            assert state("vm") == ("failed" if letter == b"t" else "stopped")
        berth("stop", "--force", "vm")
        time.sleep(0.5)
        assert state("vm") == ("stopped" if again or letter == b"p" else "failed")  # and stays so
        berth("rm", "--force", "vm")


def restarts_back_off():
    create("vm", "--restart", "always", start=True)
    times = []

    def running(other_than):
        vm = info("vm")
        return vm["state"] == "running" and vm["pid"] not in (0, other_than) and vm["pid"]

    for _ in range(4):
        pid = until(lambda: running(0))
        os.kill(pid, signal.SIGKILL)
        begun = time.monotonic()
        until(lambda: running(pid))
        times.append(time.monotonic() - begun)
    assert times[3] > 1.5, times  # the first one waits for a quarter of a second only
    berth("stop", "--force", "vm")


def autostart_is_for_new_hosts_only():
    create("auto", "--autostart")
    create("other")
    manager()
    berth("daemon", "stop")
    assert state("auto") == "stopped"
    berth("daemon", "stop")
    with sqlite3.connect(f"{HOME}/data/berth/berth.db") as db:
        db.execute("UPDATE note SET value = 'before' WHERE name = 'boot'")
    db.close()
    until(lambda: state("auto") == "running")
    assert state("other") == "stopped"


def a_killed_manager_leaves_no_halves():
    """Kills it at random moments while several clients work, and then looks whether all fits."""
    rng = random.Random(int(os.environ.get("SEED", "1")))
    ends = time.monotonic() + (8 if SANITIZED else 6)
    image = make_image("base")

    def work(number):
        own = random.Random(number)
        while time.monotonic() < ends:
            name = f"w{number}-{own.randrange(3)}"
            verb = own.choice(["create", "image", "start", "stop", "rm", "clone", "restart"])
            words = {"create": ["create", "-n", name, "-m", "16", "--kernel", GUEST],
                     "image": ["create", "-n", name, "-m", "16", "--kernel", GUEST, image],
                     "clone": ["clone", name, f"w{number}-c{own.randrange(3)}"],
                     "stop": ["stop", "--force", name], "rm": ["rm", "--force", name],
                     "restart": ["restart", "--force", name]}.get(verb, [verb, name])
            berth(*words, status=None)

    workers = [threading.Thread(target=work, args=(n,)) for n in range(3)]
    for worker in workers:
        worker.start()
    kills = 0
    while time.monotonic() < ends:
        time.sleep(rng.uniform(0.02, 0.4))
        done = berth("daemon", "start", "--json", status=None)
        if done.returncode == 0:
            try:
                os.kill(json.loads(done.stdout)["pid"], signal.SIGKILL)
                kills += 1
            except ProcessLookupError:
                pass
    for worker in workers:
        worker.join()
    assert kills > (1 if SANITIZED else 5)
    vms = until(lambda: all(vm["state"] in ("running", "stopped", "failed") for vm in answer("ls")) and answer("ls"))
    running = {vm["pid"] for vm in vms if vm["state"] == "running"}
    assert all(alive(pid) for pid in running)
    folders = set(os.listdir(f"{HOME}/data/berth/vms"))
    assert folders == {vm["id"] for vm in vms}, (folders, vms)
    until(lambda: sum(not is_cage(pid) for pid in processes()) == 1 + 2 * len(running) or None)
    for vm in vms:
        berth("rm", "--force", vm["name"])
    berth("image", "rm", "--force", image)
    assert left() == [], left()
    assert len(processes()) == 1
    assert os.listdir(f"{HOME}/run/berth/vm") == []


def a_vm_that_hangs_holds_up_nobody_and_can_be_stopped():
    create("hangs", start=True)
    create("works", start=True)
    vm = info("hangs")["pid"]
    os.kill(vm, signal.SIGSTOP)
    for _ in range(3):  # a busy host may take longer for all of this than the manager waits for a VM
        with socket.socket(socket.AF_UNIX) as waits:
            waits.connect(f"{HOME}/run/berth/manager/berthd/control.sock")
            waits.sendall(b'{"request": "pause", "vm": "hangs"}\n')
            assert "ok" in ask(request="stats", vm="works") and len(ask(request="ls")["ok"]["vms"]) == 2
            assert "ok" in ask(request="pause", vm="works") and "ok" in ask(request="resume", vm="works")
            if not select.select([waits], [], [], 0)[0]:
                break
    else:
        raise AssertionError("others are answered only after a VM that hangs")
    berth("stop", "--force", "hangs")
    assert not alive(vm)
    assert state("hangs") in ("stopped", "failed"), info("hangs")


# --- consoles

def a_console_is_shared_and_left():
    create("one", start=True)
    with console("one") as first, console("one") as second:
        hear(first, b"# ready")
        hear(second, b"# ready")
        first.sendall(b"k")
        hear(first, b"<k>")
        hear(second, b"<k>")
    fd, terminal = pty.openpty()
    attached = subprocess.Popen([BERTH, "console", "one"], stdin=terminal, stdout=terminal, stderr=subprocess.PIPE)
    seen = b""
    while b"<k>" not in seen:  # what was said before
        assert select.select([fd], [], [], WAIT)[0]
        seen += os.read(fd, 4096)
    os.write(fd, b"m")
    while b"<m>" not in seen:
        assert select.select([fd], [], [], WAIT)[0]
        seen += os.read(fd, 4096)
    os.write(fd, b"\x1d")
    assert attached.wait(WAIT) == 0 and b"runs on" in attached.stderr.read()
    assert state("one") == "running"
    log = berth("logs", "one").stdout
    assert "# ready" in log and "<k>" in log and "<m>" in log
    assert berth("logs", "-n", "1", "one").stdout.count("\n") <= 1
    assert '"event":"started"' in berth("logs", "--vm", "one").stdout
    berth("stop", "--force", "one")
    assert "berth logs one" in berth("console", "one", status=2).stderr
    assert "<m>" in berth("logs", "one").stdout


def a_guest_that_talks_for_ever_fills_no_disk():
    create("one", start=True)
    folder = info("one")["folder"]
    with console("one") as s:
        hear(s, b"# ready")
        for _ in range(40):
            s.sendall(b"w" * 20000)
            for _ in range(20000 * 3 // 4096):
                s.recv(4096)
    sizes = [os.path.getsize(os.path.join(folder, name)) for name in os.listdir(folder)]
    assert sum(sizes) < 3 * 1024 * 1024 and os.path.exists(f"{folder}/console.log.1"), sizes


def logs_follow_until_the_end():
    create("one", start=True)
    tell("one", b"k")
    following = subprocess.Popen([BERTH, "logs", "-f", "one"], stdout=subprocess.PIPE)
    tell("one", b"u")
    time.sleep(0.5)
    berth("stop", "--force", "one")
    assert b"<u>" in following.communicate(timeout=WAIT)[0]


# --- images, clones

def make_image(name, mib=8):
    path = f"{HOME}/{name}.raw"
    with open(path, "wb") as f:
        f.write(b"content of " + name.encode())
        f.truncate(mib << 20)
    berth("image", "import", path, name)
    return name


def images_are_kept_by_content_and_removed_when_unused():
    make_image("base")
    shutil.copy(f"{HOME}/base.raw", f"{HOME}/same.raw")
    berth("image", "import", f"{HOME}/same.raw")
    images = answer("image", "ls")
    assert [i["name"] for i in images] == ["base", "same"] and images[0]["hash"] == images[1]["hash"]
    want = subprocess.run(["sha256sum", f"{HOME}/base.raw"], capture_output=True, text=True).stdout.split()[0]
    assert images[0]["hash"] == want
    assert "already" in berth("image", "import", f"{HOME}/base.raw", status=2).stderr
    berth("create", "-n", "one", "-m", "16", "--kernel", GUEST, "base")
    berth("image", "rm", "--force", "same")  # the content is still base's
    assert os.path.exists(images[0]["path"])
    assert "one" in berth("image", "rm", "--force", "base", status=3).stderr
    os.unlink(f"{HOME}/base.raw")
    berth("start", "one")
    berth("rm", "--force", "one")
    berth("image", "rm", "--force", "base")
    assert left() == []


def an_image_on_another_is_imported_whole():
    make_image("base")
    berth("disk", "create", "--backing", f"{HOME}/base.raw", f"{HOME}/over.qcow2")
    berth("image", "import", f"{HOME}/over.qcow2", "over")
    path = {i["name"]: i["path"] for i in answer("image", "ls")}["over"]
    os.unlink(f"{HOME}/base.raw")
    berth("disk", "convert", "--to", "raw", path, f"{HOME}/back.raw")
    with open(f"{HOME}/back.raw", "rb") as f:
        assert f.read(15) == b"content of base"


def content(path):
    back = f"{HOME}/content"
    if os.path.exists(back):
        os.unlink(back)
    berth("disk", "convert", "--to", "raw", path, back)
    with open(back, "rb") as f:
        return f.read(64)


def write_disk(vm, data):
    path = info(vm)["folder"] + "/disk0.qcow2"
    with open(f"{HOME}/part", "wb") as f:
        f.write(data)
    if not shutil.which("qemu-io"):
        raise Skip("no qemu-io")
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", f"write -s {HOME}/part 0 {len(data)}", path], check=True,
                   capture_output=True)
    return path


def clones_share_and_then_differ():
    make_image("base")
    berth("create", "-n", "one", "-m", "16", "--kernel", GUEST, "base")
    path = write_disk("one", b"1" * 512)
    berth("start", "one")
    assert "running" in berth("clone", "one", "two", status=3).stderr
    berth("stop", "--force", "one")
    berth("clone", "one", "two")
    berth("clone", "two", "three")
    two = info("two")["folder"] + "/disk0.qcow2"
    three = info("three")["folder"] + "/disk0.qcow2"
    assert content(path)[:8] == content(two)[:8] == content(three)[:8] == b"1" * 8
    write_disk("one", b"A" * 512)
    write_disk("two", b"B" * 512)
    assert content(path)[:8] == b"A" * 8 and content(two)[:8] == b"B" * 8 and content(three)[:8] == b"1" * 8
    assert len(os.listdir(f"{HOME}/data/berth/layers")) == 1  # two had nothing of its own
    berth("start", "one", "two", "three")
    berth("stop", "--force", "one", "two", "three")
    assert "one, three, two" in berth("image", "rm", "--force", "base", status=3).stderr
    berth("rm", "--force", "one", "two", "three")
    berth("image", "rm", "--force", "base")
    assert left() == []


def an_ordinary_user_keeps_vms_as_well():
    """Root may write to files that are closed to writing; others may not."""
    if os.geteuid() or not shutil.which("setpriv"):
        raise Skip("only root can be somebody else")
    make = f"{HOME}/small.raw"
    with open(make, "wb") as f:
        f.truncate(1 << 20)
    shutil.copy(GUEST, f"{HOME}/guest")
    os.chmod(HOME, 0o755)
    os.mkdir(f"{HOME}/data")
    for path in (f"{HOME}/run", f"{HOME}/data", make, f"{HOME}/guest"):
        os.chown(path, 4321, 4321)
    someone = ["setpriv", "--reuid", "4321", "--regid", "4321", "--clear-groups"]

    def their(*words):
        done = subprocess.run([*someone, BERTH, *words], capture_output=True, text=True, timeout=WAIT, stdin=subprocess.DEVNULL, cwd="/")
        assert done.returncode == 0, (words, done.stderr, done.stdout)
        return done.stdout

    if subprocess.run([*someone, BERTH, "version"], capture_output=True, check=False, cwd="/").returncode:
        raise Skip("the build is in a folder that others cannot enter")
    their("image", "import", make, "small")
    their("create", "-n", "theirs", "-m", "16", "--kernel", f"{HOME}/guest", "--start", "small")
    assert '"running"' in their("ls", "--json")
    their("stop", "--force", "theirs")
    their("clone", "theirs", "more")
    their("start", "more")
    their("rm", "--force", "theirs", "more")
    their("image", "rm", "--force", "small")
    their("daemon", "stop")


# --- VMs as files

def apply(text, *options, kind="yaml", **kwargs):
    path = f"{HOME}/vms.{kind}"
    with open(path, "w", encoding="utf-8") as f:
        f.write(text)
    return berth("apply", path, *options, **kwargs)


TWO = f"""
# A comment.
name: web
image: base
kernel: {GUEST}
memory_mib: 16
restart: on-failure
running: true
---
name: db
kernel: "{GUEST}"
memory_mib: 16
"""


def applying_a_file_twice_changes_nothing_more():
    make_image("base")
    assert apply(TWO, "--dry-run").stdout == "would create web\nwould start web\nwould create db\n"
    assert answer("ls") == []
    assert apply(TWO).stdout == "create web\nstart web\ncreate db\n"
    assert apply(TWO).stdout == "all is so already\n"
    assert state("web") == "running" and state("db") == "stopped" and info("web")["restart"] == "on-failure"
    other = TWO.replace("running: true", "running: false\nvcpus: 2").replace("on-failure", "always")
    done = json.loads(apply(other, "--json").stdout)
    assert [(c["name"], c["change"], sorted(c["keys"])) for c in done["changes"]] == \
        [("web", "change", ["restart", "vcpus"]), ("web", "stop", [])], done
    assert info("web")["vcpus"] == 2 and state("web") == "stopped"


def what_is_exported_makes_the_same_vms():
    make_image("base")
    apply(TWO.replace("running: true", "user_data: |\n  #cloud-config\n  x: 1"))
    text = berth("export").stdout
    both = answer("export")
    berth("rm", "--force", "web", "db")
    apply(text)
    assert answer("export") == both and "#cloud-config\nx: 1" in both[1]["user_data"], both
    assert apply(text).stdout == "all is so already\n"
    assert apply(json.dumps(both[0])).stdout == "all is so already\n"  # JSON is YAML
    text = berth("export", "--format", "toml").stdout
    assert text.count("[[vm]]") == 2 and "[[vm]]" not in berth("export", "--format", "toml", "db").stdout, text
    berth("rm", "--force", "web", "db")
    assert "create web" in apply(text, kind="toml").stdout
    assert answer("export") == both and apply(text, "--format", "toml").stdout == "all is so already\n"
    assert "line 2" in apply("name = 'web'\nvcpus = two\n", kind="toml", status=2).stderr
    assert "yaml or toml" in berth("export", "--format", "xml", status=2).stderr


def files_that_make_no_sense_are_refused_with_their_line_or_key():
    bombs = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{n}: &{n} [{', '.join(['*' + p] * 10)}]\n" for p, n in zip("abcd", "bcde"))
    for text, words in (("name: x\nvcpus: [\n", "line"), ("name: x\nkernel: /x\nvcpu: 3\n", "vcpu"),
                        ("name: x\nname: y\n", "twice"), ("name: ../x\nkernel: /x\n", "../x"), ("- 1\n", "a VM"),
                        ("name: x\nkernel: /x\nvcpus: 'two'\n", "vcpus"), (bombs, "too large"),
                        ("name: x\nkernel: /x\nrunning: 7\n", "running"), ("[" * 100, "")):
        assert words in apply(text, status=2).stderr, text
    assert answer("ls") == []


def a_vm_is_edited_by_options_and_by_hand():
    create("one")
    berth("edit", "one", "-c", "2", "--autostart", "--restart", "always")
    vm = info("one")
    assert vm["vcpus"] == 2 and vm["autostart"] and vm["restart"] == "always" and vm["memory_mib"] == 16, vm
    environment = dict(os.environ, EDITOR="sed -i s/vcpus:.*/vcpus:3/;true")
    assert "nothing" in berth("edit", "one", env=dict(os.environ, EDITOR="false", VISUAL=""), status=2).stderr
    environment["EDITOR"], environment["VISUAL"] = "sed -i 's/^vcpus:.*/vcpus: 3/'", ""
    assert berth("edit", "one", env=environment).stdout == "change one: vcpus\n"
    assert info("one")["vcpus"] == 3
    assert "rename" in berth("edit", "one", "-n", "two", status=2).stderr


# --- all together

def ls_shows_those_in_the_foreground_too():
    create("kept")
    running = subprocess.Popen([BERTH, "run", "-n", "fore", "-m", "16", "--kernel", GUEST, "--serial", "shared"],
                               stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until(lambda: "fore" in [vm["name"] for vm in answer("ls")])
        assert {vm["name"]: vm["state"] for vm in answer("ls")} == {"kept": "stopped", "fore": "running"}
        tell("fore", b"b")
        berth("create", "-n", "fore", "--kernel", GUEST)
        assert "running already" in berth("start", "fore", status=None).stderr
        berth("rm", "--force", "fore")
        berth("stop", "fore")
        assert running.wait(WAIT) == 0 or SANITIZED
    finally:
        running.kill()
        running.wait()


def events_are_told_and_kept():
    manager()
    following = subprocess.Popen([BERTH, "events", "--json"], stdout=subprocess.PIPE, text=True)
    while not select.select([following.stdout], [], [], 0)[0]:  # until it listens
        create("probe")
        berth("rm", "--force", "probe")
    create("one", start=True)
    berth("rm", "--force", "one")
    seen = []
    while not seen or seen[-1]["event"] != "removed":
        event = json.loads(following.stdout.readline())
        seen += [event] if event["vm"] == "one" else []
    following.kill()
    following.wait()
    states = [e["state"] for e in seen if e["event"] == "state"]
    assert states[:2] == ["starting", "running"] and states[-1] == "stopped", seen
    assert all(e["at"] > 0 for e in seen)
    kept = [json.loads(line) for line in berth("events", "--last", "100", "--json").stdout.splitlines()]
    kept = [event["event"] for event in kept if event["vm"] == "one"]
    assert kept[0] == "created" and kept[-1] == "removed"


def a_storm_leaves_nothing():
    manager()
    def storm(number):
        for i in range(4):
            create(f"s{number}-{i}", start=True)
            berth("stop", "--force", f"s{number}-{i}")
            berth("rm", "--force", f"s{number}-{i}")
    threads = [threading.Thread(target=storm, args=(n,)) for n in range(4)]
    descriptors = len(os.listdir(f"/proc/{manager()}/fd"))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answer("ls") == [] and left() == []
    until(lambda: len(processes()) == 1)
    assert os.listdir(f"{HOME}/run/berth/vm") == []
    until(lambda: len(os.listdir(f"/proc/{manager()}/fd")) <= descriptors)


CASES = [
    a_vm_is_created_started_stopped_and_removed, rm_asks_on_a_terminal, names_and_ids_both_find_a_vm,
    stop_is_graceful_then_forced, restart_and_reset_begin_anew, a_vm_that_cannot_start_says_why,
    names_and_paths_that_are_tricks_are_refused, vms_survive_the_managers_death_and_are_found_again,
    what_ended_while_the_manager_was_away_is_settled, restart_policies_hold, restarts_back_off,
    autostart_is_for_new_hosts_only, a_killed_manager_leaves_no_halves,
    a_vm_that_hangs_holds_up_nobody_and_can_be_stopped, a_console_is_shared_and_left,
    a_guest_that_talks_for_ever_fills_no_disk, logs_follow_until_the_end,
    images_are_kept_by_content_and_removed_when_unused, an_image_on_another_is_imported_whole,
    clones_share_and_then_differ, an_ordinary_user_keeps_vms_as_well,
    applying_a_file_twice_changes_nothing_more, what_is_exported_makes_the_same_vms,
    files_that_make_no_sense_are_refused_with_their_line_or_key, a_vm_is_edited_by_options_and_by_hand, ls_shows_those_in_the_foreground_too, events_are_told_and_kept,
    a_storm_leaves_nothing,
]


def clean():
    for pid in processes():
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    until(lambda: not processes())


def run_case(case):
    global HOME
    HOME = tempfile.mkdtemp(prefix="berth-m-", dir="/tmp")
    os.makedirs(f"{HOME}/run", mode=0o700)
    os.environ.update(XDG_DATA_HOME=f"{HOME}/data", XDG_RUNTIME_DIR=f"{HOME}/run")
    try:
        case()
    finally:
        clean()
        shutil.rmtree(HOME, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(tap.run(CASES, sys.argv[3:], run_case))
