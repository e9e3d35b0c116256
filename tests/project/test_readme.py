"""The README does not rot: commands exist and are explained, numbers are on record."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.report import BEGIN, END, table
from grader.cli import main as grader
from grader.cli.command_line import build_parser

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
SHELL = re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL)
COMMANDS = [line for block in SHELL for line in block.splitlines() if line]
GRADERS = [line for line in COMMANDS if line.startswith(".venv/bin/grader ")]


@pytest.mark.parametrize("line", GRADERS)
def test_grader_understands_every_line(line: str) -> None:
    """`test_walk.py` runs those that need no other machine and no class of one's own."""
    build_parser(grader.COMMANDS).parse_args(shlex.split(line, comments=True)[1:])


def test_every_command_of_grader_is_explained() -> None:
    names = [c.__name__.rpartition(".")[2].replace("_", "-") for c in grader.COMMANDS]
    assert {shlex.split(line, comments=True)[1] for line in GRADERS} == set(names)
    table = TEXT.partition("### All commands")[2]
    assert re.findall(r"^\| `([a-z-]+)` \|", table, re.MULTILINE) == list(names)


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith(".venv/bin/labkit ")])
def test_every_option_of_every_command_is_known(command: str) -> None:
    _, subcommand, *rest = shlex.split(command, comments=True)
    code = "import sys; from labkit.cli.main import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", code, subcommand, "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for option in (word for word in rest if word.startswith("--")):
        assert option in done.stdout


@pytest.mark.parametrize("command", [c for c in COMMANDS if "make " in c])
def test_every_make_target_exists(command: str) -> None:
    targets = re.findall(r"make (\w+)", command)
    rules = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(targets) <= set(rules)


def test_the_table_of_measurements_is_what_the_records_say() -> None:
    written = TEXT.partition(BEGIN)[2].partition(END)[0]
    assert written == table()


def test_the_python_examples_run(capsys: pytest.CaptureFixture[str]) -> None:
    examples = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert len(examples) == 2
    for example in examples:
        exec(compile(example, "README.md", "exec"), {})
        assert "Paris" in capsys.readouterr().out


def test_points_of_the_labs_are_the_checks_points() -> None:
    from grader.checks.core import load_lab

    rows = re.findall(r"labs/(lab\d\d_\w+)/lab\d\d_\w+\.ipynb\) \| (\d+) \|", TEXT)
    assert rows
    assert {lab: int(points) for lab, points in rows} == {
        lab: sum(check.points for check in load_lab(lab).checks) for lab, _ in rows
    }
