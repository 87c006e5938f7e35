#!/usr/bin/env python3
"""What `berth info` and `berth run` say where KVM cannot be used: a preloaded library fakes /dev/kvm.

usage: engines.py BERTH VMM GUEST FAKE    prints TAP; GUEST ends by itself
"""
import grp
import json
import os
import re
import subprocess
import sys

BERTH, VMM, GUEST, FAKE = sys.argv[1:5]


def berth(fake, *args, group=0):
    env = dict(os.environ, LD_PRELOAD=FAKE, FAKE_KVM=fake, FAKE_KVM_GROUP=str(group))
    return subprocess.run([BERTH, *args], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL, env=env)


def cpu_virtualizes():
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as f:
        return re.search(r"^flags.*\b(vmx|svm)\b", f.read(), re.M) is not None


def check_refused(fake, reasons, *words, group=0):
    """info, its JSON and the refusal of --engine kvm say the same; auto takes the translator and does not ask."""
    info = json.loads(berth(fake, "info", "--json", group=group).stdout)
    kvm = next(e for e in info["engines"] if e["name"] == "kvm")
    assert not kvm["usable"] and kvm["reason"] in reasons, kvm
    text = berth(fake, "info", group=group).stdout
    refusal = berth(fake, "run", "--engine", "kvm", "--kernel", GUEST, group=group)
    assert refusal.returncode == 3 and refusal.stderr.count("\n") == 1, refusal
    for word in words:
        assert word in kvm["why"] + kvm["fix"], kvm
        assert word in text, text
        assert word in refusal.stderr, refusal.stderr


def absent_device():
    check_refused("absent", ("absent", "no-virtualization"), "there is no /dev/kvm")


def absent_device_in_a_container():
    check_refused("container", ("container",), "this container has no /dev/kvm", "--device /dev/kvm")


def missing_permission_names_the_group():
    group = max(grp.getgrall(), key=lambda g: g.gr_gid)
    check_refused("denied", ("permission",), f"usermod -aG {group.gr_name} ", group=group.gr_gid)


def device_with_nothing_behind_it():
    check_refused("nothing", ("absent",), "nothing is behind it", "modprobe")


def old_kernels():
    check_refused("version", ("old-kernel",), "version 11")
    check_refused("lacks", ("old-kernel",), "KVM_CAP_SREGS2", "5.14")


def device_that_opens_without_virtualization():
    if cpu_virtualizes():
        return "this CPU has VT-x or AMD-V"
    return check_refused("trap", ("no-virtualization",), "neither VT-x nor AMD-V", "nested")


def another_hypervisor_holds_the_cpu():
    options = ("--debug", "any-kvm", "--exit-device", "--no-reboot", "--kernel", GUEST)
    refusal = berth("busy", "run", "--engine", "kvm", *options)
    assert refusal.returncode == 3 and "VirtualBox" in refusal.stderr, refusal
    fallen_back = berth("busy", "run", "--engine", "auto", "--json", *options)
    started = [json.loads(line) for line in fallen_back.stdout.splitlines() if '"started"' in line]
    assert started and started[0]["engine"] == "translate", fallen_back
    if cpu_virtualizes():
        check_refused("busy", ("busy",), "VirtualBox")


TESTS = [absent_device, absent_device_in_a_container, missing_permission_names_the_group, device_with_nothing_behind_it,
         old_kernels, device_that_opens_without_virtualization, another_hypervisor_holds_the_cpu]


def main():
    if b"__asan_init" in open(VMM, "rb").read():
        print("1..0 # SKIP a sanitizer's run-time must be loaded first")
        return 77
    print(f"1..{len(TESTS)}")
    failed = 0
    for number, test in enumerate(TESTS, 1):
        try:
            skipped = test()
            print(f"ok {number} - {test.__name__}" + (f" # SKIP {skipped}" if skipped else ""))
        except (AssertionError, subprocess.TimeoutExpired) as e:
            failed += 1
            print(f"not ok {number} - {test.__name__}\n" + "\n".join("# " + line for line in str(e).splitlines()))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
