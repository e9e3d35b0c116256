"""Checkpoints come back whole, or are refused with their name."""

import json
import os
import subprocess
import sys
import textwrap

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from labkit.runtime.errors import CorruptFileError
from labkit.training import checkpoint


@pytest.fixture
def tensors(gen):
    return {
        "model.weight": torch.randn(7, 5, generator=gen),
        "model.half": torch.randn(3, 11, generator=gen).bfloat16(),
        "optimizer.weight.step": torch.tensor(13.0),
        "generator": torch.arange(17, dtype=torch.uint8),
        "model.empty": torch.empty(0, 3),
    }


@pytest.fixture
def path(tmp_path, tensors):
    path = tmp_path / "run" / "checkpoint.safetensors"
    checkpoint.save(path, tensors, {"step": 13, "config": {"lr": 1e-3}})
    return path


def test_round_trip_is_exact(path, tensors):
    stored = checkpoint.load(path)
    assert stored.metadata == {"step": 13, "config": {"lr": 1e-3}}
    assert stored.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert stored.tensors[name].dtype == tensor.dtype
        assert torch.equal(stored.tensors[name], tensor)


def test_a_transposed_tensor_is_stored_as_it_reads(tmp_path, tensors):
    view = tensors["model.weight"].T
    checkpoint.save(tmp_path / "c", {"view": view}, {})
    assert torch.equal(checkpoint.load(tmp_path / "c").tensors["view"], view)


@pytest.mark.parametrize("kept", [0, 5, 100, -1])
def test_truncated(path, kept):
    whole = path.read_bytes()
    path.write_bytes(whole[:kept])
    with pytest.raises(CorruptFileError, match=str(path)):
        checkpoint.load(path)


@pytest.mark.parametrize("place", [-3, -40])
def test_a_flipped_bit_in_the_weights(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(CorruptFileError, match=str(path)):
        checkpoint.load(path)


def test_altered_metadata(path):
    content = path.read_bytes()
    assert content.count(b'\\"step\\": 13') == 1
    path.write_bytes(content.replace(b'\\"step\\": 13', b'\\"step\\": 99'))
    with pytest.raises(CorruptFileError, match=str(path)):
        checkpoint.load(path)


def test_another_kind_of_file(tmp_path):
    save_file({"x": torch.zeros(3)}, tmp_path / "other.safetensors")
    (tmp_path / "text").write_text("no tensors here, but long enough to hold a header's length")
    for name in ("other.safetensors", "text"):
        with pytest.raises(CorruptFileError, match=name):
            checkpoint.load(tmp_path / name)


def test_absent(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        checkpoint.load(tmp_path / "nothing")


def test_killed_while_writing_leaves_the_previous_one(path, tensors):
    """A process that dies after half the bytes, with no chance to clean up."""
    script = f"""
    import os, pathlib, torch
    from labkit.training import checkpoint

    def die_half_way(tensors, filename, metadata):
        pathlib.Path(filename).write_bytes(b"half of a checkpoint")
        os._exit(9)

    checkpoint.save_file = die_half_way
    checkpoint.save(pathlib.Path({str(path)!r}), {{"x": torch.ones(3)}}, {{"step": 14}})
    """
    before = path.read_bytes()
    command = [sys.executable, "-c", textwrap.dedent(script)]
    result = subprocess.run(command, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert result.returncode == 9
    assert len(list(path.parent.iterdir())) == 2, "the half-written file lies beside, unnamed"
    assert path.read_bytes() == before
    assert checkpoint.load(path).metadata["step"] == 13


def test_an_error_while_writing_leaves_the_previous_one(path, monkeypatch):
    def full_disk(tensors, filename, metadata):
        raise OSError("No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full_disk)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(path, {"x": torch.ones(3)}, {"step": 14})
    assert checkpoint.load(path).metadata["step"] == 13
    assert [p.name for p in path.parent.iterdir()] == [path.name]


class Tied(nn.Module):
    """Two names for one matrix, a frozen one, a stored buffer and one that is not."""

    def __init__(self, width=5):
        super().__init__()
        self.embed = nn.Linear(width, 7, bias=False)
        self.head = nn.Linear(width, 7)
        self.head.weight = self.embed.weight
        self.frozen = nn.Linear(3, 2, bias=False).requires_grad_(False)
        self.register_buffer("kept", torch.arange(4.0))
        self.register_buffer("derived", torch.arange(6.0), persistent=False)


def stepped(width=5):
    model = Tied(width)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter) if parameter.requires_grad else None
    optimizer.step()
    return model, optimizer


def test_state_holds_what_moves_and_nothing_else():
    state = checkpoint.training_state(*stepped())
    slots = ("step", "exp_avg", "exp_avg_sq")
    assert state.keys() == {
        *("model.embed.weight", "model.head.bias", "model.kept"),
        *(f"optimizer.{name}.{slot}" for name in ("embed.weight", "head.bias") for slot in slots),
    }


def test_state_returns_to_a_fresh_model():
    model, optimizer = stepped()
    state = {
        name: tensor.clone() for name, tensor in checkpoint.training_state(model, optimizer).items()
    }
    fresh = Tied()
    fresh_optimizer = torch.optim.AdamW([p for p in fresh.parameters() if p.requires_grad], lr=0.1)
    checkpoint.restore_training_state(fresh, fresh_optimizer, state)
    assert fresh.head.weight is fresh.embed.weight
    again = checkpoint.training_state(fresh, fresh_optimizer)
    assert again.keys() == state.keys()
    for name in state:
        assert torch.equal(again[name], state[name]), name


def test_another_model_is_refused_and_stays_whole():
    state = checkpoint.training_state(*stepped())
    other, optimizer = stepped(width=6)
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    with pytest.raises(ValueError, match=r"embed.weight is \(7, 5\) there and \(7, 6\) here"):
        checkpoint.restore_training_state(other, optimizer, state)
    other.frozen.requires_grad_(True)
    with pytest.raises(ValueError, match=r"frozen\.weight"):
        checkpoint.restore_training_state(other, optimizer, state)
    for name, tensor in other.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_metadata_is_readable_without_labkit(path):
    length = int.from_bytes(path.read_bytes()[:8], "little")
    header = json.loads(path.read_bytes()[8 : 8 + length])
    assert json.loads(header["__metadata__"]["metadata"])["step"] == 13
