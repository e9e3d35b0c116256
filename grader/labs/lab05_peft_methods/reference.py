"""labkit's methods in the shapes that lab 05's exercises ask for; the source of expected values."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import _disable_current_modes

from labkit.model.config import ModelConfig
from labkit.model.minillm import MiniLLM
from labkit.objectives.language_modelling import IGNORE_INDEX, cross_entropy
from labkit.tuning import adalora, bitfit, bottleneck, ia3, lora, prefix_tuning, prompt_tuning
from labkit.tuning.dora_layer import DoraLinear
from labkit.tuning.targets import ALL_LINEAR

Triple = tuple[Tensor, Tensor, Tensor]
Memory = list[tuple[tuple[Tensor, Tensor], ...]]
Layer = Callable[[Tensor, int], Tensor]
NAMES = ("lora_A", "lora_E", "lora_B")


class Adapter(bottleneck.Bottleneck):
    """labkit's adapter over a base that it freezes itself."""

    def __init__(
        self,
        base: nn.Module,
        inputs: int,
        outputs: int,
        width: int,
        form: str,
        scaling: float,
        generator: torch.Generator,
    ) -> None:
        config = bottleneck.BottleneckConfig(width=width, form=form, scaling=scaling)
        super().__init__(
            base.requires_grad_(False), config, generator=generator, dtype=torch.float32
        )

    @property
    def base(self) -> nn.Module:
        """The module under another name."""
        return self.base_layer


def prompted_loss(
    decoder: Callable[[Tensor, Tensor, Tensor], Tensor],
    rows: Tensor,
    embeddings: Tensor,
    mask: Tensor,
    labels: Tensor,
) -> tuple[Tensor, Tensor]:
    """Virtual tokens as transformers and PEFT see them: more tokens, whose labels are ignored."""
    (B, T), P = mask.shape, len(rows)
    before = rows.to(embeddings.dtype).expand(B, -1, -1)
    logits = decoder(
        torch.cat((before, embeddings), dim=1),
        functional.pad(mask, (P, 0), value=True),
        torch.arange(P + T).expand(B, -1),
    )
    total, count = cross_entropy(logits, functional.pad(labels, (P, 0), value=IGNORE_INDEX))
    return logits[:, P:], total / count


def prefix_attention(
    q: Tensor, k: Tensor, v: Tensor, prefix_k: Tensor, prefix_v: Tensor
) -> tuple[Tensor, Tensor]:
    """One softmax over prefix and text, in float64, outside of what watches for one."""
    with _disable_current_modes():
        (B, _, T, K), P = q.shape, prefix_k.shape[1]
        keys = torch.cat((prefix_k.expand(B, -1, -1, -1), k), dim=2).double()
        values = torch.cat((prefix_v.expand(B, -1, -1, -1), v), dim=2).double()
        seen = functional.pad(torch.ones(T, T, dtype=torch.bool).tril(), (P, 0), value=True)
        scores = (q.double() @ keys.mT / K**0.5).masked_fill(~seen, -torch.inf)
        weights = scores.softmax(-1)
        return (weights @ values).float(), weights[..., :P].sum(-1).float()


class Ia3Linear(nn.Module):
    """labkit's layer with its factors in a row, and merged without being changed."""

    def __init__(self, base: nn.Linear, feedforward: bool) -> None:
        super().__init__()
        base.requires_grad_(False)
        inner = ia3.Ia3Linear(base, feedforward=feedforward, dtype=torch.float32)
        self.scale = nn.Parameter(inner.ia3_l.detach().flatten())
        self._inner = (inner,)  # a tuple: not registered

    def forward(self, x: Tensor) -> Tensor:
        """labkit's, with these factors."""
        factors = {"ia3_l": self.scale.view_as(self._inner[0].ia3_l)}
        out: Tensor = torch.func.functional_call(self._inner[0], factors, (x,))
        return out

    @torch.no_grad()
    def merged(self) -> tuple[Tensor, Tensor | None]:
        """The weight and bias that labkit would merge into the base."""
        [inner] = self._inner
        inner.ia3_l.copy_(self.scale.view_as(inner.ia3_l))
        return inner.merged_weight(), inner.merged_bias()


def dora_gradients(
    weight: Tensor,
    lora_A: Tensor,
    lora_B: Tensor,
    magnitude: Tensor,
    scaling: float,
    grad: Tensor,
    norm_is_constant: bool = True,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """labkit's layer fed with unit vectors; the true gradient from autograd."""
    factors: list[Tensor]
    if norm_is_constant:
        R, I = lora_A.shape  # noqa: E741
        base = nn.Linear(I, len(weight), bias=False, device="meta")
        base.weight = nn.Parameter(weight.clone(), requires_grad=False)
        config = lora.LoraConfig(rank=R, alpha=R * scaling, use_dora=True)
        layer = DoraLinear(base, config)
        factors = [layer.lora_magnitude_vector, layer.lora_A.weight, layer.lora_B.weight]
        with torch.no_grad():
            for parameter, given in zip(factors, (magnitude, lora_A, lora_B), strict=True):
                parameter.copy_(given)
        merged = layer(torch.eye(I)).T
    else:
        factors = [x.clone().requires_grad_() for x in (magnitude, lora_A, lora_B)]
        m, A, B = factors
        moved = weight + scaling * B @ A
        merged = m[:, None] * functional.normalize(moved, dim=1)
    found = torch.autograd.grad((merged * grad).sum(), factors)
    return merged.detach(), found[0], found[1], found[2]


def reallocate(
    factors: list[Triple],
    gradients: list[Triple],
    memory: Memory,
    beta_1: float,
    beta_2: float,
    budget: int,
) -> tuple[Memory, list[Tensor]]:
    """labkit's allocator at the last step of a long descent, where the budget is the target's."""
    rank, steps = len(factors[0][1]), 100_000
    config = adalora.AdaLoraConfig(
        init_rank=rank,
        target_rank=budget // len(factors),
        target_modules=tuple(f"{i}" for i in range(len(factors))),
        total_steps=steps,
        beta_sensitivity=beta_1,
        beta_uncertainty=beta_2,
    )
    model = nn.ModuleList(
        nn.Linear(A.shape[1], B.shape[0], bias=False, device="meta").to_empty(device="cpu")
        for A, _, B in factors
    )
    adalora.apply(model, config)
    allocator = adalora.RankAllocator(model, config)
    state: dict[str, dict[str, Tensor]] = {"sensitivity": {}, "uncertainty": {}, "kept": {}}
    for i, layer in adalora.layers(model).items():
        for place, name in enumerate(NAMES):
            weight = getattr(layer, name)
            shape = weight.shape
            with torch.no_grad():
                weight.copy_(factors[int(i)][place].view(shape))
            weight.grad = gradients[int(i)][place].view(shape).clone()
            for kind, entry in zip(
                ("sensitivity", "uncertainty"), memory[int(i)][place], strict=True
            ):
                state[kind][f"{i}.{name}"] = entry.view(shape)
    allocator.load_state_dict(state)
    allocator.update(steps - 1)
    after = allocator.state_dict()
    found = [
        tuple(
            (
                after["sensitivity"][f"{i}.{name}"].view_as(factors[i][place]),
                after["uncertainty"][f"{i}.{name}"].view_as(factors[i][place]),
            )
            for place, name in enumerate(NAMES)
        )
        for i in range(len(factors))
    ]
    return found, [after["kept"][f"{i}"] for i in range(len(factors))]


def trained_numbers(method: str, model: dict[str, int], size: int) -> int:
    """labkit's method on a model of this shape, counted."""
    config = ModelConfig(
        vocab_size=13,
        width=model["D"],
        num_layers=model["L"],
        num_heads=model["H"],
        num_kv_heads=model["G"],
        head_width=model["K"],
        ffn_width=model["F"],
    )
    adapted = PUT[method](MiniLLM(config), size)
    return sum(p.numel() for p in adapted.parameters() if p.requires_grad)


def _bitfit(model: nn.Module, size: int) -> nn.Module:
    return bitfit.apply(model, bitfit.BitfitConfig(target_modules=ALL_LINEAR, add=True))


def _prompt(model: nn.Module, size: int) -> nn.Module:
    config = prompt_tuning.PromptTuningConfig(num_virtual_tokens=size)
    return prompt_tuning.apply(model, config)


def _prefix(model: nn.Module, size: int) -> nn.Module:
    config = prefix_tuning.PrefixTuningConfig(num_virtual_tokens=size)
    return prefix_tuning.apply(model, config)


def _houlsby(model: nn.Module, size: int) -> nn.Module:
    return bottleneck.apply(model, bottleneck.houlsby(size))


def _parallel(model: nn.Module, size: int) -> nn.Module:
    return bottleneck.apply(model, bottleneck.parallel(size))


def _ia3(model: nn.Module, size: int) -> nn.Module:
    return ia3.apply(model, ia3.Ia3Config())


def _dora(model: nn.Module, size: int) -> nn.Module:
    config = lora.LoraConfig(rank=size, target_modules=ALL_LINEAR, use_dora=True)
    return lora.apply(model, config)


def _adalora(model: nn.Module, size: int) -> nn.Module:
    config = adalora.AdaLoraConfig(
        init_rank=size, target_rank=1, target_modules=ALL_LINEAR, total_steps=2
    )
    return adalora.apply(model, config)


PUT: dict[str, Callable[[nn.Module, int], nn.Module]] = {
    "bitfit": _bitfit,
    "prompt": _prompt,
    "prefix": _prefix,
    "houlsby": _houlsby,
    "parallel": _parallel,
    "ia3": _ia3,
    "dora": _dora,
    "adalora": _adalora,
}


def diagnose(adapted: Layer, exported: Layer, width: int) -> str:
    """The first symptom that shows, each on an input where no other fault can make it."""
    x = torch.randn(12, width, generator=torch.Generator().manual_seed(0))
    twice = x[:1].expand(8, -1).clone()
    if not torch.allclose(adapted(twice, 500)[:1].expand(8, -1), adapted(twice, 500), atol=1e-4):
        return "dropout_on"
    moved = adapted(x, 500) - adapted(x, 0)
    other = x.clone()
    other[-1] += 3
    if not torch.allclose(adapted(x, 500)[:-1], adapted(other, 500)[:-1], atol=1e-4):
        return "leaks_future"
    if not torch.allclose(adapted(x, 500), exported(x, 500), atol=1e-4):
        return "bias_lost"
    return "dead" if torch.allclose(moved, moved[:1].expand_as(moved), atol=1e-4) else "healthy"


IMPLEMENTATIONS: dict[str, Any] = {
    "adapter": Adapter,
    "prompted_loss": prompted_loss,
    "prefix_attention": prefix_attention,
    "ia3_linear": Ia3Linear,
    "dora_gradients": dora_gradients,
    "reallocate": reallocate,
    "trained_numbers": trained_numbers,
    "diagnose": diagnose,
}
