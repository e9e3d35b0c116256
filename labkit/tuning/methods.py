"""Every tuning method by name, as usually set up: for tables, command lines and services."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from labkit.tuning import (
    adalora,
    bitfit,
    bottleneck,
    ia3,
    loftq,
    lora,
    mam,
    p_tuning,
    prefix_tuning,
    prompt_tuning,
    qlora,
    unipelt,
)
from labkit.tuning.targets import ALL_LINEAR

RANK, WIDTH, VIRTUAL_TOKENS = 8, 64, 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Method:
    """One way of tuning.

    Attributes:
        title: As its paper calls it.
        paper: arXiv id; "" for tuning all weights.
        settings: Its usual options, given the steps of the run; only AdaLoRA plans with them.
        apply: Its module's function; given a model, options and those of `takes`.
        takes: Which of `generator` and `dtype` it wants.
        keeps_start: Whether the outputs stay the same until the first step.
        packs: Whether several examples may share a row.
        penalty: Added to the loss, in nats a token, given the model and its options.
        allocator: Makes what must be updated after every step, given the model and its options.
    """

    title: str
    paper: str
    settings: Callable[[int], Any]
    apply: Callable[..., nn.Module]
    takes: tuple[str, ...] = ("generator", "dtype")
    keeps_start: bool = True
    packs: bool = True
    penalty: Callable[[nn.Module, Any], Tensor] | None = None
    allocator: Callable[[nn.Module, Any], adalora.RankAllocator] | None = None

    def put(
        self, model: nn.Module, settings: Any, generator: torch.Generator | None = None
    ) -> nn.Module:
        """Freeze a model and put the method on it, in place; what it adds trains in float32.

        Args:
            model: Any that the method takes.
            settings: What `settings` gave, or others of the same kind.
            generator: Starting values are drawn from it.

        Returns:
            The same model.

        Raises:
            ValueError: The method does not fit the model, which is then unchanged.
        """
        offered = {"generator": generator, "dtype": torch.float32}
        return self.apply(model, settings, **{name: offered[name] for name in self.takes})


def lora_config(*, use_rslora: bool = False, use_dora: bool = False) -> lora.LoraConfig:
    """Rank 8 on every linear layer, scaled by 2; rsLoRA has four times the rank, and that scaling.

    At one rank rsLoRA is LoRA with another alpha: what it is for are larger ranks.
    """
    return lora.LoraConfig(
        rank=4 * RANK if use_rslora else RANK,
        alpha=2.0 * (4 * RANK) ** 0.5 if use_rslora else 2.0 * RANK,
        target_modules=ALL_LINEAR,
        use_rslora=use_rslora,
        use_dora=use_dora,
    )


def adalora_config(steps: int) -> adalora.AdaLoraConfig:
    """A rank of 12 that shrinks to 8 between a sixth and two thirds of the run."""
    return adalora.AdaLoraConfig(
        init_rank=RANK + RANK // 2,
        target_rank=RANK,
        target_modules=ALL_LINEAR,
        total_steps=steps,
        initial_steps=steps // 6,
        final_steps=steps // 3,
    )


def _constant(settings: Any) -> Callable[[int], Any]:
    return lambda steps: settings


def _prefix(projection: bool) -> prefix_tuning.PrefixTuningConfig:
    return prefix_tuning.PrefixTuningConfig(
        num_virtual_tokens=VIRTUAL_TOKENS, projection=projection
    )


def _all_weights(model: nn.Module, settings: None) -> nn.Module:
    return model.requires_grad_(True)


def _orthogonality(model: nn.Module, settings: adalora.AdaLoraConfig) -> Tensor:
    return settings.orthogonality_weight * adalora.orthogonality(model)


def _lora(title: str, paper: str, settings: lora.LoraConfig) -> Method:
    return Method(title=title, paper=paper, settings=_constant(settings), apply=lora.apply)


def _bottleneck(title: str, paper: str, settings: bottleneck.BottleneckConfig) -> Method:
    return Method(title=title, paper=paper, settings=_constant(settings), apply=bottleneck.apply)


def _virtual(title: str, paper: str, settings: Any, apply: Callable[..., nn.Module]) -> Method:
    return Method(
        title=title,
        paper=paper,
        settings=_constant(settings),
        apply=apply,
        keeps_start=False,
        packs=False,
    )


METHODS = {
    "full": Method(
        title="all weights", paper="", settings=_constant(None), apply=_all_weights, takes=()
    ),
    "bitfit": Method(
        title="BitFit",
        paper="2106.10199",
        settings=_constant(bitfit.BitfitConfig(target_modules=ALL_LINEAR, add=True)),
        apply=bitfit.apply,
        takes=(),
    ),
    "prompt": _virtual(
        "prompt tuning",
        "2104.08691",
        prompt_tuning.PromptTuningConfig(num_virtual_tokens=VIRTUAL_TOKENS),
        prompt_tuning.apply,
    ),
    "p-tuning": _virtual(
        "P-tuning",
        "2103.10385",
        p_tuning.PTuningConfig(num_virtual_tokens=VIRTUAL_TOKENS),
        p_tuning.apply,
    ),
    "prefix": _virtual("prefix tuning", "2101.00190", _prefix(True), prefix_tuning.apply),
    "p-tuning-v2": _virtual("P-tuning v2", "2110.07602", _prefix(False), prefix_tuning.apply),
    "houlsby": _bottleneck("adapters, Houlsby", "1902.00751", bottleneck.houlsby(WIDTH)),
    "pfeiffer": _bottleneck("adapters, Pfeiffer", "2005.00247", bottleneck.pfeiffer(WIDTH)),
    "parallel": _bottleneck("adapters, parallel", "2110.04366", bottleneck.parallel(WIDTH)),
    "ia3": Method(
        title="(IA)^3",
        paper="2205.05638",
        settings=_constant(ia3.Ia3Config()),
        apply=ia3.apply,
        takes=("dtype",),
    ),
    "lora": _lora("LoRA", "2106.09685", lora_config()),
    "rslora": _lora("rsLoRA, rank 32", "2312.03732", lora_config(use_rslora=True)),
    "dora": _lora("DoRA", "2402.09353", lora_config(use_dora=True)),
    "adalora": Method(
        title="AdaLoRA",
        paper="2303.10512",
        settings=adalora_config,
        apply=adalora.apply,
        penalty=_orthogonality,
        allocator=adalora.RankAllocator,
    ),
    "qlora": Method(
        title="QLoRA",
        paper="2305.14314",
        settings=_constant(qlora.QloraConfig(lora=lora_config())),
        apply=qlora.apply,
        keeps_start=False,
    ),
    "loftq": Method(
        title="LoftQ",
        paper="2310.08659",
        settings=_constant(loftq.LoftqConfig(qlora=qlora.QloraConfig(lora=lora_config()))),
        apply=loftq.apply,
        takes=("dtype",),
        keeps_start=False,
    ),
    "mam": _virtual(
        "MAM adapter",
        "2110.04366",
        mam.MamConfig(prefix=_prefix(False), adapter=bottleneck.parallel(WIDTH)),
        mam.apply,
    ),
    "unipelt": _virtual("UniPELT", "2110.07577", unipelt.UnipeltConfig(), unipelt.apply),
}
