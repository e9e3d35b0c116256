"""The README does not rot: commands exist, links lead somewhere, numbers are on record."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.report import BEGIN, END, table

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
SHELL = re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL)
COMMANDS = [line for block in SHELL for line in block.splitlines() if line]


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith(".venv/bin/")])
def test_every_option_of_every_command_is_known(command: str) -> None:
    program, subcommand, *rest = shlex.split(command, comments=True)
    module = {"labkit": "labkit.cli.main", "grader": "grader.cli.main"}[Path(program).name]
    code = f"import sys; from {module} import main; sys.exit(main(sys.argv[1:]))"
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


def test_links_lead_to_files_of_the_repository() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", TEXT)
    missing = [link for link in links if not link.startswith("http") and not (ROOT / link).exists()]
    assert not missing


def test_the_table_of_measurements_is_what_the_records_say() -> None:
    written = TEXT.partition(BEGIN)[2].partition(END)[0]
    assert written == table()


def test_the_python_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    exec(compile(example, "README.md", "exec"), {})
    assert "Paris" in capsys.readouterr().out


def test_points_of_the_labs_are_the_checks_points() -> None:
    from grader.checks.core import load_lab

    rows = re.findall(r"labs/(lab\d\d_\w+)/lab\d\d_\w+\.ipynb\) \| (\d+) \|", TEXT)
    assert rows
    assert {lab: int(points) for lab, points in rows} == {
        lab: sum(check.points for check in load_lab(lab).checks) for lab, _ in rows
    }
