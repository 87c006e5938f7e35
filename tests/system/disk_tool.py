#!/usr/bin/env python3
"""berth disk as people and scripts use it, without any VM. Prints TAP.

    disk_tool.py BERTH [CASE...]
"""
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

BERTH = os.path.abspath(sys.argv[1])
MIB = 1 << 20
CASES = []


class Skip(Exception):
    pass


def case(function):
    CASES.append(function)
    return function


def disk(*args, status=0):
    done = subprocess.run([BERTH, "disk", *map(str, args)], capture_output=True, text=True, timeout=60)
    assert done.returncode == status, f"berth disk {args}: status {done.returncode}: {done.stdout}{done.stderr}"
    return done.stdout if status == 0 else done.stdout + done.stderr


def disk_json(*args):
    return json.loads(disk(*args, "--json"))


def refuses(words, *args, status=2):
    said = disk(*args, status=status)
    assert words in said, f"berth disk {args} says {said!r}, not {words!r}"


def qemu_img(*args):
    if not shutil.which("qemu-img"):
        raise Skip("qemu-img is not installed (package qemu-utils)")
    return subprocess.run(["qemu-img", *args], check=True, capture_output=True, text=True, timeout=60).stdout


def new_data(name, pieces, size=4 * MIB):
    """A raw image with random bytes at these places."""
    data = bytearray(size)
    for at, length in pieces:
        data[at:at + length] = random.randbytes(length)
    with open(name, "wb") as f:
        f.write(data)
    return bytes(data)


def content(image):
    disk("convert", "-q", "--force", "-O", "raw", image, "content.raw")
    with open("content.raw", "rb") as f:
        return f.read()


@case
def created_images_are_what_was_asked_for():
    disk("create", "a.qcow2", "10G")
    info = disk_json("info", "a.qcow2")
    assert (info["format"], info["version"], info["size_bytes"], info["cluster_bytes"]) == ("qcow2", 3, 10 << 30, 65536)
    disk("create", "--cluster-size", "2M", "--subclusters", "--lazy-refcounts", "--compression", "zstd",
         "--refcount-bits", "8", "b.qcow2", "100M")
    info = disk_json("info", "b.qcow2")
    assert info["subclusters"] and info["lazy_refcounts"] and info["compression"] == "zstd" and info["refcount_bits"] == 8
    disk("create", "-f", "raw", "c.raw", str(4 * MIB))
    assert os.path.getsize("c.raw") == 4 * MIB and disk_json("info", "c.raw")["format"] == "raw"
    disk("create", "--qcow2-version", "2", "d.qcow2", "1T")
    assert disk_json("info", "d.qcow2")["version"] == 2


@case
def nonsense_is_refused_with_words_and_leaves_no_file():
    before = sorted(os.listdir("."))
    refuses("say how large", "create", "x.qcow2")
    refuses("is no size", "create", "x.qcow2", "10X")
    refuses("is no size", "create", "x.qcow2", "9999999999T")
    refuses("multiple of 512", "create", "x.qcow2", "1000")
    refuses("power of two", "create", "--cluster-size", "3000", "x.qcow2", "1M")
    refuses("needs larger clusters", "create", "--cluster-size", "512", "x.qcow2", "1T")
    refuses("subclusters need", "create", "--cluster-size", "4K", "--subclusters", "x.qcow2", "1M")
    refuses("version 2 has none", "create", "--qcow2-version", "2", "--lazy-refcounts", "x.qcow2", "1M")
    refuses("no such options", "create", "-f", "raw", "--lazy-refcounts", "x.raw", "1M")
    refuses("the backing file", "create", "-b", "nowhere", "x.qcow2")
    refuses("no format that can be made", "create", "-f", "floppy", "x.qcow2", "1M")
    refuses("No such file", "info", "nowhere")
    refuses("no option of info", "info", "--shrink", "nowhere")
    refuses("disk does not know", "format", "nowhere")
    assert sorted(os.listdir(".")) == before


@case
def files_that_are_there_are_kept():
    with open("mine", "w") as f:
        f.write("text")
    refuses("is there already", "create", "mine", "1M")
    refuses("not a multiple", "convert", "mine", "other")
    disk("create", "--force", "mine", "1M")
    assert disk_json("info", "mine")["format"] == "qcow2"


@case
def conversions_keep_the_content():
    data = new_data("plain.raw", [(0, 5000), (MIB, 300000), (4 * MIB - 512, 512)])
    for options in ([], ["-c"], ["-c", "--compression", "zstd"], ["--cluster-size", "512"], ["--subclusters"],
                    ["--qcow2-version", "2", "-c"]):
        disk("convert", "--force", *options, "plain.raw", "to.qcow2")
        assert content("to.qcow2") == data, options
        disk("check", "to.qcow2")
    assert os.stat("to.qcow2").st_blocks * 512 < len(data) / 2, "zeros take space"


@case
def images_of_other_programs_are_taken_and_made():
    qemu_img("--version")
    data = new_data("plain.raw", [(0, 5000), (MIB, 300000)])
    for form in ("vmdk", "vdi", "vhdx", "qed"):
        disk("convert", "-O", form, "plain.raw", "other")
        disk("convert", "--force", "other", "back.qcow2")
        assert content("back.qcow2") == data, form
        refuses("convert it", "map", "other", status=1)
        os.unlink("other")
    disk("convert", "-O", "vhd", "plain.raw", "other.vhd")
    disk("convert", "--force", "-O", "raw", "other.vhd", "back.raw")  # a little larger, by its geometry
    with open("back.raw", "rb") as f:
        assert f.read(len(data)) == data


@case
def an_overlay_is_committed_and_rebased():
    base = new_data("base.raw", [(0, 2 * MIB)])
    disk("create", "-b", "base.raw", "over.qcow2")
    info = disk_json("info", "over.qcow2")
    assert (info["backing"], info["backing_format"]) == ("base.raw", "raw")
    assert content("over.qcow2") == base
    changed = bytearray(base)
    changed[MIB:MIB + 8192] = random.randbytes(8192)
    with open("other.raw", "wb") as f:
        f.write(changed)
    # The same content on another file: only what differs is copied.
    disk("rebase", "-b", "other.raw", "over.qcow2")
    assert content("over.qcow2") == base
    extents = disk_json("map", "over.qcow2")
    assert sum(e["length"] for e in extents if e["depth"] == 0 and e["kind"] == "data") == 65536
    # And on none.
    disk("create", "-b", "over.qcow2", "top.qcow2")
    disk("rebase", "top.qcow2")
    assert "backing" not in disk_json("info", "top.qcow2") and content("top.qcow2") == base
    # What the overlay has goes down into the file below, and the overlay is empty.
    disk("commit", "over.qcow2")
    with open("other.raw", "rb") as f:
        assert f.read() == base
    assert content("over.qcow2") == base
    assert not any(e["depth"] == 0 for e in disk_json("map", "over.qcow2"))
    disk("check", "over.qcow2")
    os.rename("other.raw", "moved.raw")
    disk("rebase", "--unsafe", "-b", "moved.raw", "-F", "raw", "over.qcow2")
    assert content("over.qcow2") == base
    refuses("no backing file", "commit", "top.qcow2")


@case
def a_commit_grows_the_file_below():
    data = new_data("base.raw", [(0, MIB)], MIB)
    disk("create", "-b", "base.raw", "over.qcow2", "3M")
    disk("commit", "over.qcow2")
    assert os.path.getsize("base.raw") == 3 * MIB
    assert content("over.qcow2") == data + bytes(2 * MIB)


@case
def sizes_change_by_sign_and_shrink_only_when_told():
    for image, form in (("a.qcow2", "qcow2"), ("a.raw", "raw")):
        disk("create", "-f", form, image, "10M")
        disk("resize", image, "+6M")
        assert disk_json("info", image)["size_bytes"] == 16 * MIB
        refuses("--shrink", "resize", image, "8M")
        refuses("--shrink", "resize", "-q", image, "--", "-8M")
        disk("resize", "--shrink", image, "8M")
        assert disk_json("info", image)["size_bytes"] == 8 * MIB
        refuses("multiple of 512", "resize", image, "+100")


@case
def snapshots_are_listed_applied_and_deleted():
    new_data("plain.raw", [(0, MIB)])
    disk("convert", "plain.raw", "a.qcow2")
    old = content("a.qcow2")
    disk("snapshot", "create", "a.qcow2", "before the change")
    disk("resize", "a.qcow2", "+1M")
    refuses("already", "snapshot", "create", "a.qcow2", "before the change")
    disk("convert", "--snapshot", "before the change", "-O", "raw", "a.qcow2", "then.raw")
    with open("then.raw", "rb") as f:
        assert f.read() == old
    refuses("has no snapshot", "map", "--snapshot", "after", "a.qcow2")
    refuses("only qcow2", "map", "--snapshot", "after", "plain.raw")
    names = [s["name"] for s in disk_json("info", "a.qcow2")["snapshots"]]
    assert names == ["before the change"], names
    assert "before the change" in disk("snapshot", "list", "a.qcow2")
    disk("snapshot", "apply", "a.qcow2", "before the change")
    assert content("a.qcow2") == old
    disk("snapshot", "delete", "a.qcow2", "1")
    refuses("has no snapshot", "snapshot", "delete", "a.qcow2", "1")
    refuses("needs list FILE", "snapshot", "undo", "a.qcow2")
    disk("check", "a.qcow2")


@case
def damage_is_found_and_repaired():
    new_data("plain.raw", [(0, 4 * MIB)])
    disk("convert", "--cluster-size", "4K", "plain.raw", "a.qcow2")
    with open("a.qcow2", "r+b") as f:
        f.seek(48)
        f.seek(int.from_bytes(f.read(8), "big"))
        f.seek(int.from_bytes(f.read(8), "big") + 20)
        f.write(b"\0\7")  # a leak
        f.write(b"\0\0")  # and a count that is too low
    found = json.loads(disk("check", "--json", "a.qcow2", status=1))
    assert found["leaks"] == 1 and found["errors"] >= 1 and len(found["findings"]) >= 2, found
    disk("check", "--repair=leaks", "a.qcow2", status=1)
    assert json.loads(disk("check", "--json", "a.qcow2", status=1))["leaks"] == 0
    disk("check", "--repair=all", "a.qcow2")
    assert "is sound" in disk("check", "a.qcow2")


@case
def an_interrupted_conversion_leaves_nothing():
    new_data("plain.raw", [(0, 64 * MIB)], 64 * MIB)
    before = sorted(os.listdir("."))
    process = subprocess.Popen([BERTH, "disk", "convert", "-c", "plain.raw", "new.qcow2"], stderr=subprocess.PIPE, text=True)
    while not any(name.startswith("new.qcow2.") for name in os.listdir(".")):
        time.sleep(0.005)
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert process.returncode != 0 and "interrupted" in said, said
    assert sorted(os.listdir(".")) == before


@case
def an_image_in_use_is_refused():
    new_data("plain.raw", [(0, 64 * MIB)], 64 * MIB)
    disk("create", "-b", "plain.raw", "over.qcow2")
    with subprocess.Popen([BERTH, "disk", "convert", "-q", "-c", "over.qcow2", "new.qcow2"]) as process:
        while not any(name.startswith("new.qcow2.") for name in os.listdir(".")):
            time.sleep(0.005)
        refuses("in use", "resize", "over.qcow2", "+1M", status=3)
        refuses("in use", "commit", "over.qcow2", status=3)
        refuses("in use", "resize", "plain.raw", "+1M", status=3)
        refuses("in use", "create", "--force", "over.qcow2", "1M", status=3)
        process.wait()


@case
def the_map_is_what_qemu_img_sees():
    new_data("base.raw", [(0, MIB), (3 * MIB, 65536)])
    disk("create", "-b", "base.raw", "mid.qcow2")
    disk("snapshot", "create", "mid.qcow2", "s")
    disk("create", "-b", "mid.qcow2", "-F", "qcow2", "top.qcow2", "5M")
    theirs = json.loads(qemu_img("map", "--output=json", "top.qcow2"))
    ours = disk_json("map", "top.qcow2")

    def data_in(extents, is_data):
        merged = []
        for e in extents:
            if is_data(e):
                if merged and sum(merged[-1]) == e["start"]:
                    merged[-1] = (merged[-1][0], merged[-1][1] + e["length"])
                else:
                    merged.append((e["start"], e["length"]))
        return merged
    assert data_in(ours, lambda e: e["kind"] == "data") == data_in(theirs, lambda e: e["data"])


def main():
    chosen = [c for c in CASES if not sys.argv[2:] or c.__name__ in sys.argv[2:]]
    print(f"1..{len(chosen)}")
    failures = 0
    for number, function in enumerate(chosen, 1):
        result, words = "ok", ""
        with tempfile.TemporaryDirectory(prefix="berth-disk-") as work:
            os.chdir(work)
            try:
                function()
            except Skip as why:
                words = f" # SKIP {why}"
            except Exception as why:
                result, failures = "not ok", failures + 1
                print("# " + f"{type(why).__name__}: {why}"[:2000].replace("\n", "\n# "))
            os.chdir("/")
        print(f"{result} {number} - {function.__name__}{words}", flush=True)
    return failures != 0


if __name__ == "__main__":
    sys.exit(main())
