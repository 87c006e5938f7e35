#!/usr/bin/env python3
"""How exactly what VMs take of the host's CPUs is divided: one window of each, with no second try, on one CPU.

    bench/resources.py [--build DIR] [--seconds N] [--json FILE]

Shares 1:2:4, limits of a VM and of a pool, a reservation against a flood, and a share that changes, which has
a second to take effect. Prints what was measured, what was wanted and how far apart they are; the aim is 5 %.
The parts are of what the VMs got together, so that other work on the host matters little; limits need that it
leaves them the CPU.
"""
import argparse
import json
import os
import sys
import time

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
AIM = 0.05

options = argparse.ArgumentParser(description="How exactly CPU time is divided.")
options.add_argument("--build", default=os.path.join(TOP, "build"), help="the build's folder")
options.add_argument("--seconds", type=float, default=20, help="of each window")
options.add_argument("--json", help="the figures go into this file, too")
asked = options.parse_args()
sys.argv = ["resources", os.path.join(asked.build, "berth"), os.path.join(asked.build, "tests/system/guest_worker")]
sys.path.insert(0, os.path.join(TOP, "tests/system"))
from resources import Host, Window, cpu_seconds, start_working  # noqa: E402 pylint: disable=wrong-import-position

figures = []


def note(what, got, want):
    figures.append({"what": what, "got": got, "wanted": want, "off": got / want - 1})
    print(f"{what:<44} {got:8.4f} {want:8.4f} {got / want - 1:+7.1%}", flush=True)


def parts(what, vms, wanted):
    window = Window(vms, asked.seconds)
    for vm, used, count, want in zip(vms, window.used, window.counts, wanted):
        note(f"{what}: {vm.name}'s CPU time", used / sum(window.used), want / sum(wanted))
        note(f"{what}: {vm.name}'s work", count / sum(window.counts), want / sum(wanted))


def shares():
    with Host() as host:
        host.start_manager()
        vms = [host.worker(name) for name in ("one", "two", "four")]
        for vm, n in zip(vms, (100, 200, 400)):
            host.ask("share", vm=vm.name, cpu_shares=n)
        start_working(vms)
        parts("shares 1:2:4", vms, (1, 2, 4))
        host.ask("share", vm="one", cpu_shares=400)
        time.sleep(1)
        parts("a second after they became 4:2:4", vms, (4, 2, 4))


def reservation():
    with Host() as host:
        host.start_manager()
        vms = [host.worker(name) for name in ("kept", "w", "x", "y", "z")]
        for vm in vms[1:]:
            host.ask("share", vm=vm.name, cpu_shares=1000)
        host.ask("share", vm="kept", cpu_shares=100, cpu_reservation=500)
        start_working(vms)
        window = Window(vms, asked.seconds)
        note("half a CPU reserved, four flood", window.used[0] / sum(window.used), 0.5)


def limits():
    with Host() as host:
        host.start_manager()
        vms = [host.worker(name) for name in ("a", "b")]
        vms[0].say("w")
        for millis in (300, 100, 30):
            vms[0].control.ask("cpu", limit=millis)
            time.sleep(1)
            window = Window(vms[:1], asked.seconds, cpu_seconds)
            note(f"a VM limited to {millis / 10:g} %", window.used[0] / window.took, millis / 1000)
        vms[0].control.ask("cpu", limit=0)
        host.ask("pool-create", pool="small", cpu_limit=200)
        for vm in vms:
            host.ask("share", vm=vm.name, pool="small")
        host.ask("share", vm="a", cpu_shares=300)
        start_working(vms)
        window = Window(vms, asked.seconds, cpu_seconds)
        note("a pool limited to 20 %", sum(window.used) / window.took, 0.2)
        note("its VM with three of four shares", window.used[0] / window.took, 0.15)


shares()
reservation()
limits()
worst = max(abs(figure["off"]) for figure in figures)
print(f"at most {worst:.1%} off")
if asked.json:
    with open(asked.json, "w", encoding="utf-8") as out:
        json.dump(figures, out, indent=1)
sys.exit(worst > AIM)
