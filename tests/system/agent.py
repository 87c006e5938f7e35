#!/usr/bin/env python3
"""The guest's agent as people use it: berth exec, shell, cp, info, stop, fsfreeze and vsock on Debian's cloud kernel
with a busybox initramfs; and what berth does when the agent is killed, hangs, or is an enemy.

    agent.py BERTH VSOCK-PEER [TEST...]
"""
import array
import hashlib
import json
import os
import pty
import random
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

import boot
from http_client import Client

BERTH, PEER = sys.argv[1:3]
ARGS = "console=ttyS0 panic=-1 random.trust_cpu=on quiet"
# ext4, for fsfreeze, comes from the generic kernel's modules; the cloud kernel has virtio_blk as a module, too.
MODULES = ("virtio_ring", "virtio", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci", "virtio_blk", "crc16",
           "crc32c_generic", "libcrc32c", "mbcache", "jbd2", "ext4")
INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin HOME=/root
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /etc /root
echo 'root:x:0:0::/root:/bin/sh' > /etc/passwd
echo 'anna:x:1000:1000::/tmp:/bin/sh' >> /etc/passwd
echo 'staff:x:50:anna' > /etc/group
LOAD
ip link set lo up
echo INIT-REACHED
while :; do sleep 1000; done
"""
WORK = None


class Failure(Exception):
    pass


def need(condition, words):
    if not condition:
        raise Failure(words)


def run(*args, data=b"", timeout=90, **more):
    return subprocess.run([BERTH, *args], input=data, capture_output=True, timeout=timeout, **more)


def expect(got, status, out=None, error=None):
    need(got.returncode == status, f"status {got.returncode}, expected {status}: {got.stderr[-300:]!r}")
    need(out is None or got.stdout == out, f"output {got.stdout[:200]!r}, expected {out!r}")
    need(error is None or error in got.stderr, f"errors {got.stderr[:300]!r} without {error!r}")


def sh(command, *options, **more):
    return run("exec", *options, "vm", "--", "sh", "-c", command, **more)


def wait_for(condition, words, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        need(time.monotonic() < end, words)
        time.sleep(0.2)


# --- the VM


class VM:
    def __init__(self):
        modules = boot.initramfs_with(WORK, "modules", "cloud", *MODULES)  # finds them
        load = "".join(f"insmod /lib/{m}.ko\n" for m in MODULES if os.path.exists(f"{WORK}/modules.root/lib/{m}.ko"))
        files = [(f"{WORK}/modules.root/lib/{m}.ko", f"lib/{m}.ko") for m in MODULES
                 if os.path.exists(f"{WORK}/modules.root/lib/{m}.ko")]
        self.initrd = boot.initramfs(WORK, INIT.replace("LOAD\n", load), "guest", files)
        self.disk = os.path.join(WORK, "disk.img")
        subprocess.run(["/sbin/mke2fs", "-q", "-F", "-t", "ext4", self.disk, "32M"], check=True, stdout=subprocess.DEVNULL)
        self.log = open(os.path.join(WORK, "events"), "wb")
        self.serial = os.path.join(WORK, "serial")

    def start(self, *options):
        self.child = subprocess.Popen(
            [BERTH, "run", "-n", "vm", "--engine", "translate", "--kernel", boot.kernel("cloud"), "--initrd", self.initrd,
             "--append", ARGS, "--json", "--disk", self.disk, "--serial", "file:" + self.serial, *options],
            stdout=self.log, stderr=self.log)
        wait_for(lambda: run("info", "vm").returncode == 0, "the VM does not start")

    def events(self):
        with open(os.path.join(WORK, "events")) as f:
            return [json.loads(line) for line in f if line.startswith("{")]

    def end(self):
        if self.child.poll() is None:
            self.child.kill()
        self.child.wait()


# --- with the agent


def exec_waits_for_the_agent_and_passes_streams_and_status_on():
    expect(sh("echo out; echo err >&2; exit 42"), 42, b"out\n", b"err\n")
    expect(sh("exit 0"), 0, b"")


def exec_reports_signals_and_what_cannot_be_started():
    expect(sh("kill -9 $$"), 128 + 9)
    expect(run("exec", "vm", "no-such-program"), 127, b"", b"no-such-program: No such file")
    expect(run("exec", "vm", "/proc"), 126, b"")
    expect(run("exec", "-w", "/nowhere", "vm", "true"), 127)


def exec_takes_a_user_a_folder_and_variables():
    expect(sh("id -u; id -G; pwd; echo $A $HOME $USER", "-u", "anna", "-e", "A=b c"), 0,
           b"1000\n1000 50\n/tmp\nb c /tmp anna\n")
    expect(sh("pwd", "-w", "/proc"), 0, b"/proc\n")
    expect(run("exec", "-u", "nobody-here", "vm", "true"), 127, b"", b"no user")
    expect(run("exec", "-u", "anna", "vm", "touch", "/root-only"), 1)


def a_program_without_input_reads_its_end():
    expect(run("exec", "vm", "cat", data=b"not for it"), 0, b"")


def binary_input_and_output_are_whole():
    data = os.urandom(4_000_000)
    got = run("exec", "-i", "vm", "cat", data=data)
    expect(got, 0)
    need(got.stdout == data, "what came back differs")


def a_large_stream_arrives_whole():
    got = sh("dd if=/dev/zero bs=64k count=1024 2>/dev/null | tr '\\0' x")
    expect(got, 0)
    need(len(got.stdout) == 64 << 20 and got.stdout.count(b"x") == 64 << 20, f"{len(got.stdout)} bytes")


def a_reader_that_has_had_enough_ends_the_program():
    command = f"{BERTH} exec vm yes | head -c 100000 | wc -c"
    got = subprocess.run(command, shell=True, capture_output=True, timeout=60)
    need(got.stdout.strip() == b"100000", f"{got.stdout!r}")
    wait_for(lambda: sh("pidof yes").stdout == b"", "yes runs on")


def many_at_once_do_not_mix():
    jobs = [subprocess.Popen([BERTH, "exec", "vm", "--", "sh", "-c", f"sleep 1; echo {n}"], stdout=subprocess.PIPE)
            for n in range(12)]
    for n, job in enumerate(jobs):
        need(job.communicate(timeout=60)[0] == b"%d\n" % n and job.returncode == 0, f"job {n}")


def a_signal_for_berth_exec_is_the_programs():
    job = subprocess.Popen([BERTH, "exec", "vm", "--", "sh", "-c", "trap 'echo caught; exit 7' INT; while :; do sleep 0.1; done"],
                           stdout=subprocess.PIPE)
    time.sleep(2)
    job.send_signal(signal.SIGINT)
    out, _ = job.communicate(timeout=30)
    need(out == b"caught\n" and job.returncode == 7, f"{out!r}, status {job.returncode}")


def a_killed_client_hangs_up_its_program():
    job = subprocess.Popen([BERTH, "exec", "vm", "--", "sleep", "4321"])
    wait_for(lambda: b"4321" in sh("ps").stdout, "it does not start")
    job.kill()
    job.wait()
    wait_for(lambda: b"4321" not in sh("ps").stdout, "its program runs on")


def json_has_it_all_in_one_object():
    got = sh("echo x; echo y >&2; exit 3", "--json")
    expect(got, 3)
    need(json.loads(got.stdout) == {"status": 3, "stdout": "x\n", "stderr": "y\n"}, got.stdout)


def a_shell_has_a_terminal_of_the_right_size():
    pid, fd = pty.fork()
    if pid == 0:
        os.environ["TERM"] = "vt220"
        os.execv(BERTH, [BERTH, "shell", "vm"])
    import fcntl
    import termios
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 111, 0, 0))
    out = b""

    def read_until(what):
        nonlocal out
        end = time.monotonic() + 60
        while what not in out:
            need(time.monotonic() < end, f"no {what!r} in {out[-300:]!r}")
            if select.select([fd], [], [], 1)[0]:
                out += os.read(fd, 4096)

    read_until(b"# ")
    time.sleep(0.5)
    os.kill(pid, signal.SIGWINCH)
    time.sleep(0.5)
    os.write(fd, b"stty size; echo $TERM-$((40+2)); tty\n")
    read_until(b"33 111")
    read_until(b"vt220-42")
    read_until(b"/dev/pts/")
    os.write(fd, b"sleep 1000\n")
    time.sleep(1)
    os.write(fd, b"\x03")  # Ctrl-C reaches the program, not berth
    os.write(fd, b"exit 9\n")
    _, status = os.waitpid(pid, 0)
    need(os.waitstatus_to_exitcode(status) == 9, f"status {os.waitstatus_to_exitcode(status)}")
    os.close(fd)


def files_and_folders_go_in_and_out():
    tree = os.path.join(WORK, "tree")
    os.makedirs(tree + "/sub/deep")
    data = os.urandom(1_500_000)
    for name in ("a", "sub/b", "sub/deep/c d"):
        with open(f"{tree}/{name}", "wb") as f:
            f.write(data)
    os.chmod(tree + "/a", 0o751)
    os.symlink("sub/b", tree + "/link")
    os.mkfifo(tree + "/fifo")
    got = run("cp", "--json", tree, "vm:/tmp/")
    expect(got, 0)
    need(json.loads(got.stdout) == {"files": 3, "folders": 3, "links": 1, "bytes": 4_500_000, "skipped": 1}, got.stdout)
    md5 = hashlib.md5(data).hexdigest().encode()
    expect(sh("cd /tmp/tree; md5sum 'sub/deep/c d' link | cut -c-32; stat -c %a a; readlink link"), 0,
           md5 + b"\n" + md5 + b"\n751\nsub/b\n")
    os.makedirs(os.path.join(WORK, "back"))
    expect(run("cp", "vm:/tmp/tree", os.path.join(WORK, "back")), 0)
    os.remove(tree + "/fifo")
    need(subprocess.run(["diff", "-r", tree, os.path.join(WORK, "back/tree")]).returncode == 0, "the copy differs")
    need(os.stat(os.path.join(WORK, "back/tree/a")).st_mode & 0o777 == 0o751, "its mode differs")


def one_file_goes_to_a_name_or_into_a_folder():
    one = os.path.join(WORK, "one")
    with open(one, "wb") as f:
        f.write(b"one\n")
    expect(run("cp", one, "vm:/tmp/named"), 0)
    expect(run("cp", one, "vm:/tmp"), 0)
    expect(run("cp", one, "vm:rel"), 0)
    expect(sh("cat /tmp/named /tmp/one /root/rel"), 0, b"one\n" * 3)
    expect(run("cp", "vm:/tmp/named", os.path.join(WORK, "two")), 0)
    need(open(os.path.join(WORK, "two")).read() == "one\n", "content")


def copies_that_cannot_be_say_why():
    expect(run("cp", "/nowhere", "vm:/tmp"), 2, b"", b"/nowhere")
    expect(run("cp", "vm:/nowhere", WORK), 2, b"", b"cannot read '/nowhere'")
    expect(run("cp", os.path.join(WORK, "one"), "vm:/no/folder"), 2, b"", b"No such file")
    expect(run("cp", os.path.join(WORK, "one"), "vm:/dev/null"), 2, b"", b"no ordinary file")
    expect(run("cp", "a", "b"), 2, b"", b"must be VM:PATH")
    big = os.path.join(WORK, "big")
    with open(big, "wb") as f:
        f.truncate(300 << 20)  # more than the guest's memory
    sh("mkdir /small; mount -t tmpfs -o size=1m tmpfs /small")
    expect(run("cp", big, "vm:/small/big"), 3, b"", b"No space left")


def a_killed_copy_leaves_the_agent_well():
    job = subprocess.Popen([BERTH, "cp", os.path.join(WORK, "big"), "vm:/dev/shm-none"], stderr=subprocess.DEVNULL)
    time.sleep(0.7)
    job.kill()
    job.wait()
    expect(sh("rm -f /dev/shm-none; echo well"), 0, b"well\n")


def info_tells_the_system_and_its_addresses():
    sh("ip link add d0 type dummy 2>/dev/null; ip addr add 10.9.8.7/24 dev lo; hostname here")
    got = run("info", "--json", "vm")
    expect(got, 0)
    info = json.loads(got.stdout)
    need(info["agent"] == "ready", info["agent"])
    guest = info["guest"]
    need(guest["hostname"] == "here" and guest["kernel"].endswith("cloud-amd64"), guest)
    words = run("info", "vm").stdout
    need(b"agent      ready\n" in words and b"host name here" in words, words)


def file_systems_freeze_and_thaw():
    expect(sh("mount -t ext4 /dev/vda /mnt && echo before > /mnt/f"), 0)
    got = run("fsfreeze", "--json", "vm")
    expect(got, 0)
    need(json.loads(got.stdout)["filesystems"] == "1", got.stdout)
    expect(run("fsfreeze", "vm"), 3, b"", b"frozen already")
    sh("(echo after > /mnt/g) > /dev/null 2>&1 &")
    check = subprocess.run(["/sbin/e2fsck", "-fn", VM_RUNS.disk], capture_output=True)
    need(check.returncode == 0, f"the disk of a frozen file system is not in order: {check.stdout[-300:]!r}")
    expect(sh("ls /mnt"), 0, b"f\nlost+found\n")
    expect(run("fsthaw", "vm"), 0)
    wait_for(lambda: sh("cat /mnt/g").stdout == b"after\n", "what waited was not written")
    expect(run("fsthaw", "vm"), 1, b"", b"not frozen")


def a_freeze_that_nobody_ends_ends_itself():
    expect(run("fsfreeze", "--timeout", "2", "vm"), 0)
    time.sleep(4)
    expect(sh("echo x > /mnt/h; sync; umount /mnt"), 0)
    expect(run("fsthaw", "vm"), 1, b"", b"the time was up")


def a_port_without_a_listener_refuses():
    expect(run("vsock", "vm", "5000"), 1, b"", b"no program in the guest")
    expect(run("vsock", "vm", "x"), 2)


def a_program_of_the_guest_reaches_the_host():
    expect(run("cp", PEER, "vm:/bin/vsock-peer"), 0)
    expect(sh("vsock-peer connect 7777", "-i"), 1, b"", b"reset")
    data = os.urandom(500_000)
    waiting = subprocess.Popen([BERTH, "vsock", "--listen", "vm", "7777"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    got = []
    reader = threading.Thread(target=lambda: got.append(waiting.stdout.read()))
    for thread in (threading.Thread(target=lambda: (waiting.stdin.write(data), waiting.stdin.close())), reader):
        thread.start()
    time.sleep(0.5)
    expect(sh("head -c 300000 /dev/zero | vsock-peer connect 7777 | md5sum"), 0, hashlib.md5(data).hexdigest().encode() + b"  -\n")
    reader.join(60)
    need(got == [bytes(300_000)] and waiting.wait(30) == 0, "the host does not get what the guest sends")


def a_program_of_the_guest_is_reached():
    sh("(echo from the guest | vsock-peer listen 7778 > /tmp/heard) > /dev/null 2>&1 &")
    time.sleep(0.5)
    expect(run("vsock", "vm", "7778", data=b"from the host\n"), 0, b"from the guest\n")
    wait_for(lambda: sh("cat /tmp/heard").stdout == b"from the host\n", "the guest has not heard")


def messages_keep_their_bounds_both_ways():
    sizes = [1, 2, 100000, 131072, 131071, 3, 65536] + [random.randint(1, 9000) for _ in range(400)] + [131072, 1]
    lines = b"".join(bytes([97 + n % 26]) * size + b"\n" for n, size in enumerate(sizes))
    sh("vsock-peer echo 7779 > /dev/null 2>&1 &")
    time.sleep(0.5)
    expect(run("vsock", "--messages", "vm", "7779", data=lines), 0, lines)
    expect(run("vsock", "--messages", "vm", "7779"), 1, b"", b"no program in the guest")
    expect(run("vsock", "vm", "7779"), 1, b"", b"no program in the guest")  # a stream is something else
    waiting = subprocess.Popen([BERTH, "vsock", "--listen", "--messages", "vm", "7780"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    time.sleep(0.5)
    expect(sh("vsock-peer connect 7780", "-i"), 1, b"", b"reset")
    sh("vsock-peer call 7780 > /dev/null 2>&1 &")
    need(waiting.communicate(lines, timeout=90)[0] == lines and waiting.returncode == 0, "what the guest sends back differs")


def a_message_that_is_too_long_is_refused():
    sh("vsock-peer echo 7781 > /dev/null 2>&1 &")
    time.sleep(0.5)
    expect(run("vsock", "--messages", "vm", "7781", data=b"x" * 131073 + b"\n"), 2, None, b"a message has at most 131072 bytes")
    wait_for(lambda: sh("pidof vsock-peer").stdout == b"", "the guest's end stays open")


def any_program_can_use_the_sockets():
    # The agent's own port from outside, with what is no request.
    got = run("vsock", "vm", "997", data=b"\x04\0\0\0\x7f\0\0\0abcd")
    expect(got, 0)
    need(got.stdout[:5] == struct.pack("<IB", len(got.stdout[8:8 + got.stdout[0]]), 1), got.stdout)
    need(b"version=1\0" in got.stdout and b"code=corrupt" in got.stdout, got.stdout)
    expect(sh("echo well"), 0, b"well\n")


MAIN = "$(pidof berth-agent | tr ' ' '\\n' | sort -n | head -n 1)"


def a_killed_agent_is_noticed_and_so_is_its_return():
    runs_on = subprocess.Popen([BERTH, "exec", "vm", "--", "sh", "-c", "sleep 12; echo still here"], stdout=subprocess.PIPE)
    time.sleep(1)
    expect(sh(f"kill -9 {MAIN}; (sleep 3; exec setsid /berth-agent) > /dev/null 2>&1 &"), 0)
    wait_for(lambda: b"expected" in run("info", "vm").stdout, "berth info has it still")
    expect(run("exec", "--wait", "0", "vm", "true"), 1, b"", b"has no agent")
    expect(sh("echo back"), 0, b"back\n")
    need([e["ready"] for e in VM_RUNS.events() if e["event"] == "agent"] == [True, False, True], "events")
    need(runs_on.poll() is None and runs_on.communicate(timeout=60)[0] == b"still here\n", "what ran did not run on")


def a_hung_agent_is_given_up():
    before = len([e for e in VM_RUNS.events() if e["event"] == "agent"])
    sh(f"kill -STOP {MAIN}")
    begun = time.monotonic()
    expect(run("exec", "vm", "true"), 3, b"", b"does not answer")
    need(time.monotonic() - begun < 30, "it takes too long to say that the agent hangs")
    need(b"does not answer" in run("info", "vm").stdout, "berth info does not say so")
    need(len([e for e in VM_RUNS.events() if e["event"] == "agent"]) == before, "a hung agent is still there")


def stop_works_without_an_answer_from_the_agent():
    # It hangs, the shell that is process 1 does not hear the power button: after the time, it is switched off.
    got = run("stop", "--timeout", "3", "vm")
    expect(got, 0)
    VM_RUNS.child.wait(30)


def stop_goes_through_the_agent():
    VM_RUNS.start("--agent")
    expect(sh("echo 1 > /root/x"), 0)
    expect(run("stop", "vm"), 0)
    need(VM_RUNS.child.wait(30) == 0, "the guest did not power off")
    ends = VM_RUNS.events()[-1]
    need(ends["event"] == "stopped" and ends["reason"] == "poweroff", ends)
    ready = [e["ready"] for e in VM_RUNS.events() if e["event"] == "agent"]
    need(ready[0] is True and ready[-1] is False, ready)


# --- over the manager's HTTP


def http(method, path, body=None, status=200):
    client = Client(f"{WORK}/run/berth/manager/berthd/http.sock", timeout=200)
    reply = client.ask(method, "/v1" + path, body)
    client.close()
    need(reply.status == status, f"{method} {path}: {reply.status} {reply.body[:300]!r}")
    return reply.json()


def fields(**values):
    return b"".join(f"{key}={value}".encode() + b"\0" for key, many in values.items()
                    for value in (many if isinstance(many, list) else [many]))


class AgentStream:
    """The agent's protocol (docs/formats/agent.md) in a WebSocket."""

    def __init__(self, vm):
        self.client = Client(f"{WORK}/run/berth/manager/berthd/http.sock", timeout=200)
        need(self.client.upgrade(f"/v1/vms/{vm}/agent").status == 101, "no stream")
        need(b"version=1\0" in self.receive(1), "no greeting")

    def send(self, kind, data=b""):
        self.client.send_frame(struct.pack("<IB3x", len(data), kind) + data)

    def receive(self, want=None):
        while len(self.waiting) < 8 or len(self.waiting) < 8 + struct.unpack("<I", self.waiting[:4])[0]:
            self.waiting += self.client.stream(1)
        size, kind = struct.unpack("<IB3x", self.waiting[:8])
        data, self.waiting = self.waiting[8:8 + size], self.waiting[8 + size:]
        need(want in (None, kind), f"frame {kind} in place of {want}: {data[:200]!r}")
        return data if want else (kind, data)

    waiting = b""


def commands_and_files_go_over_http():
    try:
        check_commands_and_files()
    finally:
        run("rm", "--force", "kept")
        run("daemon", "stop")


def check_commands_and_files():
    create = run("create", "-n", "kept", "--engine", "translate", "--agent", "--kernel", boot.kernel("cloud"), "--initrd", VM_RUNS.initrd,
                 "--append", ARGS, "--start")
    expect(create, 0)
    wait_for(lambda: http("GET", "/vms/kept")["agent"], "the agent is not told to be ready", 400)
    done = http("POST", "/vms/kept/exec", {"command": ["sh", "-c", "echo out; echo $PWD >&2; id -un; exit 7"], "user": "anna", "dir": "/etc"})
    need(done == {"status": 7, "stdout": "out\nanna\n", "stderr": "/etc\n"}, done)
    need("no-such-command" in http("POST", "/vms/kept/exec", {"command": ["no-such-command"]}, 422)["error"]["text"], "words")
    http("POST", "/vms/kept/exec", {"command": []}, 400)
    http("POST", "/vms/kept/exec", {"command": ["a", 7]}, 400)
    http("POST", "/vms/kept/exec", {"command": ["sleep", "1000"], "seconds": 1}, 409)
    http("POST", "/vms/kept/exec", {"command": ["sh", "-c", "yes | head -c 3000000"]}, 422)
    need(http("POST", "/vms/kept/exec", {"command": ["echo", "--help"]})["stdout"] == "--help\n", "a command's own options")
    stream = AgentStream("kept")
    stream.send(16, fields(request="exec", arg=["sh", "-c", "cat; echo end >&2; exit 3"]))
    stream.receive(2)
    stream.send(17, b"through\0both")
    stream.send(17)
    seen = {}
    while 7 not in seen:
        kind, data = stream.receive()
        seen[kind] = seen.get(kind, b"") + data
    need(seen[4] == b"through\0both" and seen[5] == b"end\n" and seen[7] == b"status=3\0", seen)
    stream = AgentStream("kept")  # a file in
    stream.send(16, fields(request="put", path="/tmp/over-http", name="x"))
    stream.receive(2)
    data = os.urandom(225000)  # more than its socket holds, and not more than berthd holds beside it
    stream.send(32, fields(path=".", type="file", mode=0o640, size=len(data), time=1000000000))
    for at in range(0, len(data), 60000):
        stream.send(33, data[at:at + 60000])
    stream.send(34)
    stream.receive(2)
    stream = AgentStream("kept")  # and out, to one that is slow to read: the stream ends before it has all
    stream.send(16, fields(request="get", path="/tmp/over-http"))
    time.sleep(2)
    stream.receive(2)
    need(b"mode=416\0" in stream.receive(32), "its mode")
    back = b""
    while (frame := stream.receive())[0] == 33:
        back += frame[1]
    need(back == data, "another file came back")


def a_guest_without_an_agent_is_told_apart():
    VM_RUNS.start()
    begun = time.monotonic()
    expect(run("exec", "vm", "true"), 1, b"", b"berth run --agent")
    expect(run("cp", "vm:/x", WORK), 1, b"", b"has no agent")
    need(time.monotonic() - begun < 5, "it waits for what will not come")
    need(json.loads(run("info", "--json", "vm").stdout)["agent"] == "absent", "info")
    expect(run("stop", "--force", "vm"), 0)
    VM_RUNS.child.wait(30)


# --- an enemy in the agent's place


def frame(kind, data=b""):
    return struct.pack("<IB3x", len(data), kind) + data


HELLO = frame(1, fields(version=1))
OKAY = frame(2)


class Enemy:
    """A VM of the name "foe" whose agent says what it is told to."""

    def __init__(self, said, stays=False):
        self.said, self.stays, self.kept = said, stays, []
        folder = os.path.join(os.environ["XDG_RUNTIME_DIR"], "berth/vm/foe")
        os.makedirs(folder, mode=0o700, exist_ok=True)
        path = os.path.join(folder, "control.sock")
        if os.path.exists(path):
            os.remove(path)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen(8)
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.talk, args=(client,), daemon=True).start()

    def talk(self, client):
        given = []
        while True:
            data, more, _, _ = client.recvmsg(65536, 4096)
            for _, _, raw in more:
                fds = array.array("i")
                fds.frombytes(raw[:len(raw) - len(raw) % fds.itemsize])
                given += list(fds)
            if not data:
                return
            for line in data.splitlines():
                asked = json.loads(line)["request"]
                answer = {"agent": "ready", "name": "foe", "state": "running"} if asked == "info" else {}
                client.sendall(json.dumps({"ok": answer}).encode() + b"\n")
            if given:
                agent = socket.socket(fileno=given.pop())
                try:
                    agent.sendall(self.said)
                except OSError:
                    pass
                if self.stays:
                    self.kept.append(agent)
                else:
                    agent.shutdown(socket.SHUT_WR)
                    time.sleep(0.3)
                    agent.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.close()
        for agent in self.kept:
            agent.close()
        shutil.rmtree(os.path.join(os.environ["XDG_RUNTIME_DIR"], "berth/vm/foe"))


def an_agent_that_says_nothing_is_given_up():
    with Enemy(b"", stays=True):
        begun = time.monotonic()
        expect(run("exec", "foe", "true"), 3, b"", b"does not answer")
        need(time.monotonic() - begun < 15, "too late")


def nonsense_from_an_agent_is_refused():
    for said in (b"", os.urandom(1000), b"\xff" * 64, frame(1, b"version=1"), frame(1, fields(version=2)), frame(9),
                 HELLO + frame(99), HELLO + OKAY + frame(99), HELLO + OKAY + struct.pack("<IB3x", 1 << 31, 4),
                 HELLO + OKAY + frame(4, b"x" * 100)[:50], HELLO + OKAY + frame(6, b"bytes=-5\0bytes") + frame(16)):
        with Enemy(said):
            got = run("exec", "foe", "true", timeout=30)
            need(got.returncode not in (0, -11, -6), f"{said[:40]!r}: status {got.returncode}")


def an_agents_words_do_not_command_the_terminal():
    with Enemy(HELLO + frame(3, fields(code="denied", text="\033[2J\033]0;owned\a no"))):
        got = run("exec", "foe", "true")
        need(b"\033" not in got.stderr and b"\a" not in got.stderr and b" no" in got.stderr, got.stderr)
    with Enemy(HELLO + OKAY + frame(2, fields(os="\033[2Jx", hostname="h\n\r\033", kernel="k"))):
        got = run("info", "foe")
        need(b"\033" not in got.stdout, got.stdout)


def a_status_out_of_range_is_no_status():
    with Enemy(HELLO + OKAY + frame(7, fields(status=99999999999))):
        need(run("exec", "foe", "true").returncode < 256, "status")


def copies_stay_in_their_folder():
    target = os.path.join(WORK, "cage/inside")
    os.makedirs(target)
    begin = frame(32, fields(path=".", type="dir", mode=511))
    end = frame(32, fields(path="ok", type="file", mode=420)) + frame(33, b"x") + frame(34, fields(skipped=0))
    for evil in ("../out", "/tmp/berth-out", "a/../../out", "..", "l/out", ""):
        link = frame(32, fields(path="l", type="link", target="../.."))
        said = HELLO + frame(2, fields(name="x", bytes=1)) + begin + link + frame(32, fields(path=evil, type="file", mode=420))
        with Enemy(said + frame(33, b"evil") + end):
            got = run("cp", "foe:/x", target)
            need(got.returncode != 0, f"{evil!r} was taken")
        shutil.rmtree(os.path.join(target, "x"))
        need(os.listdir(os.path.join(WORK, "cage")) == ["inside"] and not os.listdir(target), f"{evil!r} has written outside")
    for name in ("../out", "..", "a/b", "."):
        with Enemy(HELLO + frame(2, fields(name=name, bytes=1)) + begin + end):
            need(run("cp", "foe:/x", target).returncode != 0, f"the name {name!r} was taken")
    need(os.listdir(os.path.join(WORK, "cage")) == ["inside"], "something is outside")
    with Enemy(HELLO + frame(2, fields(name="x", bytes=1)) + frame(32, fields(path=".", type="file", mode=0o4777)) +
               frame(33, b"x") + frame(34)):
        expect(run("cp", "foe:/x", target), 0)
    need(not os.stat(os.path.join(target, "x")).st_mode & 0o7000, "a set-user-id bit was kept")


TESTS = [
    exec_waits_for_the_agent_and_passes_streams_and_status_on, exec_reports_signals_and_what_cannot_be_started,
    exec_takes_a_user_a_folder_and_variables, a_program_without_input_reads_its_end, binary_input_and_output_are_whole,
    a_large_stream_arrives_whole, a_reader_that_has_had_enough_ends_the_program, many_at_once_do_not_mix,
    a_signal_for_berth_exec_is_the_programs, a_killed_client_hangs_up_its_program, json_has_it_all_in_one_object,
    a_shell_has_a_terminal_of_the_right_size, files_and_folders_go_in_and_out, one_file_goes_to_a_name_or_into_a_folder,
    copies_that_cannot_be_say_why, a_killed_copy_leaves_the_agent_well, info_tells_the_system_and_its_addresses,
    file_systems_freeze_and_thaw, a_freeze_that_nobody_ends_ends_itself, a_port_without_a_listener_refuses,
    a_program_of_the_guest_reaches_the_host, a_program_of_the_guest_is_reached, messages_keep_their_bounds_both_ways,
    a_message_that_is_too_long_is_refused, any_program_can_use_the_sockets, a_killed_agent_is_noticed_and_so_is_its_return,
    a_hung_agent_is_given_up, stop_works_without_an_answer_from_the_agent,
    stop_goes_through_the_agent, commands_and_files_go_over_http, a_guest_without_an_agent_is_told_apart, an_agent_that_says_nothing_is_given_up,
    nonsense_from_an_agent_is_refused, an_agents_words_do_not_command_the_terminal, a_status_out_of_range_is_no_status,
    copies_stay_in_their_folder,
]


def main():
    global WORK, VM_RUNS
    wanted = [t for t in TESTS if not sys.argv[3:] or t.__name__ in sys.argv[3:]]
    with tempfile.TemporaryDirectory(prefix="berth-agent.") as WORK:
        os.environ["XDG_RUNTIME_DIR"] = os.path.join(WORK, "run")
        os.environ["XDG_DATA_HOME"] = os.path.join(WORK, "data")
        os.mkdir(os.environ["XDG_RUNTIME_DIR"], 0o700)
        try:
            VM_RUNS = VM()
        except boot.Skip as why:
            print(f"1..0 # SKIP {why}")
            return 77
        VM_RUNS.start("--agent")
        print(f"1..{len(wanted)}")
        failed = 0
        try:
            for i, test in enumerate(wanted, 1):
                begun = time.monotonic()
                try:
                    test()
                    print(f"ok {i} - {test.__name__} # {time.monotonic() - begun:.1f} s", flush=True)
                except (Failure, subprocess.TimeoutExpired) as why:
                    failed += 1
                    print(f"not ok {i} - {test.__name__}\n# {str(why)[:600]}", flush=True)
        finally:
            VM_RUNS.end()
            run("daemon", "stop")  # later cases may have started it
    return failed != 0


if __name__ == "__main__":
    sys.exit(main())
