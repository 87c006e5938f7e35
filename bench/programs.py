"""The programs that bench/run.py runs as a whole, on the host and in guests: what they need and how they are started.

The host's own programs with their libraries, in one folder with their input, started by one shell script. bench/guest times
those that do a fixed amount of work; `openssl speed` measures itself.
"""
import os
import re
import shutil
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))

# name: command. DATA is 5 MB of an ordinary library.
COMMANDS = {
    "gzip": "bench --time gzip gzip -n6c data",
    "xz": "bench --time xz xz -3 -c data",
    "lua": "bench --time lua lua5.4 mix.lua",
    "luajit": "bench --time luajit luajit jit.lua",
    "sqlite": "bench --time sqlite sqlite3 '' '.read mix.sql'",
    "cc1": "bench --time cc1 cc1 -quiet -fpreprocessed -O2 in.i -o -",
    "openssl-sha256": "openssl speed -elapsed -mr -seconds 2 -bytes 8192 -evp sha256",
    "openssl-aes": "openssl speed -elapsed -mr -seconds 2 -bytes 8192 -evp aes-256-cbc",
    "openssl-rsa": "openssl speed -elapsed -mr -seconds 2 rsa2048",
}
PROGRAMS = ("gzip", "xz", "lua5.4", "luajit", "sqlite3", "openssl")


def libraries(program):
    """What the program is linked with, as (source, target)."""
    ldd = subprocess.run(["ldd", program], capture_output=True, text=True).stdout
    return [(path, path.lstrip("/")) for path in re.findall(r"(/\S+)", ldd)]


def program_files(name):
    """A program of the host with its libraries, as (source, target)."""
    program = shutil.which(name)
    if not program:
        sys.exit(f"bench: {name} is not installed; try: tools/install-packages bench")
    return [(program, "bin/" + name)] + libraries(program)


def chosen(names):
    """The programs among the benchmarks asked for: all if none are named."""
    return [name for name in COMMANDS if not names or name in names]


def prepare(work, bench, names):
    """Makes the folder of input and script. Returns it and the files that a guest needs, as (source, target)."""
    folder = os.path.join(work, "programs")
    os.makedirs(folder)
    for name in ("mix.lua", "jit.lua", "mix.sql"):
        shutil.copy(os.path.join(HERE, "programs", name), folder)
    shutil.copy(next(path for path, _ in program_files("openssl") if "libcrypto" in path), os.path.join(folder, "data"))
    source = os.path.join(HERE, "guest/compute.c")
    subprocess.run(["gcc", "-E", "-O2", source, "-o", os.path.join(folder, "in.i")], check=True)
    with open(os.path.join(folder, "script"), "w") as f:
        f.write("".join(COMMANDS[name] + " 2> /dev/null\n" for name in names))
    cc1 = subprocess.run(["gcc", "-print-prog-name=cc1"], capture_output=True, text=True).stdout.strip()
    files = [(bench, "bin/bench"), (cc1, "bin/cc1")] + libraries(cc1)
    for program in PROGRAMS:
        files += program_files(program)
    os.makedirs(os.path.join(work, "bin"))
    for path, target in files:  # the host runs them by the same names
        if target.startswith("bin/"):
            os.symlink(path, os.path.join(work, target))
    return folder, files + [(os.path.join(folder, f), "programs/" + f) for f in os.listdir(folder)]


def run_natively(work, folder):
    """What the script prints on the host."""
    path = os.path.join(work, "bin") + ":" + os.environ["PATH"]
    return subprocess.run(["sh", "script"], cwd=folder, env=dict(os.environ, PATH=path), capture_output=True,
                          text=True).stdout


def parse_speed(text):
    """What `openssl speed -mr` measured, as name and seconds: for a gigabyte, for a thousand signatures."""
    out = {}
    for name, rate in re.findall(r"\+F:\d+:(\S+):([\d.]+)", text):
        out["sha256" if name == "sha256" else "aes"] = 1e9 / float(rate)
    for sign, verify in re.findall(r"\+F2:\d+:\d+:([\d.]+):([\d.]+)", text):
        out["rsa-sign"], out["rsa-verify"] = 1e3 / float(sign), 1e3 / float(verify)
    return out
