"""`grader collect` on the command line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from intake_kit import LAB, Answer, Make, tree

from grader.cli.main import main
from grader.course import Course


def command(own: Course, *arguments: str) -> int:
    return main(["--root", str(own.root), "collect", LAB, *arguments])


def test_the_command_line(
    own: Course, answer: Answer, zipped: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    evil = ("roeben_13_35_\x1b[31m.zip", b"")
    path = str(zipped(("doeada_12_34_a.ipynb", answer()), evil, ("x/y.bin", b"")))
    before = tree(own.root)
    assert command(own, path, "--dry-run") == 0
    assert "Nothing was changed" in capsys.readouterr().out
    assert tree(own.root) == before
    assert command(own, path) == 0
    out = capsys.readouterr().out
    assert "layout canvas: 1 collected, 1 refused." in out
    assert "\x1b" not in out
    assert "its name has control characters" in out
    assert "Ids made of names (no roster, see --roster): doeada_12" in out
    (written,) = own.reports(LAB).glob("collected/*.json")
    content = json.loads(written.read_text())
    assert content["schema"] == 1
    ada = next(each for each in content["submissions"] if each["student"] == "doeada_12")
    assert ada["taken"][0]["source"] == "doeada_12_34_a.ipynb"
    assert len(ada["taken"][0]["sha256"]) == len(ada["sha256"]) == 64
    assert content["strays"][0]["path"] == "x"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nowhere"], "there is no folder and no archive"),
        ([".", "--received", "2026-03-01"], "needs its offset from UTC"),
        ([".", "--max-files", "0"], "must be at least 1"),
        ([".", "--allow", "EXE"], "must be in lower case and begin with a dot"),
        ([".", "--roster", "nowhere.csv"], "nowhere.csv"),
    ],
)
def test_mistakes_are_one_sentence(
    own: Course, capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    assert command(own, *arguments) == 2
    assert sentence in capsys.readouterr().err


def test_a_damaged_source_is_exit_status_1(
    own: Course, answer: Answer, tarred: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tarred((f"ada/{LAB}.ipynb", answer()), ("ben/x.npy", os.urandom(50_000)))
    path.write_bytes(path.read_bytes()[:-20_000])
    assert command(own, str(path)) == 1
    assert "Not everything could be read" in capsys.readouterr().err
    own.release(LAB).unlink()
    assert command(own, str(path)) == 2
    assert "is not released" in capsys.readouterr().err


def test_the_fuzzer_runs(tmp_path: Path) -> None:
    """For seconds here; `python tests/grader/intake/fuzz.py --minutes 10` is the real run."""
    fuzz = Path(__file__).with_name("fuzz.py")
    command = [sys.executable, str(fuzz), "--minutes", "0.02"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert " 0 crashes." in done.stdout


def test_limits_on_the_command_line(
    own: Course, answer: Answer, zipped: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(zipped((f"ada/{LAB}.ipynb", answer()), ("ada/x.xyz", bytes(2**19))))
    for arguments, told in [
        (["--allow", ".xyz"], "1 collected"),
        (["--allow", ".xyz", "--max-file-mb", "0.4"], "it is larger than 419430 bytes"),
        (["--allow", ".xyz", "--max-submission-mb", "0.5"], "it has more than 524288 bytes"),
        (["--max-files", "1"], "it has more than 1 files and folders"),
    ]:
        assert command(own, path, "--dry-run", *arguments) == 0
        assert told in capsys.readouterr().out
    for odd in ("inf", "nan", "many"):
        with pytest.raises(SystemExit):
            command(own, path, "--max-file-mb", odd)
        assert "--max-file-mb" in capsys.readouterr().err
