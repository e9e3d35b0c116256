"""Notebooks run unattended: parameters injected, failures shown, outputs stored on request."""

import json
from pathlib import Path

import pytest

from grader.batch import NotebookRun, find_notebooks, run_all, track, write_summary
from grader.cli.main import main
from grader.notebooks import read_notebook, write_notebook


def notebook(*sources: str) -> dict:
    cells = [
        {
            "cell_type": "code",
            "execution_count": None,
            "id": f"cell-{i}",
            "metadata": {"tags": ["parameters"]} if i == 0 else {},
            "outputs": [],
            "source": source,
        }
        for i, source in enumerate(sources)
    ]
    return {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("course")
    (made / "nbgrader_config.py").touch()
    good = notebook('SCALE = "cpu"', "SCALE.upper()")
    write_notebook(made / "chapters" / "training" / "01_good.ipynb", good)
    bad = notebook('SCALE = "cpu"', "print('before')", "1 / 0")
    write_notebook(made / "solutions" / "lab_bad" / "lab_bad.ipynb", bad)
    return made


@pytest.fixture(scope="module")
def runs(root: Path) -> dict[str, NotebookRun]:
    notebooks = find_notebooks(root, [])
    output = root / "reports" / "notebooks"
    done = run_all(root, notebooks, scale="smoke", jobs=2, output=output, store=True)
    return {Path(run.notebook).stem: run for run in done}


def test_the_scale_is_injected_and_outputs_are_stored(
    root: Path, runs: dict[str, NotebookRun]
) -> None:
    assert runs["01_good"].ok
    assert runs["01_good"].seconds > 0
    assert runs["01_good"].peak_bytes > 20 * 2**20
    stored = read_notebook(root / "chapters" / "training" / "01_good.ipynb")
    assert len(stored["cells"]) == 2
    assert "SMOKE" in json.dumps(stored["cells"][1]["outputs"])
    assert "papermill" not in json.dumps(stored)


def test_a_failure_has_its_message_and_page(root: Path, runs: dict[str, NotebookRun]) -> None:
    assert not runs["lab_bad"].ok
    assert "ZeroDivisionError" in runs["lab_bad"].message
    page = root / "reports" / "notebooks" / "solutions" / "lab_bad" / "lab_bad.html"
    assert "ZeroDivisionError" in page.read_text()


def test_the_command_reports_and_fails(
    root: Path, runs: dict[str, NotebookRun], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--root", str(root), "run", "--only", "lab_bad"]) == 1
    assert "FAILED" in capsys.readouterr().err
    summary = json.loads((root / "reports" / "notebooks" / "summary.json").read_text())
    assert summary["ok"] is False
    assert [row["notebook"] for row in summary["notebooks"]] == ["solutions/lab_bad/lab_bad.ipynb"]
    assert main(["--root", str(root), "run", "--only", "nothing"]) == 2
    assert "no notebook's path contains nothing" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore")
def test_a_batch_is_recorded_in_mlflow(tmp_path: Path) -> None:
    import mlflow

    run = NotebookRun(notebook="chapters/x.ipynb", ok=True, seconds=1.5, peak_bytes=7)
    write_summary(tmp_path / "summary.json", [run], "smoke")
    track(tmp_path, [run], "smoke", tmp_path / "summary.json")
    found = mlflow.search_runs(experiment_names=["notebooks"], output_format="list")
    assert found[0].data.metrics["chapters/x/seconds"] == 1.5
    mlflow.set_tracking_uri(None)
