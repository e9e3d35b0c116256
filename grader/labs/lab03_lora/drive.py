"""How each exercise of lab 03 is called. Runs beside the student's code: numpy and torch only."""

from collections.abc import Callable
from typing import Any, cast

import torch
import torch._dynamo  # the first optimizer imports it: 2 s that are not the student's
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from grader.checks.explain import ContractError

Arrays = dict[str, Any]


def _what(value: object) -> str:
    """How a value reads in a sentence: its type, and a tensor's shape and dtype."""
    name = type(value).__name__
    if not isinstance(value, Tensor):
        return "nothing" if value is None else f"an object of type {name}"
    return f"{name} of shape {tuple(value.shape)}, {str(value.dtype).removeprefix('torch.')}"


def _tensor(value: object, source: str) -> Tensor:
    if not isinstance(value, Tensor):
        raise ContractError(f"{source}: expected a tensor, got {_what(value)}")
    return value.detach()


def lora_delta(impl: Callable[..., Tensor], inputs: Arrays) -> Arrays:
    """Call with both scalings, with factors of their own; report whether these were left alone."""
    results: Arrays = {}
    untouched = []
    for name, options in (("delta", {}), ("delta with use_rslora", {"use_rslora": True})):
        A, B = inputs["lora_A"].clone(), inputs["lora_B"].clone()
        results[name] = impl(A, B, inputs["alpha"], **options)
        untouched += [torch.equal(A, inputs["lora_A"]), torch.equal(B, inputs["lora_B"])]
    return results | {"the factors are left unchanged": all(untouched)}


def _linear(inputs: Arrays) -> nn.Linear:
    """The case's base layer; making it draws nothing from the global generator."""
    O, I = inputs["weight"].shape  # noqa: E741
    base = nn.Linear(I, O, bias=inputs["bias"] is not None, device="meta")
    state = {name: inputs[name].clone() for name, _ in base.named_parameters()}
    base.load_state_dict(state, assign=True)
    return base


def _made(
    impl: Callable[..., Any], inputs: Arrays, generator: torch.Generator, global_seed: int
) -> tuple[Any, nn.Linear, bool]:
    """A layer, its base, and whether making it left the global random state alone."""
    base = _linear(inputs)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(global_seed)
        before = torch.random.get_rng_state()
        layer = impl(base, inputs["rank"], inputs["alpha"], generator)
        untouched = torch.equal(before, torch.random.get_rng_state())
    _validate(layer, inputs)
    return layer, base, untouched


def _validate(layer: Any, inputs: Arrays) -> None:
    """Refuse an object that the rest of the drive could not use, saying what was expected."""
    if not isinstance(layer, nn.Module):
        raise ContractError(f"LoraLinear: expected an nn.Module, got {_what(layer)}")
    for name, letters in (("lora_A", "(R, I)"), ("lora_B", "(O, R)")):
        value: Any = getattr(layer, name, None)
        shape = tuple(inputs[name].shape)
        is_parameter = isinstance(value, nn.Parameter)
        if not is_parameter or (tuple(value.shape), value.dtype) != (shape, torch.float32):
            wanted = f"an nn.Parameter of shape {letters} = {shape}, float32"
            raise ContractError(f"{name}: expected {wanted}, got {_what(value)}")


class _Shapes(TorchDispatchMode):
    """Notes whether an operation made a tensor of a weight's shape that is not the weight's own."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self._sizes, self._own = sorted(weight.shape), weight.untyped_storage().data_ptr()
        self.met = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for value in tree_leaves(made):
            if isinstance(value, Tensor) and sorted(n for n in value.shape if n > 1) == self._sizes:
                self.met |= value.untyped_storage().data_ptr() != self._own
        return made


def lora_linear(impl: Callable[..., Any], inputs: Arrays) -> Arrays:
    """Construct with several generators, compare with the base, set the factors, differentiate."""
    generator = torch.Generator().manual_seed(5)
    layer, base, untouched = _made(impl, inputs, generator, 1)
    next_one, *_ = _made(impl, inputs, generator, 1)
    again, *_ = _made(impl, inputs, torch.Generator().manual_seed(5), 2)
    other, *_ = _made(impl, inputs, torch.Generator().manual_seed(6), 1)
    _trains_only_the_factors(layer)
    plain, A = _linear(inputs), layer.lora_A
    return {
        "the layer keeps the very base it was given": getattr(layer, "base", None) is base,
        "the global random state is left alone": untouched,
        "lora_A is random at the start": bool(A.std() > 0),
        "another generator gives another lora_A": not torch.equal(A, other.lora_A),
        "a second layer from one generator gets another lora_A": not torch.equal(
            A, next_one.lora_A
        ),
        "an equal generator gives the same lora_A": torch.equal(A, again.lora_A),
        "the output at the start is the base's": torch.equal(
            _tensor(layer(inputs["x"]), "forward"), plain(inputs["x"])
        ),
        **_differentiated(layer, inputs),
        "the base's weight is left unchanged": torch.equal(base.weight, plain.weight),
        **_without_bias(impl, inputs),
    }


def _trains_only_the_factors(layer: Any) -> None:
    factors = {id(layer.lora_A), id(layer.lora_B)}
    trained = {name: id(p) for name, p in layer.named_parameters() if p.requires_grad}
    if set(trained.values()) != factors:
        names = ", ".join(trained) or "none at all"
        raise ContractError(f"exactly lora_A and lora_B should train; what trains is {names}")


def _set_factors(layer: Any, inputs: Arrays) -> None:
    with torch.no_grad():
        layer.lora_A.copy_(inputs["lora_A"])
        layer.lora_B.copy_(inputs["lora_B"])


def _differentiated(layer: Any, inputs: Arrays) -> Arrays:
    """Output and gradients with the factors set, and whether (O, I) was built on the way."""
    _set_factors(layer, inputs)
    x = inputs["x"].clone().requires_grad_()
    with _Shapes(layer.base.weight if hasattr(layer, "base") else inputs["weight"]) as shapes:
        output = layer(x)
    result = _tensor(output, "forward")
    if result.shape != inputs["probe"].shape:
        wanted = tuple(inputs["probe"].shape)
        raise ContractError(f"forward: expected shape {wanted}, got {tuple(result.shape)}")
    if not output.requires_grad:
        raise ContractError(
            "the output does not depend on a trainable parameter: is something detached, "
            "or computed under torch.no_grad()?"
        )
    (output * inputs["probe"]).sum().backward()
    return {
        "the output with the factors set": result,
        "forward gets by without an (O, I) update": not shapes.met,
        "the gradient of lora_A": _gradient(layer.lora_A, "lora_A"),
        "the gradient of lora_B": _gradient(layer.lora_B, "lora_B"),
        "the gradient of the input": _gradient(x, "the input"),
    }


def _gradient(value: Tensor, name: str) -> Tensor:
    if value.grad is None:
        raise ContractError(f"no gradient reaches {name}: is something detached on the way to it?")
    return value.grad


def _without_bias(impl: Callable[..., Any], inputs: Arrays) -> Arrays:
    layer, *_ = _made(impl, inputs | {"bias": None}, torch.Generator().manual_seed(5), 1)
    _set_factors(layer, inputs)
    return {"the output over a base without bias": _tensor(layer(inputs["x"]), "forward")}


class Wrapped(nn.Module):
    """A stand-in adapter layer, a base and one trainable matrix: exercise 3 stands alone."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.extra = nn.Parameter(torch.zeros(2, base.in_features))

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.base(x) + self.extra.sum())


class _Block(nn.Module):
    def __init__(self, D: int, F: int) -> None:
        super().__init__()
        self.norms = nn.ModuleDict({"q_proj": nn.LayerNorm(D)})
        self.attn = nn.ModuleDict({n: nn.Linear(D, D) for n in ("q_proj", "pre_q_proj", "v_proj")})
        self.up_proj = nn.Linear(D, F)
        self.heads = nn.ModuleList([nn.Linear(F, D), nn.Linear(D, D)])


def _model(inputs: Arrays) -> nn.Module:
    D, F = inputs["width"], inputs["ffn_width"]
    with torch.random.fork_rng(devices=[]):
        blocks = nn.ModuleList([_Block(D, F) for _ in range(inputs["layers"])])
        return nn.ModuleDict({"blocks": blocks, "q_proj": nn.Linear(D, D)})


def apply_lora(impl: Callable[..., Any], inputs: Arrays) -> Arrays:
    """Apply to a nested model with decoys, report what was wrapped, trains and was counted."""
    model = _model(inputs)
    places = [n for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.LayerNorm)]
    before = dict(model.named_parameters())
    counts = impl(model, Wrapped, inputs["targets"])
    if type(counts) is not tuple or len(counts) != 2:
        raise ContractError(f"expected a tuple (trainable, total), got {_what(counts)}")
    wrapped = {n for n, m in model.named_modules() if type(m) is Wrapped}
    after = {n.replace(".base.", "."): p for n, p in model.named_parameters()}
    added = [p for n, p in model.named_parameters() if n.endswith(".extra")]
    return {
        **{f"{name} is wrapped": name in wrapped for name in places},
        "the number of wrapped layers": len(wrapped),
        "the base weights are the same tensors": all(after.get(n) is p for n, p in before.items()),
        **{f"{name} is frozen": not p.requires_grad for name, p in before.items()},
        "what make_layer added trains": all(p.requires_grad for p in added),
        "the number of trainable parameters, counts[0]": counts[0],
        "the number of all parameters, counts[1]": counts[1],
        **_refusal(impl, inputs),
    }


def _refusal(impl: Callable[..., Any], inputs: Arrays) -> Arrays:
    """Ask for two names that the model does not have."""
    absent = ["no_such_layer", "nor_this_one"]
    raised: Exception | None = None
    try:
        impl(_model(inputs), Wrapped, absent)
    except Exception as error:
        raised = error
    named = all(name in str(raised) for name in absent)
    return {
        "targets that match nothing raise ValueError": isinstance(raised, ValueError),
        "that error's text has every name asked for": named,
    }


def merge_weight(impl: Callable[..., Tensor], inputs: Arrays) -> Arrays:
    """Merge in float32 and in bfloat16, then subtract again."""
    results: Arrays = {}
    factors = inputs["lora_A"], inputs["lora_B"]
    for dtype in ("float32", "bfloat16"):
        weight, A, B = inputs[f"weight_{dtype}"].clone(), *(f.clone() for f in factors)
        merged = _tensor(impl(weight, A, B, inputs["scaling"]), "merge_weight")
        results[f"merged {dtype}"] = merged
        results[f"the {dtype} weight is left unchanged"] = torch.equal(
            weight, inputs[f"weight_{dtype}"]
        )
        same = torch.equal(A, factors[0]) and torch.equal(B, factors[1])
        results[f"the factors ({dtype}) are left unchanged"] = same
    unmerged = impl(inputs["merged"].clone(), *factors, -inputs["scaling"])
    return results | {"unmerged": _tensor(unmerged, "merge_weight")}


class Probe(nn.Module):
    """An adapter layer as a learner may have written it; `scale` and `leak` may be wrong."""

    def __init__(self, inputs: Arrays) -> None:
        super().__init__()
        self.base = _linear(inputs).requires_grad_(False)
        for name in inputs["trains"]:
            self.base.get_parameter(name).requires_grad_(True)
        self.lora_A = nn.Parameter(inputs["lora_A"].clone())
        self.lora_B = nn.Parameter(inputs["lora_B"].clone())
        self._scale, self._leak = inputs["scale"], inputs["leak"]

    def forward(self, x: Tensor) -> Tensor:
        narrow = x @ self.lora_A.T
        leak = self._leak * narrow.sum(-1, keepdim=True)
        return cast(Tensor, self.base(x) + self._scale * narrow @ self.lora_B.T + leak)


def _seen(case: Arrays) -> str:
    """What can be read off a layer's parameters, so that a message says which layer it is about."""
    factors = [f"{n} {'random' if case[n].any() else 'zero'}" for n in ("lora_A", "lora_B")]
    base = f"base trains: {' and '.join(case['trains'])}" if case["trains"] else "base frozen"
    return f"({', '.join([*factors, base])})"


def diagnose(impl: Callable[..., Any], inputs: Arrays) -> Arrays:
    """Ask for the diagnosis of several layers and whether each was left as it was."""
    results: Arrays = {}
    for number, case in enumerate(inputs["cases"], start=1):
        layer, fresh = Probe(case), Probe(case)
        answer = impl(layer, case["alpha"])
        name = f"layer {number} of {len(inputs['cases'])} {_seen(case)}"
        found = list(zip(layer.parameters(), fresh.parameters(), strict=True))
        results[f"{name}: values left unchanged"] = all(torch.equal(a, b) for a, b in found)
        flags = all(a.requires_grad == b.requires_grad for a, b in found)
        results[f"{name}: requires_grad left unchanged"] = flags
        results[f"{name}: .grad left unchanged"] = all(a.grad is None for a, _ in found)
        results[f"{name}: answer"] = answer
    return results


class _Bigram(nn.Module):
    """A model that notes how many rows it is given and how many forward passes await backward."""

    def __init__(self, inputs: Arrays) -> None:
        super().__init__()
        self.embedding = nn.Parameter(inputs["embedding"].clone())
        self.head = nn.Parameter(inputs["head"].clone())
        self.most_rows = self.most_waiting = self._waiting = 0

    def forward(self, ids: Tensor) -> Tensor:
        logits = self.embedding[ids] @ self.head.T
        self.most_rows = max(self.most_rows, ids.shape[0])
        if logits.requires_grad:
            self._waiting += 1
            self.most_waiting = max(self.most_waiting, self._waiting)
            logits.register_hook(self._arrived)
        return logits

    def _arrived(self, gradient: Tensor) -> None:
        self._waiting -= 1


def _stepped(
    impl: Callable[..., Any], inputs: Arrays, clip_norm: float, stale: float
) -> tuple[Any, _Bigram]:
    """One step of descent with two parameter groups; `stale` is what .grad holds before."""
    model = _Bigram(inputs)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, stale) if stale else None
    lrs = inputs["lrs"]
    groups = [{"params": [p], "lr": lr} for p, lr in zip(model.parameters(), lrs, strict=True)]
    optimizer = torch.optim.SGD(groups, lr=lrs[0])
    batches = list(zip(inputs["ids"], inputs["labels"], strict=True))
    return impl(model, batches, optimizer, clip_norm), model


def train_step(impl: Callable[..., Any], inputs: Arrays) -> Arrays:
    """Take a plain step, one with old gradients and one that is clipped."""
    most = max(len(ids) for ids in inputs["ids"])
    results: Arrays = {}
    for name, clip_norm, stale in (
        ("a plain step", 1e6, 0.0),
        ("a step with old gradients", 1e6, 1.0),
        ("a clipped step", inputs["clip_norm"], 0.0),
    ):
        loss, model = _stepped(impl, inputs, clip_norm, stale)
        results[f"the loss of {name}"] = loss
        results[f"the head after {name}"] = model.head.detach()
        results[f"the embedding after {name}"] = model.embedding.detach()
    results["the model sees one micro-batch at a time"] = model.most_rows <= most
    results["backward runs before the next micro-batch"] = model.most_waiting <= 1
    return results


DRIVES: dict[str, Callable[[Any, Arrays], Arrays]] = {
    "lora_delta": lora_delta,
    "lora_linear": lora_linear,
    "apply_lora": apply_lora,
    "merge_weight": merge_weight,
    "diagnose": diagnose,
    "train_step": train_step,
}
