#!/usr/bin/env python3
"""web.py BERTH GUEST [--pictures FOLDER] [CASE...]: the web page in headless Chromium, over TLS with a token,
as a person uses it: creates, starts, types, looks, stops and removes. GUEST is the multiboot file of obey.c."""
import os
import sys

import webdriver
from berthd import Manager, run_all

BERTH, GUEST = sys.argv[1], os.path.abspath(sys.argv[2])
PICTURES = sys.argv[sys.argv.index("--pictures") + 1] if "--pictures" in sys.argv else None
TESTS = []
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
    assert p.b.run("return parseFloat(document.querySelector('[data-plot=cpu]').textContent)") > 1  # it polls its serial port


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
def a_machine_is_removed(p):
    p.go("#/vm/shell-1")
    p.b.click(".head [data-do=remove]")
    p.b.click("#really-remove")
    p.b.wait("the list without it", "return document.querySelector('#new') && !document.querySelector('[data-vm=shell-1]')")
    assert all(vm["name"] != "shell-1" for vm in p.m.ask("GET", "/vms")["vms"])


@test
def nothing_was_refused_by_its_own_policy(p):
    words = [entry["message"] for entry in p.b.log()]
    bad = [text for text in words if "status of 401" not in text and "favicon" not in text]
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
