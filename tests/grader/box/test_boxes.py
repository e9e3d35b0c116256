"""What a submission can reach and do from inside a box. Each case runs in a box of its own."""

import os
import shutil
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from grader.box.boxes import ENVIRONMENT, Boxes
from grader.box.session import BoxEnded, Trouble
from grader.box.tier import NoSandboxError, Tier
from grader.checks.core import Lab, load_lab

TIERS = [Tier.NAMESPACES] if shutil.which("bwrap") is None else [Tier.BUBBLEWRAP, Tier.NAMESPACES]
LAB = load_lab("lab03_lora")
SMALL = Lab(
    name=LAB.name,
    checks=LAB.checks,
    teaches=LAB.teaches,
    forbids=LAB.forbids,
    time_limit_s=60.0,
    question_limit_s=2.0,
    memory_bytes=800 * 2**20,
)


@pytest.fixture(scope="module", params=TIERS)
def boxes(request: pytest.FixtureRequest) -> Iterator[Boxes]:
    with Boxes(SMALL, request.param) as made:
        yield made


def probe(boxes: Boxes, body: str) -> Any:
    """Run a body inside a box, in the call of lora_delta; return what it returned as text."""
    source = "def lora_delta(A, B, alpha, use_rslora=False):\n"
    source += textwrap.indent(textwrap.dedent(body).strip(), "    ")
    check = SMALL.check("lora_delta")
    with boxes.start() as box:
        assert box.load(boxes.job([{"id": "lora_delta", "source": source}])) == {}
        inputs = check.inputs(np.random.default_rng(0))
        answer = box.ask(check.name, "lora_delta", inputs, SMALL.question_limit_s)
        assert answer["error"] == "", answer["error"]
        return answer["outputs"]["delta"]


PLANTED = Path("/tmp/grader-planted-secret")
REPOSITORY = Path(__file__).parents[3]
OUT_OF_REACH = [
    str(path)
    for path in (
        PLANTED,
        REPOSITORY / "solutions",
        REPOSITORY / "gradebook.db",
        REPOSITORY / "labkit",
        Path("/etc/passwd"),
        Path.home() / ".bashrc",
        Path("/home"),
    )
]
IMPORTABLE = """
import importlib
try:
    importlib.import_module({module!r})
except ImportError:
    return "absent"
return "there"
"""
KEYS = ("labkit.tuning.lora", "labkit.tuning", "grader.labs.lab03_lora.check", "peft.tuners")
QUESTIONS = {
    "paths": f"import os\nreturn [p for p in {OUT_OF_REACH!r} if os.path.exists(p)]",
    "environment": "import os\nreturn sorted(os.environ)",
    "allowed": IMPORTABLE.format(module="labkit.objectives.language_modelling"),
    **{f"key_{i}": IMPORTABLE.format(module=module) for i, module in enumerate(KEYS)},
    "network": """
import socket
try:
    socket.create_connection(("169.254.169.254", 80), 1)
except OSError as error:
    return "refused"
return "connected"
""",
    "identity": """
import os
pids = [p for p in os.listdir("/proc") if p.isdigit()]
return [os.getuid() != 0, len(pids) <= 3, len(os.listdir("/proc/self/fd")) <= 8]
""",
    "writes": """
def writes(path, size):
    try:
        with open(path, "wb") as file:
            file.write(bytes(size))
    except OSError:
        return False
    return True
return [writes("/tmp/a", 10), writes("/tmp/b", 2**27), writes("/x", 1), writes("/course/x", 1)]
""",
}
ANSWERS = {
    "paths": [],
    "allowed": "there",
    **{f"key_{i}": "absent" for i in range(len(KEYS))},
    "network": "refused",
    "identity": [True, True, True],
    "writes": [True, False, False, False],
}


@pytest.fixture(scope="module")
def reached(boxes: Boxes) -> dict[str, Any]:
    """What code inside one box found out about its surroundings."""
    PLANTED.write_text("secret")
    os.environ["PLANTED_TOKEN"] = "secret"
    cells = [
        {"id": name, "source": f"def {name}(*a, **k):\n" + textwrap.indent(body.strip(), "    ")}
        for name, body in QUESTIONS.items()
    ]
    check = SMALL.check("lora_delta")
    inputs = check.inputs(np.random.default_rng(0))
    try:
        with boxes.start() as box:
            assert box.load(boxes.job(cells)) == {}
            answers = {name: box.ask(check.name, name, inputs, 10.0) for name in QUESTIONS}
    finally:
        PLANTED.unlink()
        del os.environ["PLANTED_TOKEN"]
    assert {name: answer["error"] for name, answer in answers.items() if answer["error"]} == {}
    return {name: answer["outputs"]["delta"] for name, answer in answers.items()}


@pytest.mark.parametrize("name", ANSWERS)
def test_what_a_box_reaches(reached: dict[str, Any], name: str) -> None:
    assert reached[name] == ANSWERS[name]


def test_the_environment_holds_nothing_of_the_graders(reached: dict[str, Any]) -> None:
    assert set(reached["environment"]) <= {
        *ENVIRONMENT,
        "PWD",
        "TMPDIR",
        "LC_CTYPE",
        "TORCHINDUCTOR_CACHE_DIR",
    }


def attempt(boxes: Boxes, body: str) -> BoxEnded:
    with pytest.raises(BoxEnded) as caught:
        probe(boxes, body)
    return caught.value


def test_an_endless_loop_that_catches_everything_is_killed_in_time(boxes: Boxes) -> None:
    started = time.monotonic()
    body = """
    import signal
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    while True:
        try:
            while True:
                pass
        except BaseException:
            pass
    """
    ended = attempt(boxes, body)
    assert ended.trouble is Trouble.TIMEOUT
    assert "longer than 2 s" in ended.message
    assert time.monotonic() - started < 60


EACH_DESCRIPTOR = """
import os
for fd in range(3, 20):
    try:
        {action}
    except OSError:
        pass
return A
"""
ENDINGS = {
    "import os\nos._exit(0)": Trouble.CRASH,
    "import ctypes\nctypes.string_at(0)": Trouble.CRASH,
    "hoard = []\nwhile True:\n    hoard.append(bytearray(10**7))": Trouble.OOM,
    "while True:\n    print('x' * 10**6)": Trouble.OUTPUT_LIMIT,
    EACH_DESCRIPTOR.format(action="os.close(fd)"): Trouble.CRASH,
    EACH_DESCRIPTOR.format(action="os.write(fd, b'x' * 99)"): Trouble.TAMPER,
}


@pytest.mark.parametrize(("body", "trouble"), ENDINGS.items())
def test_how_a_box_ends_is_named(boxes: Boxes, body: str, trouble: Trouble) -> None:
    assert attempt(boxes, body).trouble is trouble


DAEMON = """
import os, sys
def lora_delta(*a, **k):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.execv(sys.executable, ["leftover", "-c", "import time; time.sleep(600)"])
        os._exit(0)
    return "forked"
"""


def leftovers() -> list[psutil.Process]:
    running = psutil.process_iter(["cmdline"])
    return [process for process in running if (process.info["cmdline"] or [""])[0] == "leftover"]


def waits_for(condition: Callable[[], bool]) -> bool:
    """Whether a condition comes true within the time a busy machine may need."""
    return any(condition() or time.sleep(0.05) for _ in range(200))


def test_a_box_leaves_no_process(boxes: Boxes) -> None:
    check = SMALL.check("lora_delta")
    with boxes.start() as box:
        assert box.load(boxes.job([{"id": "lora_delta", "source": DAEMON}])) == {}
        inputs = check.inputs(np.random.default_rng(0))
        assert box.ask(check.name, "lora_delta", inputs, 2.0)["outputs"]["delta"] == "forked"
        assert waits_for(lambda: bool(leftovers())), "the daemon never ran: the test shows nothing"
    assert waits_for(lambda: not leftovers())


def test_exits_and_signals_in_a_call_are_errors_not_ends(boxes: Boxes) -> None:
    source = "import sys\ndef lora_delta(*a, **k):\n    sys.exit(0)\n"
    check = SMALL.check("lora_delta")
    with boxes.start() as box:
        box.load(boxes.job([{"id": "lora_delta", "source": source}]))
        inputs = check.inputs(np.random.default_rng(0))
        assert "raised SystemExit" in box.ask(check.name, "lora_delta", inputs, 2.0)["error"]
        assert "is not defined" in box.ask(check.name, "nothing", inputs, 2.0)["error"]


def test_without_bubblewrap_it_refuses_and_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NoSandboxError, match="apt install bubblewrap"), Boxes(SMALL):
        pass
    with Boxes(SMALL, Tier.RLIMITS) as made:
        assert made.tier is Tier.RLIMITS
