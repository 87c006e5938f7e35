#!/usr/bin/env python3
"""qcow2 images between Berth and QEMU's tools: random operations by both in turn, on one image, whose
content must always be what a plain copy of it says; writers killed at random moments; hosts without power. Prints TAP.

    disk_cross.py BERTH DISKIO [SEED [START-OF-NAME...]]
"""
import os
import random
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import time

BERTH, DISKIO = (os.path.abspath(path) for path in sys.argv[1:3])
SEED = int(sys.argv[3]) if len(sys.argv) > 3 else 1
QEMU = shutil.which("qemu-img") and shutil.which("qemu-io")
WAIT = 120


class Skip(Exception):
    pass


def run(*args, status=0, **kwargs):
    done = subprocess.run(args, capture_output=True, text=True, timeout=WAIT, **kwargs)
    assert status is None or done.returncode == status, f"{args}: {done.stdout}{done.stderr}"
    return done


def check(image, leaks=False):
    """By QEMU's checker; leaks: whether they may be there."""
    done = run("qemu-img", "check", image, status=None)
    assert done.returncode == 0 or leaks and done.returncode == 3, f"{done.stdout}{done.stderr}"


class Ours:
    def __init__(self, image):
        self.process = subprocess.Popen([DISKIO, image, "qcow2"], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True)

    def __call__(self, *words):
        self.process.stdin.write(" ".join(map(str, words)) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer == "ok\n", f"{words}: {answer!r}"

    def close(self):
        self.process.stdin.close()
        assert self.process.wait(WAIT) == 0, "diskio failed"
        self.process.stdout.close()


class Both:
    """One image and its shadow."""

    def __init__(self, work, rng, size, options, backing=None):
        self.work, self.rng, self.size = work, rng, size
        self.image = os.path.join(work, "disk.qcow2")
        self.data = os.path.join(work, "data")
        self.shadow = bytearray(size)
        self.unit = 512
        found = re.search(r"cluster_size=(\d+)", options)
        self.cluster = int(found[1]) if found else 65536
        self.snapshots = {}
        command = ["qemu-img", "create", "-q", "-f", "qcow2", "-o", options]
        if backing:
            self.shadow[:len(backing)] = backing
            base = os.path.join(work, "base.raw")
            with open(base, "wb") as f:
                f.write(backing)
            command += ["-b", "base.raw", "-F", "raw"]
        run(*command, self.image, str(size))

    def span(self, most):
        start = self.rng.randrange(self.size // self.unit)
        length = min(self.rng.randint(1, most // self.unit), self.size // self.unit - start)
        return start * self.unit, length * self.unit

    def new_data(self, length):
        if self.rng.random() < 0.3:  # of bytes that can be packed
            data = bytes([self.rng.randrange(256)]) * length
        else:
            data = self.rng.randbytes(length)
        with open(self.data, "wb") as f:
            f.write(data)
        return data

    def ours(self, steps):
        io = Ours(self.image)
        for _ in range(steps):
            what = self.rng.choice(["write"] * 4 + ["burst"] * 3 + ["zero", "discard", "flush", "read"])
            offset, length = self.span(400000 if self.rng.random() < 0.3 else 20000)
            if what in ("write", "burst"):
                data = self.new_data(length)
                self.shadow[offset:offset + length] = data
                if what == "write":
                    io("write", offset, self.data)
                else:
                    io("burst", offset, self.rng.choice([512, 1024, 4096]), self.rng.randrange(2), self.data)
            elif what == "zero":
                self.shadow[offset:offset + length] = bytes(length)
                io("zero", offset, length)
            elif what == "discard":
                io("discard", offset, length)
                self.learn(io, offset, length)
            elif what == "read":
                self.compare(io, offset, length)
            else:
                io("flush")
        self.compare(io, 0, self.size)
        io.close()

    def fetch(self, io, offset, length):
        out = os.path.join(self.work, "out")
        io("read", offset, length, out)
        with open(out, "rb") as f:
            return f.read()

    def compare(self, io, offset, length):
        got, want = self.fetch(io, offset, length), self.shadow[offset:offset + length]
        if got != want:
            at = next(i for i in range(length) if got[i] != want[i])
            raise AssertionError(f"wrong from byte {offset + at:#x} on")

    def learn(self, io, offset, length):
        """Discarded: each sector is as it was, or zero."""
        got = self.fetch(io, offset, length)
        for at in range(0, length, 512):
            sector = got[at:at + 512]
            old = self.shadow[offset + at:offset + at + 512]
            assert sector == old or not any(sector), f"discard changed {offset + at:#x}"
        self.shadow[offset:offset + length] = got

    def qemus(self, steps):
        for _ in range(steps):
            what = self.rng.choice(["write"] * 4 + ["write -z", "write -z -u", "discard"])
            offset, length = self.span(400000 if self.rng.random() < 0.3 else 20000)
            if what == "write":
                data = self.new_data(length)
                self.shadow[offset:offset + length] = data
                what = f"write -s {self.data}"
            else:
                self.shadow[offset:offset + length] = bytes(length)
            if what == "discard":
                io = None
                run("qemu-io", "-c", f"discard {offset} {length}", self.image)
                io = Ours(self.image)
                self.shadow[offset:offset + length] = self.fetch(io, offset, length)
                io.close()
                continue
            done = run("qemu-io", "-c", f"{what} {offset} {length}", self.image)
            assert "rror" not in done.stdout + done.stderr, done.stdout + done.stderr
        self.compare_by_qemu()

    def compare_by_qemu(self):
        raw = os.path.join(self.work, "plain.raw")
        run("qemu-img", "convert", "-O", "raw", self.image, raw)
        with open(raw, "rb") as f:
            assert f.read() == self.shadow, "QEMU reads something else"

    def snapshot(self, by_us):
        tool = [BERTH, "disk", "snapshot"] if by_us else ["qemu-img", "snapshot"]
        if self.snapshots and self.rng.random() < 0.6:
            name = self.rng.choice(sorted(self.snapshots))
            apply = self.rng.random() < 0.5
            if by_us:
                run(*tool, "apply" if apply else "delete", self.image, name)
            else:
                run(*tool, "-a" if apply else "-d", name, self.image)
            if apply:
                self.shadow = bytearray(self.snapshots[name])
                self.size = len(self.shadow)
            else:
                del self.snapshots[name]
        else:
            name = f"s{self.rng.randrange(10**6)}"
            run(*tool, *(["create", self.image, name] if by_us else ["-c", name, self.image]))
            self.snapshots[name] = bytes(self.shadow)

    def resize(self, by_us):
        size = max(self.size + self.rng.randint(-200, 400) * 512, 65536)
        if not by_us:  # it leaves what was behind the end in the last cluster for later growth to show
            size = -(-size // self.cluster) * self.cluster
        tool = [BERTH, "disk"] if by_us else ["qemu-img"]
        done = run(*tool, "resize", "--shrink", self.image, str(size), status=None)
        assert done.returncode == 0, done.stderr
        if size > self.size:
            self.shadow += bytes(size - self.size)
        else:
            del self.shadow[size:]
        self.size = size


def cross(rounds, size, options, backing=0, snapshots=True, resize=True):
    rng = random.Random(SEED)
    with tempfile.TemporaryDirectory(prefix="berth-disk-") as work:
        both = Both(work, rng, size, options, rng.randbytes(backing) if backing else None)
        for _ in range(rounds):
            both.ours(rng.randint(5, 25))
            check(both.image)
            both.qemus(rng.randint(1, 4))
            if snapshots:
                both.snapshot(rng.random() < 0.6)
                check(both.image)
            if resize and not (snapshots and "0.10" in options):
                both.resize(rng.random() < 0.6)
                check(both.image)
        both.compare_by_qemu()


MIB = 1 << 20
CASES = {}


def cross_case(name, *args, **kwargs):
    CASES[name] = lambda: cross(*args, **kwargs)


for bits in (9, 10, 12, 14, 16, 18, 21):
    cross_case(f"both_programs_agree_with_clusters_of_{1 << bits}", 6, 3 * MIB,
               f"cluster_size={1 << bits}")
cross_case("both_programs_agree_on_version_2", 6, 3 * MIB, "compat=0.10,cluster_size=4096")
cross_case("both_programs_agree_on_version_2_with_a_backing_file", 6, 3 * MIB,
           "compat=0.10,cluster_size=4096", backing=2 * MIB)
cross_case("both_programs_agree_with_a_backing_file", 6, 3 * MIB, "cluster_size=65536", backing=2 * MIB)
for bits in (14, 16, 18):
    cross_case(f"both_programs_agree_with_subclusters_in_{1 << bits}", 6, 3 * MIB,
               f"extended_l2=on,cluster_size={1 << bits}")
cross_case("both_programs_agree_with_subclusters_over_a_backing_file", 6, 3 * MIB,
           "extended_l2=on,cluster_size=65536", backing=2 * MIB)
for width in (1, 2, 4, 8, 32, 64):
    cross_case(f"both_programs_agree_with_counts_of_{width}_bits", 4, 2 * MIB,
               f"refcount_bits={width},cluster_size=1024", snapshots=width > 4)
cross_case("both_programs_agree_with_lazy_refcounts", 6, 3 * MIB, "lazy_refcounts=on,cluster_size=4096")


# --- killed writers

BLOCK, BLOCKS, BATCH, FLUSH_EVERY = 4096, 16, 16, 8


class Dice:
    """diskio's random numbers."""

    def __init__(self, seed):
        self.state = seed

    def __call__(self, below):
        self.state = (self.state * 6364136223846793005 + 1442695040888963407) % (1 << 64)
        return (self.state >> 33) % below


def storm_requests(seed, blocks, last):
    """(number, kind, blocks) of diskio's storm up to the last of these numbers, in batches that do not overlap."""
    roll, number = Dice(seed), 0
    while number < last:
        taken = []
        for _ in range(BATCH):
            start, count, kind = roll(blocks), 1 + roll(BLOCKS), roll(16)
            end, number = start + count, number + 1
            if end <= blocks and all(end <= s or e <= start for s, e in taken):
                taken.append((start, end))
                yield number, {0: "zero", 1: "discard"}.get(kind, "write"), range(start, end)


def allowed_after(seed, flushed, before):
    """What each block may hold, as the first word of its sectors: at least what had been flushed."""
    may = [set(words) for words in before]
    for number, kind, blocks in storm_requests(seed, len(before), flushed + 2 * BATCH * FLUSH_EVERY):
        for block in blocks:
            word = number << 24 | block if kind == "write" else 0
            if number > flushed or kind == "discard":
                may[block].add(word)
            else:
                may[block] = {word}
    return may


def look(work, image, blocks):
    """The words of each block, by QEMU's reader. A sector is written whole or not at all."""
    raw = os.path.join(work, "plain.raw")
    run("qemu-img", "convert", "-O", "raw", image, raw)
    with open(raw, "rb") as f:
        data = f.read()
    held = []
    for block in range(blocks):
        sectors = [data[at:at + 512] for at in range(block * BLOCK, (block + 1) * BLOCK, 512)]
        assert all(sector == sector[:8] * 64 for sector in sectors), f"block {block} has a torn sector"
        held.append({int.from_bytes(sector[:8], "little") for sector in sectors})
    return held


def start_storm(program, image, seed, form="qcow2", **environment):
    process = subprocess.Popen([program, image, form], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                               env=dict(os.environ, **environment))
    process.stdin.write(f"storm {seed}\n")
    process.stdin.flush()
    return process


def storm_until_killed(image, seed, form, flushes, seconds):
    """Some time after so many flushes. Returns the number of the last request that was flushed."""
    process = start_storm(DISKIO, image, seed, form)
    lines = [process.stdout.readline() for _ in range(flushes)]
    time.sleep(seconds)
    process.kill()
    lines += process.communicate(timeout=WAIT)[0].splitlines()
    assert all(line.strip().isdigit() for line in lines), f"the writer failed: {lines}"
    return int(lines[-1]) if lines else 0


def new_image(image, size, options, backing):
    lower = ["-b", "base.raw", "-F", "raw"] if backing else []
    if backing:
        with open(os.path.join(os.path.dirname(image), "base.raw"), "wb") as f:
            f.write(b"".join((1 << 23 | at // BLOCK).to_bytes(8, "little") * 64 for at in range(0, size, 512)))
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", options, *lower, image, str(size))


def compare_held(turn, held, may):
    for block, words in enumerate(held):
        assert words <= may[block], f"{turn}: block {block} holds {words}, not of {may[block]}"
    return held


def killed(kills, size, options, backing=False, snapshot=False):
    rng = random.Random(SEED)
    with tempfile.TemporaryDirectory(prefix="berth-disk-") as work:
        image = os.path.join(work, "disk.qcow2")
        new_image(image, size, options, backing)
        held = look(work, image, size // BLOCK)
        for turn in range(kills):
            if snapshot and turn % 5 == 0:
                run(BERTH, "disk", "snapshot", "create", image, f"s{turn}")
            seed = rng.randrange(1 << 32)
            flushed = storm_until_killed(image, seed, "qcow2", rng.randrange(6), rng.uniform(0, 0.03))
            if "lazy" in options:
                run(BERTH, "disk", "check", "--repair=all", image)
            check(image, leaks=True)
            Ours(image).close()  # whoever opens it next gives back what leaked
            check(image)
            held = compare_held(turn, look(work, image, size // BLOCK), allowed_after(seed, flushed, held))


def killed_raw(kills, size):
    rng = random.Random(SEED)
    with tempfile.TemporaryDirectory(prefix="berth-disk-") as work:
        image = os.path.join(work, "disk.raw")
        run("qemu-img", "create", "-q", "-f", "raw", image, str(size))
        held = look(work, image, size // BLOCK)
        for turn in range(kills):
            seed = rng.randrange(1 << 32)
            flushed = storm_until_killed(image, seed, "raw", rng.randrange(6), rng.uniform(0, 0.03))
            held = compare_held(turn, look(work, image, size // BLOCK), allowed_after(seed, flushed, held))


def kill_case(name, *args, **kwargs):
    CASES[name] = lambda: killed(*args, **kwargs)


kill_case("killed_writers_lose_nothing_flushed", 25, 8 * MIB, "cluster_size=65536")
kill_case("killed_writers_lose_nothing_flushed_with_small_clusters", 20, 8 * MIB, "cluster_size=1024")
kill_case("killed_writers_lose_nothing_flushed_over_a_backing_file", 15, 8 * MIB, "cluster_size=65536", backing=True)
kill_case("killed_writers_lose_nothing_flushed_with_subclusters", 15, 8 * MIB, "extended_l2=on,cluster_size=65536",
          backing=True)
kill_case("killed_writers_lose_nothing_flushed_with_lazy_refcounts", 15, 8 * MIB, "lazy_refcounts=on")
kill_case("killed_writers_lose_nothing_flushed_with_snapshots", 20, 8 * MIB, "cluster_size=4096", snapshot=True)
CASES["killed_writers_lose_nothing_flushed_of_a_raw_image"] = lambda: killed_raw(25, 8 * MIB)


# --- lost power

def read_log(path):
    """The records of power_log.c, as (letter, words, data)."""
    with open(path, "rb") as f:
        log = f.read()
    at, records = 0, []
    while at < len(log):
        letter = chr(log[at])
        words = struct.unpack_from("<" + "Q" * {"W": 2, "Z": 2, "B": 0, "E": 1, "N": 1}[letter], log, at + 1)
        at += 1 + 8 * len(words)
        length = words[1] if letter == "W" else 0
        if at + length > len(log):  # killed in the middle of it
            break
        records.append((letter, words, log[at:at + length]))
        at += length
    return records


def without_power(rng, image, records):
    """What may be left of the image: all that was synced, and of the rest each write, a part of it, or nothing."""
    begun = [at for at, record in enumerate(records) if record[0] == "B"]
    synced = max([begun[words[0]] for letter, words, _ in records if letter == "E"], default=0)
    image, keep = bytearray(image), rng.random()
    for at, (letter, words, data) in enumerate(records):
        if letter not in "WZ":
            continue
        offset, length = words
        if at >= synced and rng.random() > keep:
            length = rng.choice([0, 0, rng.randrange(length // 512 + 1) * 512])
        data = data[:length] if letter == "W" else bytes(length)
        image += bytes(max(offset + length - len(image), 0))
        image[offset:offset + length] = data
    return image


def lost_power(cuts, size, options, backing=False):
    rng = random.Random(SEED)
    with tempfile.TemporaryDirectory(prefix="berth-disk-") as work:
        image, log = os.path.join(work, "disk.qcow2"), os.path.join(work, "log")
        new_image(image, size, options, backing)
        with open(image, "rb") as f:
            before = f.read()
        held = look(work, image, size // BLOCK)
        seed = rng.randrange(1 << 32)
        process = start_storm(f"{DISKIO}_power", image, seed, POWER_LOG=log)
        for _ in range(10):
            assert process.stdout.readline().strip().isdigit(), "the writer failed"
        process.kill()
        process.communicate(timeout=WAIT)
        records = read_log(log)
        for turn in range(cuts):
            some = records[:int(len(records) * rng.random() ** 3)]  # early: most clusters are new then
            flushed = max([words[0] for letter, words, _ in some if letter == "N"], default=0)
            with open(image, "wb") as f:
                f.write(without_power(rng, before, some))
            if "lazy" in options:
                run(BERTH, "disk", "check", "--repair=all", image)
            check(image, leaks=True)
            compare_held(turn, look(work, image, size // BLOCK), allowed_after(seed, flushed, held))


def power_case(name, *args, **kwargs):
    CASES[name] = lambda: lost_power(*args, **kwargs)


power_case("power_lost_loses_nothing_flushed", 25, 16 * MIB, "cluster_size=65536")
power_case("power_lost_loses_nothing_flushed_over_a_backing_file", 25, 16 * MIB, "cluster_size=65536", backing=True)
power_case("power_lost_loses_nothing_flushed_with_small_clusters", 25, 4 * MIB, "cluster_size=512", backing=True)
power_case("power_lost_loses_nothing_flushed_with_subclusters", 25, 16 * MIB, "extended_l2=on,cluster_size=65536", backing=True)
power_case("power_lost_loses_nothing_flushed_with_lazy_refcounts", 25, 16 * MIB, "lazy_refcounts=on", backing=True)


def killed_tool(rng, *command):
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(rng.uniform(0, 0.03))
    process.kill()
    return process.wait(WAIT) == 0


def content(work, image, snapshot=None):
    raw = os.path.join(work, "plain.raw")
    run("qemu-img", "convert", *(["-l", snapshot] if snapshot else []), "-O", "raw", image, raw)
    with open(raw, "rb") as f:
        return f.read()


def killed_tools(kills, options):
    """A disk keeps its content, or has the snapshot's; writes after that do not reach the snapshot."""
    rng = random.Random(SEED)
    with tempfile.TemporaryDirectory(prefix="berth-disk-") as work:
        both = Both(work, rng, 8 * MIB, options)
        both.ours(30)
        run(BERTH, "disk", "snapshot", "create", both.image, "first")
        first = bytes(both.shadow)
        for turn in range(kills):
            both.ours(3)
            action = rng.choice(["create", "apply", "delete"])
            killed_tool(rng, BERTH, "disk", "snapshot", action, both.image, "first" if action == "apply" else "other")
            got = content(work, both.image)
            assert got == both.shadow or action == "apply" and got == first, f"kill {turn} of {action}: other content"
            both.shadow = bytearray(got)
            both.ours(3)
            assert content(work, both.image, "first") == first, f"kill {turn} of {action}: the snapshot changed"
            if "0.10" in options:  # has no mark by which the next writer repairs it
                run(BERTH, "disk", "check", "--repair=all", both.image)
            check(both.image, leaks=True)


CASES["killed_tools_leave_the_content_before_or_after"] = lambda: killed_tools(25, "cluster_size=4096")
CASES["killed_tools_leave_the_content_before_or_after_in_version_2"] = lambda: killed_tools(
    25, "compat=0.10,cluster_size=4096")


def main():
    names = [name for name in CASES if any(map(name.startswith, sys.argv[4:] or [""]))]
    print(f"1..{len(names)}")
    failures = 0
    for number, name in enumerate(names, 1):
        words = ""
        try:
            if not QEMU:
                raise Skip("qemu-img or qemu-io is not installed (package qemu-utils)")
            CASES[name]()
            result = "ok"
        except Skip as why:
            result, words = "ok", f" # SKIP {why}"
        except Exception as why:
            result, failures = "not ok", failures + 1
            print("# " + f"{type(why).__name__}: {why}"[:2000].replace("\n", "\n# "))
        print(f"{result} {number} - {name}{words}", flush=True)
    return failures != 0


if __name__ == "__main__":
    sys.exit(main())
