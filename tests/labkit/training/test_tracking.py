"""Every record reaches a local MLflow store, whichever way the run ends."""

import json
import sys

import pytest

from labkit.runtime.errors import MissingDependencyError
from labkit.training.loop import StepRecord
from labkit.training.tracking import METRICS, curve, tracked

# MLflow's own modules use what SQLAlchemy, Alembic and Pydantic have deprecated.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def records(count, failing_at=None):
    for step in range(1, count + 1):
        if step == failing_at:
            raise ValueError("it diverged")
        yield StepRecord(
            step=step, loss_nats=3.0 / step, tokens=70 + step, grad_norm=0.5, lr=1e-3, seconds=0.25
        )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tracking")


@pytest.fixture(scope="module")
def uri(folder):
    return f"sqlite:///{folder}/mlruns.db"


@pytest.fixture(scope="module")
def client(uri):
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def the_run(client, name):
    (experiment,) = client.search_experiments(filter_string="name = 'labkit'")
    (run,) = client.search_runs([experiment.experiment_id], f"run_name = '{name}'")
    return run


def test_a_whole_run(client, uri, folder):
    passed = list(tracked(records(7), run_name="whole", params={"rank": 8, "lr": 1e-3}, uri=uri))
    assert passed == list(records(7))
    run = the_run(client, "whole")
    assert run.info.status == "FINISHED"
    assert run.data.params == {"rank": "8", "lr": "0.001"}
    for name in METRICS:
        history = client.get_metric_history(run.info.run_id, name)
        logged = sorted((point.step, point.value) for point in history)
        assert logged == [(record.step, getattr(record, name)) for record in passed]
    (artifact,) = folder.glob(f"mlartifacts/{run.info.run_id}/**/records.jsonl")
    lines = [json.loads(line) for line in artifact.read_text().splitlines()]
    assert [line["loss_nats"] for line in lines] == [record.loss_nats for record in passed]


def test_a_run_that_raises_is_failed_and_keeps_its_records(client, uri):
    with pytest.raises(ValueError, match="it diverged"):
        list(tracked(records(7, failing_at=4), run_name="failed", params={}, uri=uri))
    run = the_run(client, "failed")
    assert run.info.status == "FAILED"
    assert len(client.get_metric_history(run.info.run_id, "loss_nats")) == 3


def test_a_run_left_early_is_killed(client, uri):
    run_records = tracked(records(7), run_name="left", params={}, uri=uri)
    next(run_records), next(run_records)
    run_records.close()
    run = the_run(client, "left")
    assert run.info.status == "KILLED"
    assert len(client.get_metric_history(run.info.run_id, "loss_nats")) == 2


def test_by_default_the_store_lies_in_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    list(tracked(records(2), run_name="here", params={}))
    assert {"mlruns.db", "mlartifacts"} <= {path.name for path in tmp_path.iterdir()}


def test_without_mlflow_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(MissingDependencyError, match=r"llm-engineering-lab\[track\]"):
        next(tracked(records(2), run_name="none", params={}))


def test_a_stored_curve_is_read_back_from_the_latest_run(uri):
    list(tracked(records(3), run_name="twice", params={}, uri=uri))
    again = list(tracked(records(5), run_name="twice", params={}, uri=uri))
    assert curve("twice", uri=uri) == [record.loss_nats for record in again]
    assert curve("twice", "lr", uri=uri) == [1e-3] * 5


def test_an_unknown_run_or_metric_is_named(uri):
    with pytest.raises(ValueError, match=r"no run 'nobody' .* the metrics are loss_nats, tokens"):
        curve("nobody", uri=uri)
