"""Model repositories: what is refused, and the text that Triton reads."""

import json
import re

import pytest

from labkit.serving.tritonserver import repository
from labkit.serving.tritonserver.repository import RepositoryConfig


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"adapters": {"": "folder"}}, "adapter name '' stands for the base"),
        ({"adapters": {"base": "folder"}}, "adapter name 'base' stands for the base"),
        ({"max_batch_size": 0}, "max_batch_size=0 and threads=1 must be positive"),
        ({"threads": 0}, "threads=0 must be positive"),
        ({"max_batch_size": 4}, r"preferred_batch_sizes=\(4, 8\) must lie between 1 and .*=4"),
        ({"preferred_batch_sizes": (0,)}, r"preferred_batch_sizes=\(0,\) must lie between"),
        ({"max_queue_delay_us": -1}, "max_queue_delay_us=-1 must not be negative"),
    ],
)
def test_contradictions_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        RepositoryConfig(model="mini", **options)


def test_each_model_has_its_configuration_and_its_class(tmp_path):
    config = RepositoryConfig(model="mini")
    assert repository.write(tmp_path / "repository", config) == tmp_path / "repository"
    files = sorted(path for path in (tmp_path / "repository").rglob("*") if path.is_file())
    assert [str(path.relative_to(tmp_path / "repository")) for path in files] == [
        "generate/1/model.py",
        "generate/config.pbtxt",
        "generate_batch/1/model.py",
        "generate_batch/config.pbtxt",
    ]
    for name, pbtxt in (
        ("generate", repository.stream_pbtxt(config)),
        ("generate_batch", repository.batch_pbtxt(config)),
    ):
        assert f'name: "{name}"\n' in pbtxt
        assert (tmp_path / "repository" / name / "config.pbtxt").read_text() == pbtxt
        compile((tmp_path / "repository" / name / "1" / "model.py").read_text(), name, "exec")


def test_without_dynamic_batching_nothing_is_gathered():
    asked = RepositoryConfig(model="mini", dynamic_batching=False)
    assert "dynamic_batching" not in repository.batch_pbtxt(asked)
    assert "max_batch_size: 8\n" in repository.batch_pbtxt(asked)
    assert "dynamic_batching" in repository.batch_pbtxt(RepositoryConfig(model="mini"))


def test_folders_are_absolute_and_quoted(tmp_path, monkeypatch):
    """Triton runs elsewhere; a name may hold what its text format would read as its own."""
    odd = tmp_path / 'a "quoted" \\ näme'
    odd.mkdir()
    monkeypatch.chdir(tmp_path)
    config = RepositoryConfig(model=odd.name, adapters={'x"': odd.name, "y": odd})
    lines = repository.stream_pbtxt(config)
    values = dict(re.findall(r'key: "(\w+)" value { string_value: (".*") } }', lines))
    assert json.loads(values["model"]) == str(odd)
    assert json.loads(json.loads(values["adapters"])) == {'x"': str(odd), "y": str(odd)}
