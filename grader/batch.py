"""Execute lectures and solved labs unattended with papermill, one process a notebook."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

SAMPLE_INTERVAL_S = 0.2
MESSAGE_CHARACTERS = 500
RUN = (
    "import sys, papermill; "
    "papermill.execute_notebook(sys.argv[1], sys.argv[2], parameters={'SCALE': sys.argv[3]}, "
    "cwd=sys.argv[4], progress_bar=False, log_output=False, kernel_name='python3', "
    "language='python')"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class NotebookRun:
    """How one notebook went: seconds and peak memory of its whole process tree."""

    notebook: str
    ok: bool
    seconds: float
    peak_bytes: int
    message: str = ""


def find_notebooks(root: Path, only: list[str]) -> list[Path]:
    """Lectures and solved labs in order; `only` keeps those whose path contains one of its words.

    Raises:
        ValueError: Nothing matches.
    """
    found = sorted(root.glob("chapters/*/*.ipynb")) + sorted(root.glob("solutions/*/*.ipynb"))
    kept = [
        path
        for path in found
        if not only or any(word in path.relative_to(root).as_posix() for word in only)
    ]
    if not kept:
        raise ValueError(f"no notebook's path contains {' or '.join(only) or 'anything'}")
    return kept


def run_all(
    root: Path, notebooks: list[Path], *, scale: str, jobs: int, output: Path, store: bool
) -> Iterator[NotebookRun]:
    """Run notebooks `jobs` at a time and yield each as it ends.

    Args:
        root: The course.
        notebooks: What to run.
        scale: Injected into the cell tagged `parameters`.
        jobs: Notebooks at a time.
        output: Where executed notebooks and the pages of failed ones go.
        store: Write a lecture's outputs back into `chapters/`.
    """
    with ThreadPoolExecutor(max_workers=jobs) as pool:
        running = [
            pool.submit(_run_one, root, path, scale=scale, jobs=jobs, output=output, store=store)
            for path in notebooks
        ]
        for done in as_completed(running):
            yield done.result()


def _run_one(
    root: Path, path: Path, *, scale: str, jobs: int, output: Path, store: bool
) -> NotebookRun:
    name = path.relative_to(root).as_posix()
    executed = output / name
    executed.parent.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with tempfile.TemporaryFile() as log:
        command = [sys.executable, "-c", RUN, str(path), str(executed), scale, str(path.parent)]
        environment = _environment(root, jobs)
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        peak_bytes = _wait(process)
        log.seek(0)
        tail = log.read().decode(errors="replace").strip()
    ok = process.returncode == 0
    if ok and store and name.startswith("chapters/"):
        store_outputs(executed, path)
    if not ok and executed.is_file():
        write_page(executed)
    return NotebookRun(
        notebook=name,
        ok=ok,
        seconds=round(time.monotonic() - started, 1),
        peak_bytes=peak_bytes,
        message="" if ok else _last_lines(tail),
    )


def _environment(root: Path, jobs: int) -> dict[str, str]:
    """One BLAS thread each when several run; this Python's tools on the path; no progress bars."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    threads = {"OMP_NUM_THREADS": "1"} if jobs > 1 else {}
    return {**os.environ, "CI": "1", "PATH": path, "PYTHONPATH": str(root), **threads}


def _wait(process: "subprocess.Popen[bytes]") -> int:
    """Wait for a process and return its tree's largest resident size, sampled."""
    peak = 0
    over = threading.Event()
    while process.poll() is None:
        # A process of the tree may end between being listed and being asked: skip that sample.
        with contextlib.suppress(psutil.Error):
            tree = psutil.Process(process.pid)
            members = [tree, *tree.children(recursive=True)]
            peak = max(peak, sum(member.memory_info().rss for member in members))
        over.wait(SAMPLE_INTERVAL_S)
    return peak


def _last_lines(text: str) -> str:
    return text[-MESSAGE_CHARACTERS:]


def store_outputs(executed: Path, original: Path) -> None:
    """Put an executed notebook's outputs into its original, without papermill's traces.

    The cells are numbered anew: papermill's own cell took a number.
    """
    import nbformat

    done = nbformat.read(executed, as_version=4)
    notebook = nbformat.read(original, as_version=4)
    cells = [
        cell for cell in done.cells if "injected-parameters" not in cell.metadata.get("tags", ())
    ]
    pairs = zip(notebook.cells, cells, strict=True)
    code = [(target, source) for target, source in pairs if target.cell_type == "code"]
    for number, (target, source) in enumerate(code, start=1):
        target.outputs, target.execution_count = source.outputs, number
        for output in target.outputs:
            if output.output_type == "execute_result":
                output.execution_count = number
    nbformat.write(notebook, original)


def write_page(executed: Path) -> Path:
    """Write the executed part of a failed notebook as HTML beside it."""
    from nbconvert import HTMLExporter

    body, _ = HTMLExporter().from_filename(str(executed))
    page = executed.with_suffix(".html")
    page.write_text(body, encoding="utf-8")
    return page


def write_summary(path: Path, runs: list[NotebookRun], scale: str) -> None:
    """Write the batch's summary as JSON."""
    rows = [asdict(run) for run in sorted(runs, key=lambda run: run.notebook)]
    summary = {"scale": scale, "ok": all(run.ok for run in runs), "notebooks": rows}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")


def track(root: Path, runs: list[NotebookRun], scale: str, summary: Path) -> None:
    """Record the batch in MLflow's local store.

    Raises:
        MissingDependencyError: mlflow is not installed.
    """
    from labkit.runtime.errors import MissingDependencyError

    try:
        import mlflow
    except ImportError:
        raise MissingDependencyError(
            "recording a batch needs mlflow: pip install 'llm-engineering-lab[track]'"
        ) from None
    mlflow.set_tracking_uri(f"sqlite:///{root / 'mlruns.db'}")
    mlflow.set_experiment("notebooks")
    with mlflow.start_run(run_name=f"notebooks-{scale}"):
        mlflow.log_params({"scale": scale, "notebooks": len(runs)})
        mlflow.log_metric("failed", sum(not run.ok for run in runs))
        for run in runs:
            key = run.notebook.removesuffix(".ipynb")
            mlflow.log_metrics({f"{key}/seconds": run.seconds, f"{key}/peak_bytes": run.peak_bytes})
        mlflow.log_artifact(str(summary))
