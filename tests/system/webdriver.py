"""A browser driven by WebDriver (W3C), with nothing but Python's own library: headless Chromium by
Debian's chromedriver."""
import base64
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"


def missing():
    """The programs that are not there."""
    return [name for name in ("chromium", "chromedriver") if not shutil.which(name)]


class Browser:
    def __init__(self, folder, size=(1280, 900)):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.at = f"http://127.0.0.1:{port}"
        self.driver = subprocess.Popen(["chromedriver", f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", f"--window-size={size[0]},{size[1]}",
                     f"--user-data-dir={folder}/chromium", "--ignore-certificate-errors", "--force-device-scale-factor=1"]
        capabilities = {"alwaysMatch": {"browserName": "chrome", "acceptInsecureCerts": True, "goog:loggingPrefs": {"browser": "ALL"},
                                        "goog:chromeOptions": {"args": arguments}}}
        for _ in range(100):
            try:
                self.session = None
                self.session = self.call("POST", "/session", {"capabilities": capabilities})["sessionId"]
                break
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.2)
        assert self.session, "chromedriver does not answer"

    def call(self, method, path, body=None):
        at = self.at + (f"/session/{self.session}" if self.session else "") + path
        data = json.dumps(body if body is not None else {}).encode() if method == "POST" else None
        request = urllib.request.Request(at, data, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise RuntimeError(json.load(error)["value"]["message"][:400]) from None

    def go(self, url):
        self.call("POST", "/url", {"url": url})

    def run(self, script, *args):
        """The value of a JavaScript function's body."""
        return self.call("POST", "/execute/sync", {"script": script, "args": list(args)})

    def find(self, css):
        return self.call("POST", "/element", {"using": "css selector", "value": css})[ELEMENT]

    def click(self, css):
        self.wait(f"there is {css} to click", "return [...document.querySelectorAll(arguments[0])].some(e => !e.disabled)", css)
        for _ in range(20):  # the page may replace what was found before it is clicked
            try:
                return self.call("POST", f"/element/{self.find(css)}/click", {})
            except RuntimeError as error:
                if "stale element" not in str(error) and "no such element" not in str(error):
                    raise
        raise TimeoutError(f"{css} changes all the time")

    def type(self, css, text):
        self.call("POST", f"/element/{self.find(css)}/value", {"text": text})

    def keys(self, text):
        """Types into what has the focus."""
        actions = [{"type": kind, "value": key} for key in text for kind in ("keyDown", "keyUp")]
        self.call("POST", "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]})

    def wait(self, what, script, *args, timeout=60):
        """Until a function's body is true."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            value = self.run(script, *args)
            if value:
                return value
            time.sleep(0.3)
        raise TimeoutError(f"waited {timeout} seconds in vain: {what}")

    def log(self):
        return [entry for entry in self.call("POST", "/se/log", {"type": "browser"}) if entry["level"] == "SEVERE"]

    def picture(self, path):
        with open(path, "wb") as file:
            file.write(base64.b64decode(self.call("GET", "/screenshot")))

    def close(self):
        try:
            self.call("DELETE", "")
        finally:
            self.driver.terminate()
            self.driver.wait(20)
