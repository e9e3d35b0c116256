"""Streamed layers: the plain model's numbers bit for bit, in the memory that the formula says."""

import copy
import gc
import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from labkit.inference.executors import ModuleExecutor
from labkit.inference.generate import generate_ids
from labkit.inference.layer_streaming import (
    StreamedBlock,
    blocks_bytes,
    step_seconds,
    stream_layers,
)
from labkit.inference.native_executor import refusal
from labkit.inference.sampling import SamplingConfig
from labkit.inference.weight_sources import FileWeights, MemoryWeights
from labkit.model import huggingface
from labkit.model.config import ModelConfig
from labkit.model.minillm import MiniLLM
from labkit.model.zoo import Loaded
from labkit.quant.affine import AffineConfig
from labkit.quant.linear import quantize_model
from labkit.runtime.errors import CorruptFileError
from tests.labkit.inference.steps import run

IDS = torch.arange(40, 62).view(2, 11)


def plain(loaded: Loaded) -> MiniLLM:
    return copy.deepcopy(loaded.model)


def on_meta(config: ModelConfig) -> MiniLLM:
    with torch.device("meta"):
        return MiniLLM(config)


@pytest.mark.parametrize("resident", [0, 1, 2])
@pytest.mark.parametrize("where", ["file", "memory"])
def test_logits_are_the_same_bit_for_bit(
    byte_loaded: Loaded, byte_folder: Path, resident: int, where: str
) -> None:
    want = byte_loaded.model(IDS)
    if where == "file":
        model, source = on_meta(byte_loaded.config), FileWeights(byte_folder / huggingface.WEIGHTS)
    else:
        model = plain(byte_loaded)
        source = MemoryWeights(model.state_dict())
    stream = stream_layers(model, source, resident=resident)
    with torch.no_grad():
        for _ in range(3):  # also when the buffers have been through all layers
            assert torch.equal(model(IDS), want)
    assert stream.counts.read_bytes >= 3 * (3 - resident) * stream.layer_bytes
    kinds = [isinstance(block, StreamedBlock) for block in model.model.layers]
    assert kinds == [layer >= resident for layer in range(3)]


def test_generation_and_the_executor_run_on_streamed_layers(
    byte_loaded: Loaded, byte_folder: Path
) -> None:
    model = on_meta(byte_loaded.config)
    stream_layers(model, FileWeights(byte_folder / huggingface.WEIGHTS), resident=1)
    config = SamplingConfig(max_new_tokens=9, ignore_eos=True)
    want = generate_ids(byte_loaded.model, IDS, config)
    assert torch.equal(generate_ids(model, IDS, config), want)
    got, want = (
        run(
            ModuleExecutor(m, num_pages=6, page_size=5),
            IDS.tolist(),
            tables=[[0, 1, 2], [5, 4, 3]],
        )
        for m in (model, byte_loaded.model)
    )
    assert torch.equal(got, want)


def test_parts_are_found_and_hooked_by_their_old_names(byte_loaded: Loaded) -> None:
    """As mounted adapters do it."""
    model, want, got = plain(byte_loaded), [], []
    path = "model.layers.1.self_attn.q_proj"
    hook = model.get_submodule(path).register_forward_hook(lambda *args: want.append(args[2]))
    with torch.no_grad():
        model(IDS)
        hook.remove()
        stream_layers(model, MemoryWeights(model.state_dict()), resident=0)
        model.get_submodule(path).register_forward_hook(lambda *args: got.append(args[2]))
        model(IDS)
    assert torch.equal(want[0], got[0])
    with pytest.raises(AttributeError, match="no_such_part"):
        _ = model.model.layers[1].no_such_part


def test_tied_and_quantized_and_16_bit_weights_stream_as_well(tmp_path: Path) -> None:
    config = ModelConfig(
        vocab_size=50, width=32, num_layers=4, num_heads=4, num_kv_heads=2, head_width=8,
        ffn_width=64, tie_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(3)
    half = MiniLLM(config).bfloat16().eval()
    quantized = MiniLLM(config).eval()
    quantize_model(quantized, AffineConfig(bits=4, granularity="group", group_size=16))
    for index, model in enumerate((half, quantized)):
        with torch.no_grad():
            want = model(IDS % 50)
        state = {name: t.contiguous() for name, t in model.state_dict().items()}
        state.pop("lm_head.weight")
        save_file(state, tmp_path / f"{index}.safetensors")
        stream_layers(model, FileWeights(tmp_path / f"{index}.safetensors"), resident=1)
        with torch.no_grad():
            assert torch.equal(model(IDS % 50), want)
        assert model.lm_head.weight is model.model.embed_tokens.weight


def matrices() -> dict[int, int]:
    """Bytes of every tensor in memory that is as large as the model's smallest matrix."""
    gc.collect()
    found = {}
    for item in gc.get_objects():
        if type(item) in (Tensor, torch.nn.Parameter) and item.device.type == "cpu":
            storage = item.untyped_storage()
            if storage.nbytes() >= 24 * 8 * 4:
                found[storage.data_ptr()] = storage.nbytes()
    return found


@pytest.mark.parametrize("resident", [0, 1])
def test_no_more_is_in_memory_than_resident_blocks_and_two_buffers(
    byte_loaded: Loaded, byte_folder: Path, resident: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted while every block runs, among all tensors of the process."""
    before, counts = matrices(), []
    real = StreamedBlock.forward

    def counting(self: StreamedBlock, *args: object) -> Tensor:
        counts.append(sum(n for at, n in matrices().items() if at not in before))
        return real(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(StreamedBlock, "forward", counting)
    config = byte_loaded.config
    model = on_meta(config)
    stream = stream_layers(model, FileWeights(byte_folder / huggingface.WEIGHTS), resident=resident)
    with torch.no_grad():
        model(torch.tensor([[65]]))
    norms = 2 * config.width * 4
    rest = 2 * config.vocab_size * config.width * 4  # embedding and head
    blocks = blocks_bytes(stream.layer_bytes - norms, resident=resident)
    assert counts == [rest + blocks] * (3 - resident)
    own = sum(p.nbytes for p in byte_loaded.model.model.layers[0].parameters())
    assert stream.layer_bytes == own


class Watched:
    """A source that says which layers are read, and lets the test hold a read back."""

    def __init__(self, source: MemoryWeights) -> None:
        self.source, self.layers = source, list[int]()
        self.go = threading.Event()
        self.go.set()
        self.fails = 0

    def check(self, wanted: Mapping[str, Tensor]) -> None:
        self.source.check(wanted)

    def read(self, into: Mapping[str, Tensor]) -> None:
        assert self.go.wait(30)
        self.layers.append(int(next(iter(into)).split(".")[2]))
        if self.fails:
            self.fails -= 1
            raise OSError("the disk is gone")
        self.source.read(into)


def watched(loaded: Loaded, resident: int) -> tuple[MiniLLM, Watched]:
    model = plain(loaded)
    source = Watched(MemoryWeights(model.state_dict()))
    stream_layers(model, source, resident=resident)
    return model, source


def test_the_next_layer_is_read_while_one_computes(byte_loaded: Loaded) -> None:
    """A block's forward ends although the read ahead of it is held back."""
    model, source = watched(byte_loaded, 1)
    seen: list[list[int]] = []
    for block in model.model.layers:
        block.register_forward_pre_hook(lambda *_: source.go.set())
        block.register_forward_hook(lambda *_: seen.append(list(source.layers)))
    inner = cast(StreamedBlock, model.model.layers[1]).block
    inner.register_forward_pre_hook(lambda *_: source.go.clear())
    with torch.no_grad():
        model(IDS)
    assert seen[1] in ([1], [1, 2])  # it did not wait for the read of layer 2 to end
    source.go.set()
    with torch.no_grad():
        model(IDS)
    assert source.layers[:4] == [1, 2, 1, 2]  # each once a forward, the first one ahead


def test_a_layer_out_of_turn_is_read_anew(byte_loaded: Loaded) -> None:
    model, _ = watched(byte_loaded, 0)
    with torch.no_grad():
        want = byte_loaded.model(IDS)
        x = torch.randn(1, 3, 24, generator=torch.Generator().manual_seed(0))
        rope = (torch.ones(1, 3, 2), torch.zeros(1, 3, 2))
        for layer in (2, 2, 0, 2, 1):
            expected = byte_loaded.model.model.layers[layer](x, rope)
            assert torch.equal(model.model.layers[layer](x, rope), expected)
        assert torch.equal(model(IDS), want)


def test_a_failed_read_raises_and_the_next_forward_is_right_again(byte_loaded: Loaded) -> None:
    model, source = watched(byte_loaded, 0)
    with torch.no_grad():
        want = byte_loaded.model(IDS)
        source.fails = 2
        for _ in range(2):
            with pytest.raises(OSError, match="the disk is gone"):
                model(IDS)
        assert torch.equal(model(IDS), want)


def test_a_file_cut_short_while_serving_raises(byte_loaded: Loaded, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file(byte_loaded.model.state_dict(), path)
    model = plain(byte_loaded)
    stream_layers(model, FileWeights(path), resident=0)
    os.truncate(path, path.stat().st_size // 2)
    with torch.no_grad(), pytest.raises(CorruptFileError, match=r"ends within model\.layers\."):
        model(IDS)


def test_what_is_refused(byte_loaded: Loaded, byte_folder: Path, tmp_path: Path) -> None:
    source = FileWeights(byte_folder / huggingface.WEIGHTS)
    with pytest.raises(ValueError, match=r"resident=3 must lie in \[0, 2\] for 3 blocks"):
        stream_layers(on_meta(byte_loaded.config), source, resident=3)
    with pytest.raises(ValueError, match=r"weight is torch.float32 .*the model wants torch.bfloat"):
        stream_layers(on_meta(byte_loaded.config).bfloat16(), source, resident=0)
    state = byte_loaded.model.state_dict()
    del state["model.layers.2.mlp.up_proj.weight"]
    with pytest.raises(ValueError, match=r"no model\.layers\.2\.mlp\.up_proj\.weight"):
        stream_layers(plain(byte_loaded), MemoryWeights(state), resident=0)
    mixed = plain(byte_loaded)
    mixed.model.layers[2].bfloat16()
    with pytest.raises(ValueError, match=r"layer 2 differs .* in input_layernorm\.weight"):
        stream_layers(mixed, MemoryWeights(mixed.state_dict()), resident=0)
    model = plain(byte_loaded)
    stream_layers(model, MemoryWeights(model.state_dict()), resident=0)
    with pytest.raises(ValueError, match=r"have no gradients"):
        model(IDS)
    assert "weights that are not in memory" in refusal(model)


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(100)}, path)
    whole = path.read_bytes()
    for content in (whole[:-1], b"", b"\xff" * 40, whole[:8] + b"x" + whole[9:]):
        path.write_bytes(content)
        with pytest.raises(CorruptFileError, match=r"model\.safetensors: "):
            FileWeights(path)
    header = {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
    text = json.dumps(header).encode()
    path.write_bytes(
        len(text).to_bytes(8, "little") + text + torch.tensor([2.5, -1.0]).numpy().tobytes()
    )
    got = torch.zeros(2)
    FileWeights(path).read({"a": got})
    assert got.tolist() == [2.5, -1.0]


def test_a_step_takes_as_long_as_the_slower_of_reading_and_computing() -> None:
    reading = step_seconds(streamed_bytes=2_000_000_000, bandwidth_bytes_s=4e9, compute_seconds=0.1)
    assert reading == pytest.approx(0.5)
    assert step_seconds(
        streamed_bytes=2_000, bandwidth_bytes_s=4e9, compute_seconds=0.1
    ) == pytest.approx(0.1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_computes_with_weights_from_cpu_memory(byte_loaded: Loaded) -> None:
    model = plain(byte_loaded)
    source = MemoryWeights(model.state_dict(), pin=True)
    stream_layers(model, source, resident=1, device="cuda")
    whole = plain(byte_loaded).to("cuda")
    with torch.no_grad():
        for _ in range(20):
            assert torch.equal(model(IDS.cuda()), whole(IDS.cuda()))
