"""What Landlock and seccomp take away, each tried in a process of its own with a control."""

import subprocess
import sys
from pathlib import Path

import pytest

TRIES = {
    "unshare": "linux.unshare(linux.Namespace.USER)",
    "mount": "linux.tmpfs('/mnt', size=4096, inodes=1)",
    "internet": "socket.socket(socket.AF_INET)",
    "netlink": "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
    "ptrace": "linux.call('ptrace', 0, 0, 0, 0)",
    "clone": "linux.system_call(lockdown.CLONE[column], NEW_USER, 0, 0, 0, 0) or os._exit(0)",
    "clone3": "linux.system_call(lockdown.CLONE3[column], 0, 0)",
    "shmget": "linux.call('shmctl', denied('shmget', 0, 4096, 0o1600), 0, None)",
    "msgget": "linux.call('msgctl', denied('msgget', 0, 0o1600), 0, None)",
    "semget": "linux.call('semctl', denied('semget', 0, 1, 0o1600), 0, 0)",
    "mq_open": "[denied('mq_open', QUEUE, 0o102, 0o600, None), unlink_queue()]",
    "keyctl": "linux.system_call(lockdown.DENIED['keyctl'][column], 0, -3, 1)",
}
DENIED = dict.fromkeys(TRIES, "PermissionError") | {"clone3": "OSError 38"}
HARMLESS = """
import subprocess, threading, multiprocessing, socket
socket.socketpair()
thread = threading.Thread(target=print)
thread.start(); thread.join()
subprocess.run([sys.executable, "-c", ""], check=True)
"""
SETUP = """
import os, socket, sys
from grader.box import linux, lockdown
NEW_USER = 0x10000000 | 17
QUEUE, MQ_UNLINK = b"grader-test-%d" % os.getpid(), (241, 181)
column = lockdown.MACHINES[os.uname().machine][0]
def denied(name, *arguments):
    return linux.system_call(lockdown.DENIED[name][column], *arguments)
def unlink_queue():
    linux.system_call(MQ_UNLINK[column], QUEUE)
"""
REPORT = """
try:
    {action}
    print("allowed")
except PermissionError:
    print("PermissionError")
except OSError as error:
    print("OSError", error.errno)
"""


def outcome(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", SETUP + code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1] if done.stdout.strip() else ""


@pytest.mark.parametrize("name", TRIES)
def test_a_system_call_no_answer_needs_is_denied(name: str) -> None:
    tried = REPORT.format(action=TRIES[name])
    assert outcome("assert lockdown.deny_system_calls()\n" + tried) == DENIED[name]
    assert outcome(tried) != DENIED[name]


def test_what_answers_need_still_works() -> None:
    assert outcome(f"lockdown.deny_system_calls()\n{HARMLESS}\nprint('fine')") == "fine"


@pytest.mark.parametrize(
    ("action", "after"),
    [
        ("open('{tmp}/read/a').read()", "allowed"),
        ("open('{tmp}/read/b', 'w')", "PermissionError"),
        ("open('{tmp}/write/b', 'w')", "allowed"),
        ("open('{tmp}/other/a').read()", "PermissionError"),
        ("os.listdir('{tmp}')", "PermissionError"),
        ("os.rename('{tmp}/write/a', '{tmp}/write/c')", "allowed"),
        ("os.truncate('{tmp}/read/a', 0)", "PermissionError"),
    ],
)
def test_only_named_paths_are_reached(tmp_path: Path, action: str, after: str) -> None:
    for folder in ("read", "write", "other"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a").write_text("text")
    restrict = f"assert lockdown.restrict_paths(['{tmp_path}/read'], ['{tmp_path}/write'])\n"
    tried = REPORT.format(action=action.format(tmp=tmp_path))
    assert outcome(restrict + tried) == after
    if after != "allowed":
        assert outcome(tried) == "allowed"


def test_signals_to_processes_outside_are_denied() -> None:
    restrict = "abi = lockdown.restrict_paths(['/'], [])\n"
    tried = "try:\n    os.kill(os.getppid(), 0)\n    print(abi, 'allowed')\n"
    tried += "except PermissionError:\n    print(abi, 'denied')\n"
    abi, found = outcome(restrict + tried).split()
    assert found == ("denied" if int(abi) >= 6 else "allowed")
