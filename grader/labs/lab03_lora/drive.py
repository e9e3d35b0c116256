"""How each exercise of lab 03 is called. Runs beside the student's code: numpy and torch only."""

from collections.abc import Callable
from typing import Any, cast

import torch
import torch._dynamo  # the first optimizer imports it: 2 s that are not the student's
from torch import Tensor, nn

Arrays = dict[str, Any]


def lora_delta(impl: Callable[..., Tensor], inputs: Arrays) -> Arrays:
    """Call with both scalings; report whether the factors were left alone."""
    A, B, alpha = inputs["lora_A"].clone(), inputs["lora_B"].clone(), inputs["alpha"]
    plain = impl(A, B, alpha)
    stable = impl(A, B, alpha, use_rslora=True)
    untouched = torch.equal(A, inputs["lora_A"]) and torch.equal(B, inputs["lora_B"])
    return {"delta": plain, "delta with use_rslora": stable, "factors left unchanged": untouched}


def _linear(inputs: Arrays) -> nn.Linear:
    O, I = inputs["weight"].shape  # noqa: E741
    base = nn.Linear(I, O)
    base.load_state_dict({"weight": inputs["weight"], "bias": inputs["bias"]})
    return base


def lora_linear(impl: Callable[..., Any], inputs: Arrays) -> Arrays:
    """Construct, compare with the base at the start, then set the factors and differentiate."""
    x, plain = inputs["x"], _linear(inputs)
    before = torch.random.get_rng_state()
    layer, again = (
        impl(_linear(inputs), inputs["rank"], inputs["alpha"], torch.Generator().manual_seed(5))
        for _ in range(2)
    )
    results: Arrays = {
        "global random state left alone": torch.equal(before, torch.random.get_rng_state()),
        "output at the start equals the base layer's": torch.equal(layer(x), plain(x)),
        "lora_A at the start is random": bool(layer.lora_A.std() > 0),
        "same generator gives the same lora_A": torch.equal(layer.lora_A, again.lora_A),
        "trainable parameters": sorted(n for n, p in layer.named_parameters() if p.requires_grad),
    }
    with torch.no_grad():
        layer.lora_A.copy_(inputs["lora_A"])
        layer.lora_B.copy_(inputs["lora_B"])
    output = layer(x)
    (output * inputs["probe"]).sum().backward()
    results["output with the factors set"] = output.detach()
    results["gradient of lora_A"] = layer.lora_A.grad
    results["gradient of lora_B"] = layer.lora_B.grad
    return results


class Wrapped(nn.Module):
    """A stand-in adapter layer: a base and one trainable matrix, so that exercise 3 needs no other."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.extra = nn.Parameter(torch.zeros(2, base.in_features))

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.base(x) + self.extra.sum())


class _Block(nn.Module):
    def __init__(self, D: int, F: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(D)
        self.attn = nn.ModuleDict({n: nn.Linear(D, D) for n in ("q_proj", "pre_q_proj", "v_proj")})
        self.up_proj = nn.Linear(D, F)
        self.heads = nn.ModuleList([nn.Linear(F, D), nn.Linear(D, D)])


def _model(inputs: Arrays) -> nn.Module:
    blocks = [_Block(inputs["width"], inputs["ffn_width"]) for _ in range(inputs["layers"])]
    return nn.ModuleDict({"blocks": nn.ModuleList(blocks), "q_proj": nn.LayerNorm(inputs["width"])})


def apply_lora(impl: Callable[..., Any], inputs: Arrays) -> Arrays:
    """Apply to a nested model with decoys, report what was wrapped, trains and was counted."""
    model = _model(inputs)
    weights = {name: p.data_ptr() for name, p in model.named_parameters()}
    counts = impl(model, Wrapped, inputs["targets"])
    kept = {n.replace(".base.", "."): p.data_ptr() for n, p in model.named_parameters()}
    return {
        "wrapped layers": sorted(n for n, m in model.named_modules() if type(m) is Wrapped),
        "trainable": sorted(n for n, p in model.named_parameters() if p.requires_grad),
        "counts": counts,
        "base weights are the same tensors": all(kept.get(n) == w for n, w in weights.items()),
        "a target that matches nothing raises ValueError": _refuses(impl, inputs),
    }


def _refuses(impl: Callable[..., Any], inputs: Arrays) -> bool:
    try:
        impl(_model(inputs), Wrapped, ["no_such_layer"])
    except ValueError:
        return True
    return False


def merge_weight(impl: Callable[..., Tensor], inputs: Arrays) -> Arrays:
    """Merge in float32 and in bfloat16, then subtract again."""
    results: Arrays = {}
    for dtype in ("float32", "bfloat16"):
        weight = inputs[f"weight_{dtype}"].clone()
        factors = inputs["lora_A"], inputs["lora_B"]
        merged = impl(weight, *factors, inputs["scaling"])
        results[f"merged {dtype}"] = merged.detach()
        untouched = torch.equal(weight, inputs[f"weight_{dtype}"])
        results[f"{dtype} weight left unchanged"] = untouched
    results["unmerged"] = impl(inputs["merged"].clone(), *factors, -inputs["scaling"])
    return results


class Probe(nn.Module):
    """An adapter layer as a learner may have written it, with a scaling that may be anything."""

    def __init__(self, inputs: Arrays, scale: float) -> None:
        super().__init__()
        self.base = _linear(inputs)
        self.base.requires_grad_(inputs["base_trains"])
        self.lora_A = nn.Parameter(inputs["lora_A"].clone())
        self.lora_B = nn.Parameter(inputs["lora_B"].clone())
        self._scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.base(x) + self._scale * (x @ self.lora_A.T) @ self.lora_B.T)


def diagnose(impl: Callable[..., Any], inputs: Arrays) -> Arrays:
    """Ask for the diagnosis of several layers and whether each was left as it was."""
    results: Arrays = {}
    for index, case in enumerate(inputs["cases"]):
        layer = Probe(case, case["scale"])
        state = {name: value.clone() for name, value in layer.state_dict().items()}
        results[f"layer {index}"] = impl(layer, case["alpha"])
        same = all(torch.equal(state[name], value) for name, value in layer.state_dict().items())
        results[f"layer {index} left unchanged"] = same
    return results


def _bigram(inputs: Arrays) -> nn.Sequential:
    V, D = inputs["embedding"].shape
    model = nn.Sequential(nn.Embedding(V, D), nn.Linear(D, V, bias=False))
    weights = {"0.weight": inputs["embedding"], "1.weight": inputs["head"]}
    model.load_state_dict(weights)
    return model


def train_step(impl: Callable[..., Any], inputs: Arrays) -> Arrays:
    """Take two steps of plain gradient descent, once clipped and once not, with stale gradients."""
    results: Arrays = {}
    batches = list(zip(inputs["ids"], inputs["labels"], strict=True))
    for name, clip_norm in (("clipped", inputs["clip_norm"]), ("unclipped", 1e6)):
        model = _bigram(inputs)
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer = torch.optim.SGD(model.parameters(), lr=inputs["lr"])
        losses = [impl(model, batches, optimizer, clip_norm) for _ in range(2)]
        results[f"losses {name}"] = losses
        results[f"head after two steps {name}"] = model.get_parameter("1.weight").detach()
        results[f"embedding after two steps {name}"] = model.get_parameter("0.weight").detach()
    return results


DRIVES: dict[str, Callable[[Any, Arrays], Arrays]] = {
    "lora_delta": lora_delta,
    "lora_linear": lora_linear,
    "apply_lora": apply_lora,
    "merge_weight": merge_weight,
    "diagnose": diagnose,
    "train_step": train_step,
}
