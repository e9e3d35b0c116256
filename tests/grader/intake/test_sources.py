"""Folders that others may be changing: nothing is followed, one costs no other."""

import os
from pathlib import Path

import pytest
from intake_kit import HONEST, LAB, Answer, Take, folder_of, judged, states

from grader.course import Course
from grader.intake import reading, sources
from grader.intake.manifest import Manifest
from grader.intake.placing import State


def test_links_pipes_and_swapped_folders_on_a_disk(
    own: Course, answer: Answer, take: Take, tmp_path: Path
) -> None:
    secret = tmp_path / "secret.ipynb"
    secret.write_bytes(answer("secret"))
    source = tmp_path / "source"
    for name in (*HONEST, "eve"):
        (source / name).mkdir(parents=True)
        (source / name / f"{LAB}.ipynb").write_bytes(answer(name))
    (source / "eve" / "link.ipynb").symlink_to(secret)
    (source / "eve" / "hard.ipynb").hardlink_to(secret)
    (source / "eve" / "up").symlink_to(tmp_path)
    (source / "fox").symlink_to(source / "ann")
    os.mkfifo(source / "eve" / "pipe.py")
    (source / "eve" / "odd\udcff.py").touch()
    state, reason = judged(take(source), own)
    assert state is State.REFUSED  # for the name that is no text
    (source / "eve" / "odd\udcff.py").unlink()
    state, reason = judged_again(take(source))
    assert state is State.COLLECTED
    assert reason.count("link") == 1
    assert "pipe" in reason
    assert [p.name for p in own.submitted(LAB, "eve").parent.iterdir() if p.suffix == ".ipynb"] == [
        f"{LAB}.ipynb"
    ]
    assert not own.submitted(LAB, "fox").exists()


def judged_again(manifest: Manifest) -> tuple[State, str]:
    eve = next(each for each in manifest.submissions if each.student == "eve")
    return eve.state, " | ".join(dict.fromkeys(refused.why for refused in eve.refused))


def test_a_file_swapped_for_a_link_while_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "x.py").write_text("x")
    members = sources.Folder(tmp_path / "source").members(lambda _: True)
    member = next(members)
    (tmp_path / "source" / "x.py").unlink()
    for swap in (Path.symlink_to, Path.hardlink_to):
        swap(tmp_path / "source" / "x.py", tmp_path / "secret")
        with pytest.raises(sources.RefusedError), member.open() as file:
            file.read()
        (tmp_path / "source" / "x.py").unlink()


def test_a_folder_swapped_for_a_link_while_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "x.py").write_text("secret")
    (tmp_path / "source" / "eve").mkdir(parents=True)
    members = sources.Folder(tmp_path / "source").members(lambda _: True)
    assert next(members).kind == sources.FOLDER
    (tmp_path / "source" / "eve").rmdir()
    (tmp_path / "source" / "eve").symlink_to(tmp_path / "secrets")
    assert [(member.path, member.kind) for member in members] == [("eve", sources.UNREADABLE)]


def test_a_folder_that_hides_millions_of_files_is_left_early(
    own: Course, answer: Answer, take: Take, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source"
    for name in (*HONEST, "eve"):
        (source / name / "data").mkdir(parents=True)
        (source / name / f"{LAB}.ipynb").write_bytes(answer(name))
    for i in range(3000):
        (source / "eve" / "data" / f"{i}.py").touch()
    seen = []
    real = reading.Reading._take
    monkeypatch.setattr(
        reading.Reading, "_take", lambda self, member: (seen.append(1), real(self, member))
    )
    state, reason = judged(take(source), own)
    assert state is State.REFUSED
    assert "more than 200 files" in reason
    assert len(seen) < 300


def test_paths_beyond_what_a_path_may_be(answer: Answer, take: Take, tmp_path: Path) -> None:
    """Each step goes by descriptor; a clone may hold such folders too."""
    source = folder_of(
        tmp_path / "s", {f"{name}/{LAB}.ipynb": answer() for name in (*HONEST, "eve")}
    )
    folder = os.open(source / "eve", os.O_RDONLY)
    for _ in range(25):
        os.mkdir("x" * 250, dir_fd=folder)
        inner = os.open("x" * 250, os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = inner
    os.close(folder)
    assert states(take(source)) == {"ann": "collected", "eve": "refused", "zoe": "collected"}


def test_what_may_not_be_read_is_said(
    answer: Answer, take: Take, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {f"eve/{name}": answer() for name in (f"{LAB}.ipynb", "data/x.csv", "y.csv")}
    source, real = folder_of(tmp_path / "s", files), os.open

    def refusing(path: str, *arguments: int, **options: int) -> int:
        if str(path) in ("data", "y.csv"):
            raise PermissionError(13, "Permission denied")
        return real(path, *arguments, **options)

    monkeypatch.setattr(sources.os, "open", refusing)
    (eve,) = take(source).submissions
    assert eve.state is State.COLLECTED
    assert {(refused.path, refused.why) for refused in eve.refused} == {
        ("eve/data", "it is a folder that cannot be read"),
        ("eve/y.csv", "it cannot be read: Permission denied"),
    }
