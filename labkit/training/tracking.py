"""Step records and settings of a run into MLflow, in a local file unless told otherwise."""

import json
import logging
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from labkit.runtime.errors import MissingDependencyError
from labkit.training.loop import StepRecord

if TYPE_CHECKING:
    from mlflow import MlflowClient

DATABASE = "mlruns.db"
ARTIFACTS = "mlartifacts"
METRICS = ("loss_nats", "tokens", "grad_norm", "lr", "seconds")
_SQLITE = "sqlite:///"


def tracked(
    records: Iterator[StepRecord],
    *,
    run_name: str,
    params: Mapping[str, object],
    experiment: str = "labkit",
    uri: str | None = None,
) -> Iterator[StepRecord]:
    """Pass step records on, each logged to MLflow first.

    The run is FINISHED when the records end, and FAILED or KILLED when they raise or the caller
    stops early; in every case all records taken so far are in it, also as ``records.jsonl``.

    Args:
        records: Of a training loop.
        run_name: Shown in MLflow's table.
        params: Settings to show beside it.
        experiment: Name of the group of runs; made if absent.
        uri: MLflow tracking URI; default: ``mlruns.db`` (SQLite) in the current folder, with
            artifacts in ``mlartifacts`` beside it. No global state of MLflow is touched.

    Yields:
        The same records.

    Raises:
        MissingDependencyError: If MLflow is not installed.
    """
    uri = uri if uri is not None else _default_uri()
    client = _client(uri)
    run_id = client.create_run(
        _experiment_id(client, experiment, uri), run_name=run_name
    ).info.run_id
    for name, value in params.items():
        client.log_param(run_id, name, value)
    taken: list[StepRecord] = []
    status = "KILLED"
    try:
        for record in records:
            taken.append(record)
            _log(client, run_id, record)
            yield record
        status = "FINISHED"
    except Exception:
        status = "FAILED"
        raise
    finally:
        lines = "".join(json.dumps(asdict(record)) + "\n" for record in taken)
        client.log_text(run_id, lines, "records.jsonl")
        client.set_terminated(run_id, status)


def curve(
    run_name: str,
    metric: str = "loss_nats",
    *,
    experiment: str = "labkit",
    uri: str | None = None,
) -> list[float]:
    """One metric of the latest run of that name, in the order of its steps.

    Args:
        run_name: As given to `tracked`.
        metric: A field of `StepRecord` other than the step.
        experiment: Name of the group of runs.
        uri: MLflow tracking URI, by default that of `tracked`.

    Raises:
        MissingDependencyError: If MLflow is not installed.
        ValueError: If there is no such run, or it has no such metric.
    """
    client = _client(uri if uri is not None else _default_uri())
    group = client.get_experiment_by_name(experiment)
    runs = (
        []
        if group is None
        else client.search_runs(
            [group.experiment_id],
            filter_string=f"attributes.run_name = '{run_name}'",
            order_by=["attributes.start_time DESC"],
            max_results=1,
        )
    )
    history = client.get_metric_history(runs[0].info.run_id, metric) if runs else []
    if not history:
        raise ValueError(
            f"no run {run_name!r} with metric {metric!r} in experiment {experiment!r}; "
            f"the metrics are {', '.join(METRICS)}"
        )
    return [point.value for point in sorted(history, key=lambda point: point.step)]


def _default_uri() -> str:
    return f"{_SQLITE}{Path(DATABASE).absolute()}"


def _client(uri: str) -> "MlflowClient":
    # MLflow reports its use to its makers unless told not to, and each migration of a new store.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    try:
        from mlflow import MlflowClient
    except ImportError as error:
        raise MissingDependencyError(
            "tracking needs MLflow: pip install 'llm-engineering-lab[track]'"
        ) from error
    return MlflowClient(tracking_uri=uri)


def _experiment_id(client: "MlflowClient", name: str, uri: str) -> str:
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    if not uri.startswith(_SQLITE):
        return str(client.create_experiment(name))
    artifacts = Path(uri.removeprefix(_SQLITE)).absolute().parent / ARTIFACTS
    return str(client.create_experiment(name, artifact_location=artifacts.as_uri()))


def _log(client: "MlflowClient", run_id: str, record: StepRecord) -> None:
    from mlflow.entities import Metric

    now_ms = int(time.time() * 1000)
    metrics = [Metric(name, getattr(record, name), now_ms, record.step) for name in METRICS]
    client.log_batch(run_id, metrics=metrics)
