#!/usr/bin/env python3
"""What VMs take of the host: limits, shares, reservations, pools, memory. Prints TAP.

    resources.py BERTH WORKER [CASE...]

With --delegated, as root in a machine of its own (tools/testbed), it mounts control groups of version 2, delegates one to
an ordinary user, whose the manager then is, and runs the cases of that.

WORKER is the multiboot file of worker.c, a guest that counts. What is compared are ratios of what
happened in the same seconds, and CPU time with what was waited for, in one window after another
until one is as it should be, so that other work on the machine does no harm; VMs that compete run
on one CPU together. bench/resources.py measures strictly.
"""
import glob
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

DELEGATED = "--delegated" in sys.argv
if DELEGATED:
    sys.argv.remove("--delegated")
BERTH, WORKER = (os.path.abspath(path) for path in sys.argv[1:3])
GROUP = "/sys/fs/cgroup/delegated"
NOBODY = 65534
WAIT = 60
WINDOWS = 12  # to look at, at most
MIB = 1 << 20
CPU = str(min(os.sched_getaffinity(0)))  # where all compete


class Skip(Exception):
    pass


class Line:
    """Lines of JSON over a socket: requests and answers."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(WAIT)
        self.socket.connect(path)
        self.file = self.socket.makefile("r", encoding="utf-8")

    def ask(self, request, **arguments):
        self.socket.sendall(json.dumps({"request": request, **arguments}).encode() + b"\n")
        answer = json.loads(self.file.readline())
        if "error" in answer:
            raise AssertionError(answer["error"]["text"])
        return answer["ok"]


def cpu_seconds(pid):
    with open(f"/proc/{pid}/task/{pid}/stat", encoding="ascii"):
        pass  # it is alive
    return time.clock_gettime(~pid << 3 | 2)  # the clock of that process, clock_getcpuclockid(3)


def resident(pid):
    with open(f"/proc/{pid}/statm", encoding="ascii") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGESIZE")


def put(path, text):
    with open(path, "w", encoding="ascii") as f:
        f.write(text)


def look(path):
    with open(path, encoding="ascii") as f:
        return f.read().strip()


def delegate():
    """What systemd does for Delegate=yes."""
    subprocess.run(["mount", "-t", "cgroup2", "none", "/sys/fs/cgroup"], check=True)
    put("/sys/fs/cgroup/cgroup.subtree_control", "+cpu +memory")
    os.mkdir(GROUP)
    put(GROUP + "/memory.min", str(512 * MIB))
    for name in ("", "/cgroup.procs", "/cgroup.subtree_control", "/cgroup.threads"):
        os.chown(GROUP + name, NOBODY, NOBODY)
    if os.path.exists("/dev/kvm"):
        os.chmod("/dev/kvm", 0o666)


def become_delegate():
    put(GROUP + "/cgroup.procs", str(os.getpid()))
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)


class Host:
    """A user of Berth with directories of its own, and a manager."""

    def __init__(self):
        self.work = tempfile.mkdtemp(prefix="berth-resources-")
        runtime = os.path.join(self.work, "run")
        os.mkdir(runtime, 0o700)
        if DELEGATED:
            os.chown(self.work, NOBODY, NOBODY)
            os.chown(runtime, NOBODY, NOBODY)
        self.env = {**os.environ, "XDG_RUNTIME_DIR": runtime, "XDG_DATA_HOME": os.path.join(self.work, "data")}
        self.vms = []
        self.runtime = os.path.join(runtime, "berth")
        # Every VM of this manager has one CPU for its vCPUs.
        self.manager = None

    def __enter__(self):
        return self

    def start_manager(self):
        with open(os.path.join(self.work, "berthd.log"), "ab") as log:
            self.manager = subprocess.Popen([os.path.join(os.path.dirname(BERTH), "berthd")], env=self.env,
                                            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            preexec_fn=become_delegate if DELEGATED else None)
        end = time.monotonic() + WAIT
        while True:
            paths = glob.glob(self.runtime + "/*/berthd/control.sock")
            try:
                self.line = Line(paths[0])
                return
            except (IndexError, OSError):
                assert time.monotonic() < end and self.manager.poll() is None, "no manager"
                time.sleep(0.05)

    def berth(self, *args, check=True):
        done = subprocess.run([BERTH, *args], env=self.env, capture_output=True, text=True, timeout=WAIT,
                              stdin=subprocess.DEVNULL)
        assert not check or done.returncode == 0, f"berth {' '.join(args)}: {done.stderr}"
        return done

    def json(self, *args):
        return json.loads(self.berth(*args).stdout)

    def ask(self, request, **arguments):
        return self.line.ask(request, **arguments)

    def worker(self, name, pool=None, **more):
        vm = Worker(self, name, more, pool)
        self.vms.append(vm)
        return vm

    def __exit__(self, *_):
        for vm in self.vms:
            vm.kill()
        if self.manager:
            self.manager.terminate()
            self.manager.wait(WAIT)
        shutil.rmtree(self.work, ignore_errors=True)


class Worker:
    """A kept VM that counts when it is told to."""

    def __init__(self, host, name, definition, pool=None):
        self.host, self.name, self.seen = host, name, b""
        definition = {"vcpus": 1, "memory_mib": 128, "kernel": WORKER, "serial": "shared", "cpu_pin": CPU,
                      **definition}
        host.ask("create", name=name, definition=definition)
        if pool:
            host.ask("share", vm=name, pool=pool)
        host.ask("start", vm=name)
        self.control = Line(os.path.join(host.runtime, "vm", name, "control.sock"))
        self.pid = self.control.ask("info")["pid"]
        self.console = socket.socket(socket.AF_UNIX)
        self.console.settimeout(WAIT)
        self.console.connect(os.path.join(host.runtime, "vm", name, "console.sock"))
        self.say("s")

    def read(self, pattern, wait=WAIT):
        end = time.monotonic() + wait
        while not (found := re.search(pattern, self.seen)):
            assert time.monotonic() < end, f"{self.name}: no {pattern!r} in {self.seen[-200:]!r}"
            ready = select.select([self.console], [], [], 1)[0]
            data = self.console.recv(4096) if ready else b""
            self.seen += data
        self.seen = self.seen[found.end():]
        return found

    def say(self, letter):
        """Tells the guest something, again should it not have listened yet; returns its count."""
        for _ in range(20):
            self.console.sendall(letter.encode())
            try:
                return int(self.read(rb"<%b (\d+)>" % letter.encode(), 3).group(1))
            except AssertionError:
                pass
        raise AssertionError(f"{self.name} does not listen")

    def kill(self):
        try:
            os.kill(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def cages(pid):
    """The processes in which programs of its guest run."""
    def children(of):
        try:
            with open(f"/proc/{of}/task/{of}/children", encoding="ascii") as f:
                return [int(child) for child in f.read().split()]
        except FileNotFoundError:
            return []
    return [cage for nursery in children(pid) for cage in children(nursery)]


def threads(pid, begins=""):
    """Seconds that its threads of such names, and all of its cages, ran and waited for a CPU."""
    ran = waited = 0
    for task in [path for one in [pid] + cages(pid) for path in glob.glob(f"/proc/{one}/task/*")]:
        try:
            with open(task + "/comm", encoding="ascii") as comm, open(task + "/schedstat", encoding="ascii") as times:
                if comm.read().startswith((begins, "berth-cages")):
                    one = times.read().split()
                    ran, waited = ran + int(one[0]), waited + int(one[1])
        except FileNotFoundError:
            pass  # it has just ended
    return ran / 1e9, waited / 1e9


def vcpu_seconds(pid):
    """What its vCPUs ran; the rest of its process looks after its limits, among other things."""
    return threads(pid, "vcpu")[0]


def waited_seconds(pid):
    return threads(pid)[1]


class Window:
    """What VMs did in the same seconds."""

    def __init__(self, vms, seconds, clock=vcpu_seconds):
        counts = [vm.say("c") for vm in vms]
        waited, used, began = [waited_seconds(vm.pid) for vm in vms], [clock(vm.pid) for vm in vms], time.monotonic()
        time.sleep(seconds)
        self.used = [clock(vm.pid) - then for vm, then in zip(vms, used)]
        self.took = time.monotonic() - began
        self.waited = [waited_seconds(vm.pid) - then for vm, then in zip(vms, waited)]
        self.counts = [vm.say("c") - count for vm, count in zip(vms, counts)]

    def add(self, other):
        self.took += other.took
        for mine, more in ((self.used, other.used), (self.waited, other.waited), (self.counts, other.counts)):
            mine[:] = [a + b for a, b in zip(mine, more)]


def held_in_a_window(vms, seconds, check, clock=vcpu_seconds):
    """Others on the host take its CPUs as they like: looks until a window is as it should be, or all windows
    together are."""
    together = None
    for left in range(WINDOWS - 1, -1, -1):
        window = Window(vms, seconds, clock)
        if together:
            together.add(window)
        together = together or window
        try:
            return check(window)
        except AssertionError as e:
            print(f"# in {window.took:.1f} s: {e}")
        try:
            return check(together)
        except AssertionError:
            if not left:
                raise


def near(got, want, part, what):
    assert abs(got - want) <= want * part, f"{what}: {got:.4g}, wanted {want:.4g} within {part:.0%}"
    print(f"# {what}: {got:.4g}, wanted {want:.4g}")


def near_limit(window, which, limit, part, what):
    """As much as the limit, and not less for another reason than that the host's CPUs were somebody else's."""
    used, waited = (sum(of[i] for i in which) / window.took for of in (window.used, window.waited))
    text = f"{what}: {used:.4g} CPUs, {waited:.4g} waited for, limit {limit:.4g}"
    assert used <= limit * (1 + part) and used + waited >= limit * (1 - part), f"{text} within {part:.0%}"
    print(f"# {text}")


def ratios(vms, wanted, seconds, part):
    """Work follows CPU time less closely on a host that is itself a VM: what its hypervisor takes counts as CPU
    time, and in a rhythm that may fall on one of ours more than on another."""
    def check(window):
        for what, of, within in (("CPU time", window.used, part), ("work", window.counts, part + 0.1)):
            for vm, n, w in zip(vms, of, wanted):
                near(n / sum(of), w / sum(wanted), within, f"{vm.name}'s part of the {what}")
    held_in_a_window(vms, seconds, check)


def start_working(vms, settle=4):
    for vm in vms:
        vm.say("w")
    time.sleep(settle)


def until(what, true, seconds=WAIT):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.5)


# --- cases

def shares_1_2_4_divide_the_work_of_one_cpu(host):
    """within 5 %"""
    host.start_manager()
    vms = [host.worker(name) for name in ("one", "two", "four")]
    for vm, shares in zip(vms, (100, 200, 400)):
        host.ask("share", vm=vm.name, cpu_shares=shares)
    start_working(vms)
    ratios(vms, (1, 2, 4), 10, 0.05)


def a_changed_share_takes_effect_within_a_second(host):
    """the parts are right in the time that begins a second later"""
    host.start_manager()
    vms = [host.worker(name) for name in ("a", "b")]
    start_working(vms)
    ratios(vms, (1, 1), 4, 0.08)
    host.ask("share", vm="a", cpu_shares=300)
    time.sleep(1)
    ratios(vms, (3, 1), 5, 0.08)


def what_one_does_not_want_goes_to_the_others(host):
    """a sleeping VM's time; and it has its part again when it wakes up"""
    host.start_manager()
    vms = [host.worker(name) for name in ("a", "b", "c")]
    host.ask("share", vm="c", cpu_shares=800)
    start_working(vms)
    vms[2].say("s")
    time.sleep(2)

    def two_halves(window):
        near(window.used[0] / sum(window.used[:2]), 0.5, 0.08, "a's part while c sleeps")
        assert window.used[2] < 0.05 * window.took, f"a sleeping VM used {window.used[2]:.3g} s"
    held_in_a_window(vms, 4, two_halves)
    vms[2].say("w")
    time.sleep(2)
    ratios(vms, (1, 1, 8), 6, 0.08)


def a_reservation_holds_while_others_flood(host):
    """half a CPU of one, against four with ten times its shares"""
    host.start_manager()
    vms = [host.worker(name) for name in ("kept", "w", "x", "y", "z")]
    for vm in vms[1:]:
        host.ask("share", vm=vm.name, cpu_shares=1000)
    host.ask("share", vm="kept", cpu_shares=100, cpu_reservation=500)
    start_working(vms, 6)
    held_in_a_window(vms, 6, lambda window: near(window.used[0] / sum(window.used), 0.5, 0.05,
                                                 "the part of what they got that was reserved"))


def pools_divide_before_their_members(host):
    """two pools as 1:1, one of them with one VM and one with three"""
    host.start_manager()
    host.ask("pool-create", pool="left")
    host.ask("pool-create", pool="right")
    host.ask("pool-create", pool="inner", parent="right")
    vms = [host.worker(name) for name in ("l", "r", "i", "j")]
    for vm, pool in zip(vms, ("left", "right", "inner", "inner")):
        host.ask("share", vm=vm.name, pool=pool)
    start_working(vms)
    ratios(vms, (4, 2, 1, 1), 10, 0.08)


def limits_hold_within_five_percent(host):
    """of a VM, without a manager's help, and of a pool, whose members divide it"""
    host.start_manager()
    vms = [host.worker(name) for name in ("a", "b")]
    vms[0].say("w")
    for millis in (60, 30):  # which a busy machine has left
        vms[0].control.ask("cpu", limit=millis)
        time.sleep(1)
        held_in_a_window(vms[:1], 5, lambda window, limit=millis / 1000: near_limit(
            window, [0], limit, 0.05, "a VM"), cpu_seconds)
    vms[0].control.ask("cpu", limit=0)
    host.ask("pool-create", pool="small", cpu_limit=80)
    for vm in vms:
        host.ask("share", vm=vm.name, pool="small")
    host.ask("share", vm="a", cpu_shares=300)
    start_working(vms)

    def divided(window):
        near_limit(window, (0, 1), 0.08, 0.05, "the pool")
        near_limit(window, [0], 0.06, 0.08, "a, with three shares")
        near_limit(window, [1], 0.02, 0.08, "b, with one")
    held_in_a_window(vms, 8, divided, cpu_seconds)


def the_limit_of_a_pool_holds_from_the_first_instant(host):
    """of a VM that starts in it, and while its members change; and without the manager"""
    host.start_manager()
    host.ask("pool-create", pool="small", cpu_limit=60)
    a = host.worker("a", pool="small")
    assert a.control.ask("cpu")["rate"] <= 60, "it began with more than its pool has"
    b = host.worker("b", pool="small")
    assert b.control.ask("cpu")["rate"] <= 60, "it began with more than its pool has"
    a.say("w")
    until("a has what b does not want", lambda: a.control.ask("cpu")["rate"] >= 50)
    b.say("w")

    def rates():
        return [vm.control.ask("cpu")["rate"] for vm in (a, b)]
    until("both have a half", lambda: all(26 <= rate <= 34 for rate in rates()))
    host.manager.kill()
    host.manager.wait()
    held_in_a_window((a, b), 5, lambda window: near_limit(window, (0, 1), 0.06, 0.1, "the pool without a manager"),
                     cpu_seconds)
    host.start_manager()
    host.ask("pool-set", pool="small", cpu_limit=0)
    until("nothing holds them", lambda: not any(vm.control.ask("cpu")["bound"] for vm in (a, b)))


def vms_go_on_without_the_manager(host):
    """what it said ends with it"""
    host.start_manager()
    vms = [host.worker(name) for name in ("a", "b")]
    host.ask("share", vm="a", cpu_shares=1000)
    start_working(vms)
    host.manager.kill()
    host.manager.wait()
    until("nothing holds it", lambda: vms[1].control.ask("cpu")["rate"] == 0)
    host.start_manager()
    time.sleep(2)
    held_in_a_window(vms, 6, lambda window: near(window.used[0] / sum(window.used), 10 / 11, 0.05,
                                                 "a's part under the next manager"))


def disk_bandwidth_of_a_pool_is_divided(host):
    """bytes and operations a second, by shares and reservations, as bounds of the disks beside their own limits, while VMs run"""
    host.start_manager()
    host.ask("pool-create", pool="slow", disk_limit=40 << 20, iops_limit=4000)
    vms = []
    for name, disks in (("a", 1), ("b", 2)):
        paths = [os.path.join(host.work, f"{name}{i}.img") for i in range(disks)]
        for path in paths:
            with open(path, "wb") as image:
                image.truncate(1 << 20)
        vms.append(host.worker(name, pool="slow", disks=[{"path": path} for path in paths]))
    vms[0].control.ask("limit", disk="disk0", bps=1 << 30)

    def bounds():
        found = []
        for vm, disks in zip(vms, (1, 2)):
            limits = [vm.control.ask("limit", disk=f"disk{i}") for i in range(disks)]
            found.append((sum(limit.get("bps_bound", 0) for limit in limits) >> 20, sum(limit.get("iops_bound", 0) for limit in limits)))
        print(f"# bounds of each in MiB and operations a second: {found}")
        return found

    until("an even division", lambda: bounds() == [(20, 2000), (20, 2000)])
    assert vms[1].control.ask("limit", disk="disk0")["iops_bound"] == 1000, "both disks have a part"
    host.ask("share", vm="a", disk_shares=300)
    until("three parts of four of the bytes", lambda: bounds() == [(30, 2000), (10, 2000)])
    host.ask("share", vm="a", iops_shares=700)
    until("seven parts of eight of the operations", lambda: bounds() == [(30, 3500), (10, 500)])
    host.ask("share", vm="b", disk_reservation=16 << 20, iops_reservation=1000)
    until("reservations come first", lambda: bounds() == [(24, 3000), (16, 1000)])
    try:
        host.ask("share", vm="a", iops_reservation=3001)
        raise ValueError("more was promised than the pool has")
    except AssertionError as e:
        assert "oversold" in str(e) and "4001 operations/s" in str(e), e
    host.ask("share", vm="b", disk_reservation=0, iops_reservation=0, iops_limit=100)
    until("a limit of its own", lambda: bounds() == [(30, 3900), (10, 100)])
    host.manager.kill()
    host.manager.wait()
    host.start_manager()  # knows nothing of what was told
    host.ask("share", vm="b", iops_limit=0)
    host.ask("pool-set", pool="slow", disk_limit=0, iops_limit=0)
    until("nothing holds", lambda: bounds() == [(0, 0), (0, 0)])
    assert vms[0].control.ask("limit", disk="disk0")["bps"] == 1 << 30, "its own limit has gone"


def network_bandwidth_of_a_pool_is_divided(host):
    """by shares and reservations, as bounds of the ports, while VMs run; and ports get turns by shares"""
    host.start_manager()
    host.ask("pool-create", pool="small", net_limit=40_000_000)
    vms = [host.worker(name, pool="small", nics=[{"network": "default"}]) for name in ("a", "b")]

    def ports():
        network = Line(glob.glob(os.path.join(host.runtime, "net", "default", "control.sock"))[0])
        by_vm = {port["vm"]: port for port in network.ask("info")["ports"]}
        found = [(by_vm[vm.name].get("bound_in", 0) // 10**6, by_vm[vm.name].get("bound_out", 0) // 10**6,
                  by_vm[vm.name]["shares"]) for vm in vms]
        print(f"# bounds to and from each in Mbit/s, shares: {found}")
        return found

    until("an even division", lambda: ports() == [(20, 20, 100), (20, 20, 100)])
    host.ask("share", vm="a", net_shares=300)
    until("three parts of four", lambda: ports() == [(30, 30, 150), (10, 10, 50)])
    host.ask("share", vm="b", net_reservation=16_000_000)
    until("a reservation comes first", lambda: ports() == [(24, 24, 150), (16, 16, 50)])
    try:
        host.ask("share", vm="a", net_reservation=25_000_000)
        raise ValueError("more was promised than the pool has")
    except AssertionError as e:
        assert "oversold" in str(e) and "41.00 Mbit/s" in str(e), e
    host.ask("share", vm="b", net_reservation=0, net_limit=4_000_000)
    until("a limit of its own", lambda: ports() == [(36, 36, 150), (4, 4, 50)])
    host.ask("share", vm="b", net_limit=0)
    host.ask("share", vm="a", net_shares=100)
    host.ask("pool-set", pool="small", net_limit=0)
    until("nothing holds", lambda: ports() == [(0, 0, 100), (0, 0, 100)])


def reservations_are_never_oversold(host):
    """refused with the numbers, and nothing has changed"""
    host.start_manager()
    cpus = host.ask("pool-ls")["host"]["cpu"]

    def refused(*words, request="pool-create", **arguments):
        try:
            host.ask(request, **arguments)
        except AssertionError as e:
            for word in words:
                assert word in str(e), f"no {word!r} in {e}"
            return
        raise AssertionError(f"{arguments} was granted")

    host.ask("pool-create", pool="p", cpu_reservation=cpus - 500, memory_reservation=512 * MIB)
    refused("oversold", "the host", pool="q", cpu_reservation=501)
    host.ask("pool-create", pool="q", cpu_reservation=500)
    refused("oversold", "pool p", "512 MiB", "513 MiB", pool="r", parent="p", memory_reservation=513 * MIB)
    host.ask("pool-create", pool="r", parent="p", memory_reservation=500 * MIB)
    vm = host.worker("a")
    refused("oversold", "512 MiB", request="share", vm="a", pool="p", memory_reservation=64 * MIB)
    assert host.ask("share", vm="a")["pool"] == "host"
    refused("more than its vCPUs", request="share", vm="a", cpu_reservation=1001)
    refused("more than its limit", request="share", vm="a", cpu_limit=100, cpu_reservation=200)
    host.ask("pool-set", pool="r", memory_reservation=400 * MIB)
    host.ask("share", vm="a", pool="p", memory_reservation=64 * MIB)
    refused("part of itself", request="pool-set", pool="p", parent="r")
    refused("pool r in it", request="pool-rm", pool="p")
    host.ask("pool-rm", pool="r")
    refused("VM a in it", request="pool-rm", pool="p")
    host.manager.kill()
    host.manager.wait()
    host.start_manager()
    assert host.ask("share", vm="a")["memory_reservation"] == 64 * MIB
    pools = {p["pool"]: p for p in host.ask("pool-ls")["pools"]}
    assert pools["p"]["cpu_reservation"] == cpus - 500 and [v["vm"] for v in pools["p"]["vms"]] == ["a"]
    assert vm.pid


def initramfs(work):
    """A shell on the serial port, with the balloon's driver."""
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    import boot  # pylint: disable=import-outside-toplevel
    try:
        kernel = boot.kernel("cloud")
        return kernel, boot.initramfs_with(work, "balloon", "cloud", "virtio_ring", "virtio", "virtio_pci_modern_dev",
                                           "virtio_pci_legacy_dev", "virtio_pci", "virtio_balloon"), boot.ARGS
    except boot.Skip as why:
        raise Skip(str(why)) from why


class Linux(Worker):
    """A kept VM with a shell."""

    def say(self, letter):
        if letter == "s":
            self.read(rb"guest# ")

    def shell(self, command):
        self.console.sendall(command.encode() + b"; echo DO''NE\n")
        self.said = self.read(rb"(?s)(.*)\nDONE").group(1)


def linux(host, name, **more):
    kernel, initrd, append = initramfs(host.work)
    vm = Linux(host, name, {"kernel": kernel, "initrd": initrd, "append": append, "memory_mib": 384, **more})
    host.vms.append(vm)
    return vm


def a_guest_sees_what_its_limit_takes(host):
    """as steal time in /proc/stat: most of its time with a limit, little without"""
    host.start_manager()
    vm = linux(host, "a")

    def stolen():
        """Of the time in which its only process wanted to run; what was not stolen it ran."""
        ran, began = vcpu_seconds(vm.pid), time.monotonic()
        vm.shell("cat /proc/stat; timeout -s KILL 5 sh -c 'while :; do :; done'; cat /proc/stat")
        ran, took = vcpu_seconds(vm.pid) - ran, time.monotonic() - began
        first, last = ([int(n) for n in line.split()[:8]] for line in re.findall(rb"\ncpu (.*)", vm.said))
        times = [b - a for a, b in zip(first, last)]
        part = times[7] / sum(times)
        print(f"# stolen {part:.0%} (ticks {times}); its vCPU ran {ran / took:.0%} of the time")
        assert abs(1 - part - ran / took) < 0.15, "it was told something else than what happened"
        return part

    host.ask("share", vm="a", cpu_limit=200)
    time.sleep(1)
    assert stolen() > 0.6, "with a limit of 20 % it was told of less"
    host.ask("share", vm="a", cpu_limit=0)
    until("without a limit it has what the host has", lambda: vm.control.ask("cpu")["rate"] == 0)
    stolen()


def memory_that_guests_do_without_goes_back(host):
    """freed memory by itself; and what a pool's limit leaves is divided by need and shares"""
    host.start_manager()
    vm, other = linux(host, "a"), linux(host, "b")
    vm.shell("dd if=/dev/zero of=/x bs=1M count=200 2>/dev/null")
    full = resident(vm.pid)
    vm.shell("rm /x")
    until("free memory is given back", lambda: resident(vm.pid) < full - 150 * MIB)
    print(f"# resident with a file in memory {full // MIB} MiB, later {resident(vm.pid) // MIB} MiB")
    host.ask("pool-create", pool="small", memory_limit=512 * MIB)
    for one in (vm, other):
        host.ask("share", vm=one.name, pool="small")
    host.ask("share", vm="b", memory_reservation=300 * MIB)

    def guests():
        return [one.control.ask("memory")["guest"] // MIB for one in (vm, other)]

    until("both fit into the pool", lambda: sum(guests()) <= 513)
    print(f"# in a pool of 512 MiB, b with 300 reserved: {guests()}")
    assert guests()[1] >= 299
    host.ask("share", vm="b", memory_reservation=0)
    host.ask("share", vm="a", memory_shares=300)
    until("a has the larger part of what is spare", lambda: guests()[0] > guests()[1] + 50 and sum(guests()) <= 513)
    print(f"# with shares 300:100 and nothing reserved: {guests()}")
    host.ask("pool-set", pool="small", memory_limit=0)
    until("both have all of theirs", lambda: guests() == [384, 384])


class Kernel:
    """Settings of the host's kernel, put back at the end. SKIP: there are none of them, or they are not ours to change."""

    def __init__(self, **settings):
        self.settings, self.before = settings, {}

    def __enter__(self):
        for path, value in self.settings.items():
            path = path.replace("__", "/")
            try:
                with open(path, encoding="ascii") as file:
                    self.before[path] = file.read()
                with open(path, "w", encoding="ascii") as file:
                    file.write(value)
            except OSError as e:
                self.__exit__()
                raise Skip(f"{path}: {e.strerror}") from None

    def __exit__(self, *_):
        for path, value in self.before.items():
            with open(path, "w", encoding="ascii") as file:
                file.write(value)


def equal_pages_of_vms_are_merged(host):
    """by the kernel, of those VMs that allow it; and berth top says so"""
    host.start_manager()
    ksm = "__sys__kernel__mm__ksm__"
    with Kernel(**{ksm + "run": "1", ksm + "pages_to_scan": "20000", ksm + "sleep_millisecs": "20"}):
        vms = [host.worker(name, memory_merge=name != "c") for name in ("a", "b", "c")]
        for vm in vms:
            vm.say("m")  # the same 64 MiB in each
        before = [resident(vm.pid) for vm in vms]

        def shared():
            by_name = {vm["name"]: vm["shared"] // MIB for vm in host.json("top", "--once", "--json")}
            print(f"# MiB of equal pages that are shared: {by_name}")
            return by_name
        until("two of the VMs share pages", lambda: shared()["a"] + shared()["b"] >= 60)
        assert sum(before[:2]) - sum(resident(vm.pid) for vm in vms[:2]) > -MIB and shared()["c"] < 30, "a third has no part in it"
        vms[0].say("m")  # writes to what is shared
        assert vms[1].say("c") == 0, "it goes on"


def a_vm_has_huge_pages_when_there_are_any(host):
    """which its administrator has reserved; else it is refused, and the words say how"""
    def free():
        with open("/proc/meminfo", encoding="ascii") as file:
            return int(re.search(r"HugePages_Free: *(\d+)", file.read()).group(1))
    host.start_manager()
    with Kernel(__proc__sys__vm__nr_hugepages="0"):
        try:
            host.worker("none", memory_mib=64, memory_huge=True)
            raise ValueError("it has huge pages that are not there")
        except AssertionError as e:
            assert "free huge pages" in str(e), e
    with Kernel(__proc__sys__vm__nr_hugepages="40"):
        there = free()
        if there < 32:
            raise Skip("the host has no 64 MiB for huge pages")
        vm = host.worker("huge", memory_mib=64, memory_huge=True)
        assert free() <= there - 1, "its memory is of other pages"
        vm.kill()
        until("they are free again", lambda: free() == there)


def group_of(host, vm):
    pools = host.ask("pool-ls")["pools"]
    return GROUP + "/vm-" + next(v["id"] for pool in pools for v in pool["vms"] if v["vm"] == vm.name)


def the_kernel_divides_a_delegated_group(host):
    """shares as weights, limits as quotas, reservations and limits of memory; an ordinary user's"""
    host.start_manager()
    assert host.ask("pool-ls")["host"]["control_groups"], "the manager did not take the group"
    vms = [host.worker(name) for name in ("one", "two", "four")]
    for vm, shares in zip(vms, (100, 200, 400)):
        host.ask("share", vm=vm.name, cpu_shares=shares)
    start_working(vms)
    groups = [group_of(host, vm) for vm in vms]
    until("all are in their groups", lambda: all(str(vm.pid) in look(group + "/cgroup.procs").split()
                                                 for vm, group in zip(vms, groups)))
    ratios(vms, (1, 2, 4), 10, 0.05)
    weights = [int(look(group + "/cpu.weight")) for group in groups]
    print(f"# weights {weights}; what the VMs hold themselves to: {[vm.control.ask('cpu')['rate'] for vm in vms]}")
    assert not any(vm.control.ask("cpu")["rate"] for vm in vms), "they are held by themselves"
    near(weights[2] / weights[0], 4, 0.1, "four's weight beside one's")
    host.ask("share", vm="four", cpu_limit=100)
    until("a quota", lambda: look(groups[2] + "/cpu.max") == "10000 100000")
    held_in_a_window(vms, 6, lambda window: near_limit(window, [2], 0.1, 0.05, "a limit of 10 %"), cpu_seconds)
    host.ask("share", vm="four", cpu_limit=0)
    host.ask("share", vm="one", cpu_reservation=500)
    time.sleep(2)
    held_in_a_window(vms, 6, lambda window: near(window.used[0] / sum(window.used), 0.5, 0.05, "the reserved part"))
    host.ask("share", vm="one", memory_reservation=96 * MIB, memory_limit=112 * MIB)
    until("memory is kept", lambda: int(look(groups[0] + "/memory.min")) >= 96 * MIB)
    print(f"# memory.min {look(groups[0] + '/memory.min')}, memory.high {look(groups[0] + '/memory.high')}")
    assert 112 * MIB <= int(look(groups[0] + "/memory.high")) <= 192 * MIB
    host.ask("stop", vm="two", seconds=0)
    until("its group has gone with it", lambda: not os.path.exists(groups[1]))


DELEGATED_CASES = [the_kernel_divides_a_delegated_group]


def main():
    if DELEGATED:
        delegate()
    cases = DELEGATED_CASES if DELEGATED else [case for case in (
        shares_1_2_4_divide_the_work_of_one_cpu, a_changed_share_takes_effect_within_a_second,
        what_one_does_not_want_goes_to_the_others, a_reservation_holds_while_others_flood,
        pools_divide_before_their_members, limits_hold_within_five_percent,
        the_limit_of_a_pool_holds_from_the_first_instant, vms_go_on_without_the_manager,
        reservations_are_never_oversold, disk_bandwidth_of_a_pool_is_divided,
        network_bandwidth_of_a_pool_is_divided, a_guest_sees_what_its_limit_takes, memory_that_guests_do_without_goes_back,
        equal_pages_of_vms_are_merged, a_vm_has_huge_pages_when_there_are_any) if len(sys.argv) == 3 or case.__name__ in sys.argv[3:]]
    failed = 0
    print(f"1..{len(cases)}")
    for number, case in enumerate(cases, 1):
        try:
            with Host() as host:
                case(host)
            print(f"ok {number} - {case.__name__}", flush=True)
        except Skip as why:
            print(f"ok {number} - {case.__name__} # SKIP {why}")
        except (AssertionError, OSError, ValueError, KeyError, subprocess.SubprocessError) as e:
            failed += 1
            print("\n".join(f"# {line}" for line in str(e).splitlines()) or "#")
            print(f"not ok {number} - {case.__name__}")
        sys.stdout.flush()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
