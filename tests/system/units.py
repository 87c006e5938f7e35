#!/usr/bin/env python3
"""The units for systemd under a real systemd: Berth as it is installed, put into a Debian guest (berth image
build-debian) and started there by the system and by a user.

    units.py [--berth FILE] CASE...

Exit status: 0 all cases passed, 1 some failed, 77 all were skipped.
"""
import glob
import os
import re
import shutil
import subprocess
import sys
import time

import boot
from boot import Failure, Skip
from firmware import Machine, debian_disk, log_in

# Run in the guest. Each end of a manager is one that systemd has to mend, and no VM may notice.
COMMON = r"""
set -eu
trap 'test $? = 0 || { journalctl -b --no-pager | tail -n 60; }' EXIT
PS4='+ '; set -x
vm_pid() { "$@" info --json one | sed -n 's/.*"pid": *\([0-9]*\).*/\1/p' | head -n 1; }
main_pid() { $1 show -p MainPID --value berthd; }
await() { for i in $(seq 90); do if "$@"; then return 0; fi; sleep 1; done; false; }
new_main() { test "$(main_pid "$1")" != 0 && test "$(main_pid "$1")" != "$2"; }
runs() { $1 ls --json | tr -d '\n' | grep -q "\"$2\"[^}]*\"running\""; }
anna() { echo runuser -u anna -- env XDG_RUNTIME_DIR=/run/user/$(id -u anna) HOME=/home/anna; }
"""
SCRIPT = COMMON + r"""
check() { # systemctl, berth, whose process
    await $2 ls
    $2 create -n one -m 16 --kernel /opt/guest --exit-device --autostart
    $2 start one
    runs "$2" one
    vm=$(vm_pid $2)
    first=$(main_pid "$1")
    test "$(ps -o user= -p $first)" = "$3"
    test "$(ps -o user= -p $vm)" = "$3"
    kill -9 $first
    await new_main "$1" $first
    await runs "$2" one
    test "$(vm_pid $2)" = $vm
    $1 restart berthd
    await runs "$2" one
    test "$(vm_pid $2)" = $vm
    $2 pool ls --json | grep control_groups
    $1 stop berthd
    test -d /proc/$vm
    $1 start berthd
    await runs "$2" one
    test "$(vm_pid $2)" = $vm
    $2 create -n gone -m 16 --kernel /opt/guest --exit-device --start
    $2 rm --force gone
    if runs "$2" gone; then false; fi
}

ldconfig
systemd-sysusers
systemctl daemon-reload
systemd-analyze verify --man=no berthd.service
systemctl enable --now berthd
check systemctl "berth --system" berth
journalctl -u berthd | tail -n 5

useradd -m anna
mkdir -p /etc/systemd/system/user@.service.d # what pam_systemd does where there is one
printf '[Service]\nEnvironment=XDG_RUNTIME_DIR=/run/user/%%i\n' > /etc/systemd/system/user@.service.d/runtime.conf
systemctl daemon-reload
loginctl enable-linger anna
await systemctl is-active user@$(id -u anna)
$(anna) systemctl --user enable --now berthd
check "$(anna) systemctl --user" "$(anna) berth" anna

# Sockets are their owners' alone: nobody else gets past the folders, and root sees anna's VMs only as anna.
test "$(stat -c %U:%a /run/berth)" = berth:700
if runuser -u anna -- ls /run/berth; then false; fi
if $(anna) berth --system ls; then false; fi
$(anna) berth ls --json | grep one
find /run/berth /run/user/$(id -u anna)/berth -type s -printf '%u %m %p\n' | tee /tmp/sockets
if grep -v '^berth [67]00 /run/berth\|^anna [67]00 /run/user' /tmp/sockets; then false; fi
echo UNITS-ARE-"FINE"
"""


def installed(opts, work):
    """A tar archive of an installation, with the libraries that it needs, as a disk."""
    build, tree, out = os.path.dirname(os.path.abspath(opts.berth)), os.path.join(work, "tree"), os.path.join(work, "installed.tar")
    done = subprocess.run(["meson", "install", "-C", build, "--no-rebuild", "--strip", "--destdir", tree], capture_output=True, text=True, timeout=600)
    if done.returncode:
        raise Skip("the build is not whole: " + (done.stderr or done.stdout)[-200:])
    programs = [path for path in glob.glob(tree + "/usr/local/bin/*") + glob.glob(tree + "/usr/local/libexec/*") if os.path.isfile(path)]
    libraries = set(re.findall(r"=> (/\S+)", subprocess.run(["ldd", *programs], capture_output=True, text=True, check=False).stdout))
    place = os.path.join(tree, "usr/lib/x86_64-linux-gnu")
    os.makedirs(place)
    for library in libraries:
        shutil.copy(os.path.realpath(library), os.path.join(place, os.path.basename(library)))
    os.makedirs(os.path.join(tree, "opt"))
    shutil.copy(os.path.join(build, "tests/system/guest_obey.multiboot"), os.path.join(tree, "opt/guest"))
    with open(os.path.join(tree, "opt/check"), "w", encoding="ascii") as f:
        f.write(SCRIPT)
    for path, folders, _ in os.walk(tree):
        for folder in folders:
            os.chmod(os.path.join(path, folder), 0o755)
    subprocess.run(["tar", "-C", tree, "--owner=0", "--group=0", "-cf", out, "usr", "opt"], check=True)
    return out


def log_in_patiently(m):
    """On a busy machine login(1) may give up before it has the password."""
    end = m.deadline
    while True:
        m.deadline = min(end, time.monotonic() + 120)
        try:
            return log_in(m)
        except Failure:
            if time.monotonic() >= end or m.child.poll() is not None:
                raise
            m.send("\n")
        finally:
            m.deadline = end


def run(m, command, words):
    begun = m.seen
    m.send(command + "; echo ended-$((40 + 2))\n")
    m.expect("ended-42")
    if words not in m.output[begun:m.seen]:
        raise Failure(m.output[begun:m.seen][-2500:])


def systemd(opts, work):
    """both units: started, killed, restarted and stopped under systemd, while their VMs run on"""
    if not shutil.which("meson"):
        raise Skip("there is no meson to install with")
    archive, image = installed(opts, work), debian_disk(opts, work)
    with Machine(opts, work, image, "-m", "1024", "--disk", archive + ",read-only") as m:
        log_in_patiently(m)
        run(m, "tar -xf /dev/vdb -C / --skip-old-files --keep-directory-symlink && bash /opt/check", "UNITS-ARE-FINE")
        m.send("poweroff\n")
        m.expect_status(0)


if __name__ == "__main__":
    boot.CASES = [systemd]
    boot.__doc__ = __doc__
    sys.exit(boot.main())
