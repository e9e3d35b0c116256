"""The driver against plain forward hooks, on MiniLLM, transformers' Llama and bare modules."""

import copy
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from labkit.compression.calibration import (
    calibrate,
    calibration_windows,
    compress,
    compress_layers,
)
from labkit.compression.errors import hessian_error
from labkit.compression.gptq import GptqConfig, GptqResult, gptq
from labkit.compression.packed import to_quant_linear
from labkit.compression.pruning import PruningConfig, magnitude_mask, prune, wanda_mask
from labkit.compression.rtn import rtn
from labkit.compression.statistics import ColumnNormStats, HessianStats
from labkit.data.pydoc_corpus import topics
from labkit.model.minillm import MiniLLM
from labkit.model.zoo import Loaded
from labkit.quant.affine import AffineConfig, fake_quantize
from labkit.quant.linear import QuantLinear

LINEARS = (
    *("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"),
    *("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
)
CONFIG = AffineConfig(bits=3, granularity="channel")


@pytest.fixture(params=["minillm", "transformers"])
def model(
    request: pytest.FixtureRequest, tiny_model: MiniLLM, as_llama: Callable[[MiniLLM], nn.Module]
) -> nn.Module:
    """The same random weights in both implementations."""
    return tiny_model if request.param == "minillm" else as_llama(tiny_model)


@pytest.fixture
def batches(gen: torch.Generator) -> list[Tensor]:
    return [torch.randint(97, (3, 19), generator=gen), torch.randint(97, (2, 11), generator=gen)]


def hooked_hessians(model: nn.Module, batches: list[Tensor]) -> dict[str, Tensor]:
    """Inputs of every block linear, kept whole from an ordinary forward pass."""
    inputs: dict[str, list[Tensor]] = {}
    handles = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and ".layers." in name:
            kept = inputs.setdefault(name, [])
            handles.append(
                module.register_forward_pre_hook(
                    lambda _, args, kept=kept: kept.append(args[0].flatten(0, 1))
                )
            )
    with torch.no_grad():
        for batch in batches:
            model(batch)
    for handle in handles:
        handle.remove()
    joined = {name: torch.cat(kept).double() for name, kept in inputs.items()}
    return {name: x.T @ x / len(x) for name, x in joined.items()}


def test_calibrate_equals_hooks_on_a_plain_forward(model: nn.Module, batches: list[Tensor]) -> None:
    before = copy.deepcopy(model.state_dict())
    stats = calibrate(model, batches, HessianStats)
    expected = hooked_hessians(model, batches)
    assert stats.keys() == expected.keys()
    assert len(stats) == 3 * 7
    for name, hessian in expected.items():
        assert stats[name].num_tokens == 3 * 19 + 2 * 11
        torch.testing.assert_close(stats[name].hessian.double(), hessian, rtol=1e-4, atol=1e-7)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_later_blocks_see_the_compressed_earlier_ones(
    model: nn.Module, batches: list[Tensor]
) -> None:
    seen: dict[int, Tensor] = {}

    def keep(weight: Tensor, stats: HessianStats) -> Tensor:
        seen[len(seen)] = stats.hessian
        return fake_quantize(weight, CONFIG)

    reference = copy.deepcopy(model)
    reports = compress(model, batches, HessianStats, keep)
    names = [report.name for report in reports]
    for block in range(3):  # brute force: a whole forward pass of the half-compressed model
        expected = hooked_hessians(reference, batches)
        for index, name in enumerate(names):
            if f".layers.{block}." in name:
                torch.testing.assert_close(
                    seen[index].double(), expected[name], rtol=1e-4, atol=1e-7
                )
                linear = reference.get_submodule(name)
                linear.weight.data = fake_quantize(linear.weight.data, CONFIG)
    got, wanted = model.state_dict(), reference.state_dict()
    assert all(torch.equal(got[name], wanted[name]) for name in wanted)


def test_gptq_beats_round_to_nearest_in_every_layer(model: nn.Module, gen: torch.Generator) -> None:
    """Both errors against the same statistics, those of the unmodified model."""
    windows = torch.randint(97, (40, 23), generator=gen)
    stats = calibrate(model, windows.split(8), HessianStats)
    ratios = []
    for name, layer in stats.items():
        weight = model.get_submodule(name).weight.data
        result = gptq(weight, layer.hessian, GptqConfig(affine=CONFIG)).dequantize()
        nearest = rtn(weight, CONFIG).dequantize()
        ratios.append(
            hessian_error(weight, result, layer.hessian)
            / hessian_error(weight, nearest, layer.hessian)
        )
    assert max(ratios) < 1
    assert sum(ratios) / len(ratios) <= 0.8


METHODS: dict[str, Callable[[Tensor, HessianStats], Tensor]] = {
    "rtn": lambda weight, stats: rtn(weight, CONFIG).dequantize(),
    "gptq": lambda weight, stats: gptq(
        weight, stats.hessian, GptqConfig(affine=CONFIG)
    ).dequantize(),
    "magnitude": lambda weight, stats: prune(
        weight, magnitude_mask(weight, PruningConfig(pattern=(2, 4)))
    ),
    "wanda": lambda weight, stats: prune(
        weight, wanda_mask(weight, stats.column_norms, PruningConfig(pattern=(2, 4)))
    ),
}


@pytest.mark.parametrize("method", METHODS)
def test_one_driver_serves_every_method(
    tiny_model: MiniLLM, batches: list[Tensor], method: str
) -> None:
    before = copy.deepcopy(tiny_model.state_dict())
    reports = compress(tiny_model, batches, HessianStats, METHODS[method])
    assert len(reports) == 21
    for report in reports:
        old = before[f"{report.name}.weight"]
        new = tiny_model.get_submodule(report.name).weight.data
        assert not torch.equal(old, new)
        assert report.relative_error == pytest.approx(
            float((old - new).norm() / old.norm()), rel=1e-4
        )
        assert report.hessian_error is not None
        assert report.hessian_error > 0
    compressed = {f"{report.name}.weight" for report in reports}
    for name, value in tiny_model.state_dict().items():
        assert name in compressed or torch.equal(value, before[name])


def test_wanda_runs_on_norms_alone_and_reports_no_hessian_error(
    tiny_model: MiniLLM, batches: list[Tensor]
) -> None:
    twin = copy.deepcopy(tiny_model)
    config = PruningConfig(sparsity=0.5)
    reports = compress(
        tiny_model,
        batches,
        ColumnNormStats,
        lambda w, s: prune(w, wanda_mask(w, s.column_norms, config)),
    )
    assert all(report.hessian_error is None for report in reports)
    compress(
        twin, batches, HessianStats, lambda w, s: prune(w, wanda_mask(w, s.column_norms, config))
    )
    assert all(
        torch.equal(value, twin.state_dict()[name])
        for name, value in tiny_model.state_dict().items()
    )


def test_only_the_chosen_layers_change(tiny_model: MiniLLM, batches: list[Tensor]) -> None:
    chosen = ["mlp.down_proj", "model.layers.0.self_attn.q_proj"]
    before = copy.deepcopy(tiny_model.state_dict())
    reports = compress(
        tiny_model, batches, HessianStats, lambda w, s: fake_quantize(w, CONFIG), layers=chosen
    )
    assert [report.name for report in reports] == [
        "model.layers.0.self_attn.q_proj",
        "model.layers.0.mlp.down_proj",
        "model.layers.1.mlp.down_proj",
        "model.layers.2.mlp.down_proj",
    ]
    changed = {
        name
        for name, value in tiny_model.state_dict().items()
        if not torch.equal(value, before[name])
    }
    assert changed == {f"{report.name}.weight" for report in reports}


def test_packed_linears_compute_what_the_dequantized_weights_do(
    tiny_model: MiniLLM, batches: list[Tensor]
) -> None:
    twin = copy.deepcopy(tiny_model)
    affine = AffineConfig(bits=4, granularity="group", group_size=8)
    config = GptqConfig(affine=affine, static_groups=True)

    def fn(weight: Tensor, stats: HessianStats) -> GptqResult:
        return gptq(weight, stats.hessian, config)

    dense = compress(tiny_model, batches, HessianStats, fn)
    packed = compress(twin, batches, HessianStats, fn, to_module=to_quant_linear)
    assert packed == dense
    assert sum(isinstance(module, QuantLinear) for module in twin.modules()) == 21
    torch.testing.assert_close(twin(batches[0]), tiny_model(batches[0]), rtol=1e-5, atol=1e-6)


def test_refitted_groups_in_act_order_cannot_be_packed(
    tiny_model: MiniLLM, batches: list[Tensor]
) -> None:
    affine = AffineConfig(bits=4, granularity="group", group_size=8)
    with pytest.raises(ValueError, match="static_groups=True"):
        compress(
            tiny_model,
            batches,
            HessianStats,
            lambda weight, stats: gptq(weight, stats.hessian, GptqConfig(affine=affine)),
            to_module=to_quant_linear,
        )


def test_blocks_that_are_linears_themselves(gen: torch.Generator) -> None:
    class Chain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.steps = nn.ModuleList([nn.Linear(5, 9), nn.Linear(9, 3)])

        def forward(self, x: Tensor) -> Tensor:
            for step in self.steps:
                x = step(x)
            return x

    model, x = Chain(), torch.randn(13, 5, generator=gen)
    reports = compress(
        model, [x], HessianStats, lambda w, s: rtn(w, CONFIG), to_module=to_quant_linear
    )
    assert [report.name for report in reports] == ["steps.0", "steps.1"]
    assert all(isinstance(step, QuantLinear) for step in model.steps)


def test_a_result_may_replace_the_module(tiny_model: MiniLLM, batches: list[Tensor]) -> None:
    class Doubled(nn.Module):
        def __init__(self, linear: nn.Linear) -> None:
            super().__init__()
            self.linear = linear

        def forward(self, x: Tensor) -> Tensor:
            return 2 * self.linear(x)

    compress(
        tiny_model,
        batches,
        ColumnNormStats,
        lambda weight, stats: weight,
        layers=["up_proj"],
        to_module=lambda linear, result: Doubled(linear),
    )
    assert all(isinstance(block.mlp.up_proj, Doubled) for block in tiny_model.model.layers)
    tiny_model(batches[0])


def test_statistics_of_finished_blocks_are_freed(
    tiny_model: MiniLLM, batches: list[Tensor]
) -> None:
    alive: list[weakref.ref[HessianStats]] = []

    def make(in_features: int) -> HessianStats:
        stats = HessianStats(in_features)
        alive.append(weakref.ref(stats))
        return stats

    for report in compress_layers(tiny_model, batches, make, lambda w, s: w):
        assert sum(ref() is not None for ref in alive) <= 7, report.name
    assert len(alive) == 21


def test_a_model_without_a_module_list_is_one_block(gen: torch.Generator) -> None:
    model = nn.Sequential(nn.Linear(5, 9), nn.Tanh(), nn.Linear(9, 3))
    x = torch.randn(13, 5, generator=gen)
    stats = calibrate(model, [x[:6], x[6:]], HessianStats)
    assert list(stats) == ["0", "2"]
    torch.testing.assert_close(stats["0"].hessian, x.T @ x / 13)
    hidden = torch.tanh(model[0](x)).detach()
    torch.testing.assert_close(stats["2"].hessian, hidden.T @ hidden / 13)


def test_the_model_is_whole_again_after_an_error(
    tiny_model: MiniLLM, batches: list[Tensor]
) -> None:
    expected = tiny_model(batches[0])

    def fail(weight: Tensor, stats: HessianStats) -> Tensor:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        compress(tiny_model, batches, HessianStats, fail)
    assert torch.equal(tiny_model(batches[0]), expected)
    assert all("forward" not in vars(module) for module in tiny_model.modules())
    assert not any(module._forward_pre_hooks for module in tiny_model.modules())


def test_bad_input_is_refused(tiny_model: MiniLLM, batches: list[Tensor]) -> None:
    with pytest.raises(ValueError, match="no linear layer 'w_proj'"):
        calibrate(tiny_model, batches, HessianStats, layers=["q_proj", "w_proj"])
    with pytest.raises(ValueError, match="at least one batch"):
        calibrate(tiny_model, [], HessianStats)
    with pytest.raises(ValueError, match="no linear layer"):
        calibrate(nn.Sequential(nn.Tanh()), batches, HessianStats)
    with pytest.raises(ValueError, match=r"q_proj: result \(3, 3\) for weight \(24, 24\)"):
        compress(tiny_model, batches, HessianStats, lambda w, s: torch.ones(3, 3))


def test_calibration_windows(gen: torch.Generator) -> None:
    ids = torch.arange(50)
    windows = calibration_windows(ids, length=7, count=200, generator=gen)
    assert windows.shape == (200, 7)
    assert torch.equal(windows - windows[:, :1], torch.arange(7).expand(200, 7))
    assert windows.min() == 0
    assert windows.max() == 49
    with pytest.raises(ValueError, match=r"length=51 .* 50 tokens"):
        calibration_windows(ids, length=51, count=1, generator=gen)


@pytest.mark.slow
def test_gptq_beats_round_to_nearest_on_the_real_model(smollm2: Loaded) -> None:
    """In the blocks whose `down_proj` inputs are calm (0) and wild (11), at 4 bits a row."""
    ids = torch.tensor(smollm2.tokenizer.encode(" ".join(topics()[:8])))[:2048]
    wanted = [f"model.layers.{block}.{name}" for block in (0, 11) for name in LINEARS]
    stats = calibrate(smollm2.model, ids.view(4, 1, 512), HessianStats, layers=wanted)
    affine = AffineConfig(bits=4, granularity="channel")
    ratios = {}
    for name, layer in stats.items():
        weight, hessian = smollm2.model.get_submodule(name).weight.data, layer.hessian
        result = gptq(weight, hessian, GptqConfig(affine=affine)).dequantize()
        nearest = rtn(weight, affine).dequantize()
        ratios[name] = hessian_error(weight, result, hessian) / hessian_error(
            weight, nearest, hessian
        )
    assert len(ratios) == 14
    assert max(ratios.values()) < 1, ratios
    assert sum(ratios.values()) / 14 <= 0.8, ratios
