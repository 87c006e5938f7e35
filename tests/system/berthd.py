"""A berthd of a test's own, with an inventory, a runtime directory and a port of its own."""
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time

import tap
from http_client import Client, once

# Writes its words by the BIOS and stops.
BOOT_SECTOR = bytes.fromhex("31c08ed8be157cac84c07406b40ecd10ebf5f4ebfd")


class Manager:
    def __init__(self, berth):
        self.berth = os.path.abspath(berth)
        self.folder = tempfile.mkdtemp(prefix="berthd-")
        for name in ("run", "data"):
            os.mkdir(f"{self.folder}/{name}", 0o700)
        self.environment = {**os.environ, "XDG_RUNTIME_DIR": self.folder + "/run", "XDG_DATA_HOME": self.folder + "/data"}
        self.environment.pop("BERTH_MANAGER", None)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.local = self.folder + "/run/berth/manager/berthd/http.sock"
        self.tls = ("127.0.0.1", self.port, self.folder + "/data/berth/tls-certificate.pem")
        self.process = None
        self.begin()

    def begin(self):
        with open(self.folder + "/log", "ab") as log:
            self.process = subprocess.Popen([os.path.join(os.path.dirname(self.berth), "berthd"), "--listen", f"127.0.0.1:{self.port}"],
                                            env=self.environment, stderr=log)
        end = time.monotonic() + 30
        while time.monotonic() < end:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                time.sleep(0.05)
        with open(self.folder + "/log", encoding="utf-8") as log:
            raise AssertionError("berthd does not listen: " + log.read())

    def verb(self, *words, status=0):
        done = subprocess.run([self.berth, *words], env=self.environment, capture_output=True, text=True, timeout=60,
                              stdin=subprocess.DEVNULL)
        assert status is None or done.returncode == status, (words, done.returncode, done.stdout, done.stderr)
        return done.stdout

    def ask(self, method, path, body=None, status=200):
        """Over the Unix socket."""
        client = Client(self.local, timeout=90)
        reply = client.ask(method, "/v1" + path, body)
        client.close()
        assert reply.status == status, (method, path, reply.status, reply.body)
        return reply.json()

    def token(self, name, role="operator"):
        return self.ask("POST", "/tokens", {"name": name, "role": role})["token"]

    def metrics(self):
        return once(self.local, "GET", "/metrics").body.decode()

    def boot_disk(self, words):
        """A disk that says some words on the screen."""
        path = f"{self.folder}/boot.img"
        with open(path, "wb") as file:
            file.write((BOOT_SECTOR + words.encode() + b"\0").ljust(510, b"\0") + b"\x55\xaa" + bytes(1 << 20))
        return path

    def clear(self):
        """Removes all VMs."""
        for vm in self.ask("GET", "/vms")["vms"]:
            self.ask("DELETE", f"/vms/{vm['id']}?force=true")

    def close(self):
        try:
            self.clear()
        finally:
            self.process.terminate()
            status = self.process.wait(30)
            shutil.rmtree(self.folder)
        assert status == 0, f"berthd ended with {status}"


def run_all(tests, context, only, keep=False):
    """Prints TAP; the exit status. keep: a test goes on where the one before it ended, though it failed."""
    return tap.run(tests, only, lambda test: test(context), (lambda: None) if keep else context.clear)
