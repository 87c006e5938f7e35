#!/usr/bin/env python3
"""web.py BERTH GUEST [--pictures FOLDER] [CASE...]: the web page in headless Chromium, over TLS with a token,
as a person uses it: creates, starts, types, looks, stops and removes. GUEST is the multiboot file of obey.c;
the guest with an agent is Debian's cloud kernel with a busybox."""
import os
import sys

import boot
import tap
import webdriver
from berthd import Manager, run_all

BERTH, GUEST = sys.argv[1], os.path.abspath(sys.argv[2])
PICTURES = sys.argv[sys.argv.index("--pictures") + 1] if "--pictures" in sys.argv else None
TESTS = []
GUEST_INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t devtmpfs dev /dev
while :; do sleep 1000; done
"""
STATE = "return document.querySelector('.head .state')?.textContent === arguments[0]"


def test(function):
    TESTS.append(function)
    return function


class Page:
    def __init__(self):
        self.m = Manager(BERTH)
        self.at = f"https://127.0.0.1:{self.m.port}/"
        self.b = webdriver.Browser(self.m.folder)

    def clear(self):
        self.m.clear()

    def picture(self, name):
        if PICTURES:
            self.b.picture(f"{PICTURES}/{name}.png")

    def go(self, place):
        self.b.go(self.at + place)

    def close(self):
        self.b.close()
        self.m.close()


@test
def it_asks_for_a_token_and_refuses_a_wrong_one(p):
    p.go("")
    p.b.wait("a place for a token", "return document.querySelector('input[name=token]') !== null")
    p.b.type("input[name=token]", "wrong")
    p.b.click("form button.main")
    p.b.wait("words", "return document.querySelector('.error').textContent.includes('no valid token')")
    p.picture("sign-in")
    token = p.m.token("person")
    p.b.run("document.querySelector('input[name=token]').value = ''")
    p.b.type("input[name=token]", token)
    p.b.click("form button.main")
    p.b.wait("the list", "return document.querySelector('#new') !== null")
    assert token not in p.b.run("return document.documentElement.outerHTML + location.href + document.cookie")


@test
def a_machine_is_created_and_started(p):
    p.b.click("#new")
    p.b.wait("the form", "return document.querySelector('input[name=kernel]') !== null")
    p.b.type("input[name=name]", "shell-1")
    p.b.type("input[name=kernel]", GUEST)
    p.b.run("document.querySelector('input[name=memory]').value = '32'")
    p.b.run("document.querySelector('input[name=screen]').checked = false")
    p.picture("create")
    p.b.click("#create")
    p.b.wait("it runs", "return document.querySelector('[data-vm=shell-1] .state')?.textContent === 'running'")
    assert p.m.ask("GET", "/vms/shell-1")["state"] == "running"


@test
def its_console_shows_and_takes_text(p):
    text = "return (await import('/console.js')).shown()"
    p.go("#/vm/shell-1")
    p.b.wait("what the guest said", text + ".includes('# ready')")
    p.b.wait("the focus", "return document.activeElement.className.includes('xterm')")
    p.b.keys("hi")
    p.b.wait("its answer", text + ".includes('<h><i>')")
    p.picture("console")


@test
def its_plots_move(p):
    def points():
        return p.b.run("const c = document.querySelector('.plot canvas'); const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
                       "let sum = 0; for (let i = 0; i < d.length; i++) sum = (sum * 31 + d[i]) % 1000003; return sum")
    p.b.wait("figures", "return document.querySelector('[data-plot=cpu]').textContent.endsWith('%')")
    p.b.wait("memory", "return /[1-9].* MiB/.test(document.querySelector('[data-plot=memory]').textContent)")
    first = points()
    p.b.wait("another picture", "const c = document.querySelector('.plot canvas'); const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
             "let sum = 0; for (let i = 0; i < d.length; i++) sum = (sum * 31 + d[i]) % 1000003; return sum !== arguments[0]", first)
    p.b.wait("what it takes, since it polls its serial port", "return parseFloat(document.querySelector('[data-plot=cpu]').textContent) > 0")
    for plot, words in (("disk", "written"), ("network", "out")):
        p.b.wait(plot, "return /\\d.*B\\/s/.test(document.querySelector(arguments[0]).textContent) && document.querySelector(arguments[0]).textContent.includes(arguments[1])",
                 f"[data-plot={plot}]", words)


@test
def it_is_paused_resumed_and_stopped(p):
    for button, state in (("pause", "paused"), ("resume", "running"), ("force off", "stopped"), ("start", "running"), ("force off", "stopped")):
        p.b.click(f".head [data-do='{button}']")
        if button == "force off":
            p.b.wait(button, "const s = document.querySelector('.head .state')?.textContent; return s === 'stopped' || s === 'failed'")
        else:
            p.b.wait(state, STATE, state)
    assert p.m.ask("GET", "/vms/shell-1")["pid"] == 0


@test
def a_screen_is_shown(p):
    disk = p.m.boot_disk("Berth: a machine of its own")
    p.m.ask("POST", "/vms", {"name": "desk-1", "definition": {"memory_mib": 64, "disks": [{"path": disk}]}})
    p.m.ask("POST", "/vms/desk-1/start")
    p.go("#/vm/desk-1")
    p.b.wait("it runs", STATE, "running")
    p.b.click("[data-tab=screen]")
    p.b.wait("light on the screen", "const c = document.querySelector('.screen canvas'); if (!c || c.width < 300) return false;"
             "const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
             "let lit = 0; for (let i = 0; i < d.length; i += 4) lit += d[i] > 100; return lit > 300")
    p.picture("screen")


@test
def commands_run_in_a_guest_with_an_agent(p):
    try:
        kernel = boot.kernel("cloud")
        initrd = boot.initramfs(p.m.folder, GUEST_INIT, "talks")
    except boot.Skip as why:
        raise tap.Skip(str(why)) from None
    p.m.verb("create", "-n", "talks", "--engine", "translate", "--agent", "--kernel", kernel, "--initrd", initrd, "--append",
             "console=ttyS0 panic=-1 random.trust_cpu=on quiet", "--start")
    p.go("#/vm/talks")
    p.b.wait("it runs", STATE, "running")
    p.b.click("[data-tab=commands]")  # which waits for the agent
    p.b.wait("a place for commands", "return document.querySelector('input[name=command]') !== null", timeout=400)

    def answer(command):
        before = p.b.run("return document.querySelectorAll('.said > div').length")
        p.b.type("input[name=command]", command)
        p.b.click("form.line button.main")
        p.b.wait(f"an answer to {command}", "return document.querySelectorAll('.said > div').length > arguments[0]", before)
        return p.b.run("const d = document.querySelector('.said > div'); const text = css => [...d.querySelectorAll(css)].map(e => e.textContent);"
                       "return {command: text('strong')[0], out: text('pre:not(.error)')[0] ?? '', errors: text('.error')[0] ?? '', end: text('p.soft')[0] ?? ''}")

    assert answer("echo 'two  words' <b>") == {"command": "# echo 'two  words' <b>", "out": "two  words <b>\n", "errors": "", "end": ""}
    assert answer("sh -c 'echo no >&2; exit 3'") == {"command": "# sh -c 'echo no >&2; exit 3'", "out": "", "errors": "no\n", "end": "status 3"}
    assert answer("sh -c 'kill -9 $$'")["end"] == "ended by signal 9"
    assert "no-such-program" in answer("no-such-program")["errors"]
    p.picture("commands")
    p.m.ask("DELETE", "/vms/talks?force=true")
    p.go("#/")
    p.b.wait("the list without it", "return document.querySelector('#new') && !document.querySelector('[data-vm=talks]')")


@test
def other_views_show_what_there_is(p):
    p.m.ask("POST", "/vms", {"name": "mail", "definition": {"memory_mib": 32, "kernel": GUEST, "nics": [{"network": "default"}]}})
    p.go("#/networks")
    p.b.wait("the network", "return document.querySelector('main').textContent.includes('default') && document.querySelector('main').textContent.includes('mail')")
    p.picture("networks")
    p.go("#/pools")
    p.b.wait("the pool of all", "return document.querySelector('main table')?.textContent.includes('host')")
    p.picture("pools")
    p.go("#/events")
    p.b.wait("what happened", "return document.querySelector('.log')?.textContent.includes('created')")
    p.m.ask("POST", "/vms/mail/start")
    p.b.wait("what happens now", "return [...document.querySelector('.log').children].some(line => line.textContent.includes('mail') && line.textContent.includes('running'))")
    p.picture("events")
    p.go("#/")
    p.b.wait("all three", "return document.querySelectorAll('tbody tr').length === 3")
    p.b.wait("figures", "return document.querySelector('[data-vm=desk-1]').textContent.includes('%')")
    p.picture("machines")


@test
def networks_are_made_changed_and_removed(p):
    names = lambda: {n["name"]: n for n in p.m.ask("GET", "/networks")["networks"]}
    p.go("#/networks")
    p.b.wait("the button", "return document.querySelector('#new') !== null")
    p.b.click("#new")
    p.b.wait("the form", "return document.querySelector('input[name=network]') !== null")
    p.b.type("input[name=network]", "lab")
    p.b.run("document.querySelector('select[name=kind]').value = 'private'")
    p.b.click("#save")
    p.b.wait("its row", "return document.querySelector('[data-do=\"change lab\"]') !== null")
    assert names()["lab"]["kind"] == "private", names()
    p.b.click("[data-do='change lab']")
    p.b.wait("the form", "return document.querySelector('input[name=mtu]') !== null")
    p.b.run("document.querySelector('input[name=mtu]').value = '1400'; document.querySelector('input[name=isolated]').checked = true")
    p.b.click("#save")
    p.b.wait("the form's end", "return !document.querySelector('#dialog').open")
    assert names()["lab"]["mtu"] == 1400 and names()["lab"]["isolated"] and names()["lab"]["kind"] == "private", names()
    p.b.click("[data-do='change lab']")
    p.b.run("document.querySelector('input[name=subnet]').value = 'nonsense'")
    p.b.click("#save")
    p.b.wait("why not", "return document.querySelector('#dialog .error').textContent.includes('subnet')")
    p.picture("network")
    p.b.click("#dialog .actions button[type=button]")
    p.b.click("[data-do='remove lab']")
    p.b.click("#really-remove")
    p.b.wait("the list without it", "return document.querySelector('[data-do=\"change lab\"]') === null")
    assert "lab" not in names()


@test
def pools_are_made_changed_and_removed(p):
    pools = lambda: {n["pool"]: n for n in p.m.ask("GET", "/pools")["pools"]}
    p.go("#/pools")
    p.b.wait("the pools", "return document.querySelector('[data-do=\"change host\"]') !== null")
    p.b.click("#new")
    p.b.wait("the form", "return document.querySelector('input[name=pool]') !== null")
    p.b.type("input[name=pool]", "batch")
    p.b.run("document.querySelector('input[name=cpu_limit]').value = '0.5'; document.querySelector('input[name=memory_limit]').value = '512'")
    p.b.click("#save")
    p.b.wait("its row", "return document.querySelector('[data-do=\"change batch\"]') !== null")
    assert pools()["batch"]["cpu_limit"] == 500 and pools()["batch"]["memory_limit"] == 512 << 20, pools()
    p.b.click("[data-do='change batch']")
    p.b.wait("the form", "return document.querySelector('input[name=cpu_shares]') !== null")
    p.b.run("document.querySelector('input[name=cpu_shares]').value = '250'; document.querySelector('input[name=cpu_limit]').value = ''")
    p.b.click("#save")
    p.b.wait("the form's end", "return !document.querySelector('#dialog').open")
    assert pools()["batch"]["cpu_shares"] == 250 and not pools()["batch"].get("cpu_limit") and pools()["batch"]["memory_limit"] == 512 << 20, pools()
    p.picture("pool")
    p.b.click("[data-do='remove batch']")
    p.b.click("#really-remove")
    p.b.wait("the list without it", "return document.querySelector('[data-do=\"change batch\"]') === null")
    assert "batch" not in pools()


@test
def a_machine_is_removed(p):
    p.go("#/vm/shell-1")
    p.b.click(".head [data-do=remove]")
    p.b.click("#really-remove")
    p.b.wait("the list without it", "return document.querySelector('#new') && !document.querySelector('[data-vm=shell-1]')")
    assert all(vm["name"] != "shell-1" for vm in p.m.ask("GET", "/vms")["vms"])


@test
def nothing_was_refused_by_its_own_policy(p):
    words = [entry["message"] for entry in p.b.log()]
    asked_for = ("status of 401", "/networks/lab - Failed to load resource: the server responded with a status of 400",
                 "/exec - Failed to load resource: the server responded with a status of 422", "favicon")
    bad = [text for text in words if not any(known in text for known in asked_for)]
    assert not bad, bad


def main():
    missing = webdriver.missing()
    if missing:
        print(f"1..0 # SKIP there is no {' and no '.join(missing)}; tools/install-packages test brings Chromium")
        return 0
    if not os.path.exists("/usr/share/novnc/core/rfb.js"):
        print("1..0 # SKIP there is no noVNC; tools/install-packages run brings it")
        return 0
    page = Page()
    only = [word for word in sys.argv[3:] if word != "--pictures" and word != PICTURES]
    try:
        return run_all(TESTS, page, only, keep=True)
    finally:
        page.close()


if __name__ == "__main__":
    sys.exit(main())
