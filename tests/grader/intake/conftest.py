"""A course of one tiny lab, and what students hand in for it."""

import copy
import io
import json
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.append(
    str(Path(__file__).with_name("kit"))
)  # what these tests share; tests are no package

from intake_kit import LAB

from grader.course import Course
from grader.intake.collection import collect
from grader.intake.manifest import Manifest
from grader.intake.options import Options
from grader.intake.roster import Roster
from grader.notebooks import Notebook, write_notebook


def cell(name: str, text: str, **nbgrader: bool) -> dict:
    metadata = {"nbgrader": {"grade_id": name, "points": 1, **nbgrader}}
    return {"cell_type": "code", "metadata": metadata, "source": text, "outputs": []}


@pytest.fixture(scope="session")
def release() -> Notebook:
    cells = [
        cell("first", "def first(): ...", solution=True),
        cell("check_first", "check('first')", grade=True, locked=True),
        cell("second", "def second(): ...", solution=True),
    ]
    return {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": cells}


@pytest.fixture
def own(tmp_path: Path, release: Notebook) -> Course:
    """A course of the test's own, in a folder that holds nothing else."""
    made = Course(root=tmp_path / "course")
    made.root.mkdir()
    (made.root / "nbgrader_config.py").touch()
    write_notebook(made.source(LAB), release)
    write_notebook(made.source("lab02_other"), release)
    write_notebook(made.release(LAB), release)
    return made


@pytest.fixture(scope="session")
def answer(release: Notebook) -> Callable[..., bytes]:
    """Make a notebook's bytes with an answer of one's own."""

    def make(text: str = "mine") -> bytes:
        notebook = copy.deepcopy(release)
        notebook["cells"][0]["source"] = text
        return json.dumps(notebook).encode()

    return make


@pytest.fixture
def zipped(tmp_path: Path) -> Callable[..., Path]:
    """Make a zip of names and contents; a name may be a ZipInfo."""

    def make(*entries: tuple[str | zipfile.ZipInfo, bytes], name: str = "source.zip") -> Path:
        path = tmp_path / name
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for each, content in entries:
                archive.writestr(each, content)
        return path

    return make


@pytest.fixture
def tarred(tmp_path: Path) -> Callable[..., Path]:
    """Make a tar of names and contents; a name may be a TarInfo."""

    def make(*entries: tuple[str | tarfile.TarInfo, bytes], packing: str = "gz") -> Path:
        path = tmp_path / f"source.tar.{packing}"
        with tarfile.open(path, f"w:{packing}") as archive:
            for each, content in entries:
                info = each if isinstance(each, tarfile.TarInfo) else tarfile.TarInfo(each)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
        return path

    return make


@pytest.fixture
def take(own: Course) -> Callable[..., Manifest]:
    """Collect for the tiny lab; a roster is given by its rows."""

    def collect_from(source: Path, *rows: dict[str, str], **options: Any) -> Manifest:
        return collect(own, LAB, source, Roster(rows), Options(**options))

    return collect_from
