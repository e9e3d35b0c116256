"""How each exercise of lab 03 is called. Runs beside the student's code: numpy and torch only."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
import torch._dynamo  # the first optimizer imports it: 2 s that are not the student's
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from grader.checks.explain import ContractError
from grader.labs.lab03_lora.given import Bigram, Model, Probe, Wrapped, linear

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
    """Call with both scalings, with factors of their own."""
    results: Arrays = {}
    factors = []
    for name, options in (("delta", {}), ("delta with use_rslora", {"use_rslora": True})):
        A, B = inputs["lora_A"].clone(), inputs["lora_B"].clone()
        results[name] = impl(A, B, inputs["alpha"], **options)
        factors += [A, B]
    return results | {"the factors are left unchanged": factors}


def _made(
    impl: Callable[..., Any], inputs: Arrays, generator: torch.Generator, global_seed: int
) -> tuple[Any, nn.Linear, Tensor]:
    """A layer, its base, and what is drawn from the global random state after it was made."""
    base = linear(inputs)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(global_seed)
        layer = impl(base, inputs["rank"], inputs["alpha"], generator)
        drawn = torch.rand(4)
    _validate(layer, inputs)
    return layer, base, drawn


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
    layer, base, drawn = _made(impl, inputs, generator, 1)
    next_one, *_ = _made(impl, inputs, generator, 1)
    again, *_ = _made(impl, inputs, torch.Generator().manual_seed(5), 2)
    other, *_ = _made(impl, inputs, torch.Generator().manual_seed(6), 1)
    _trains_only_the_factors(layer)
    A = layer.lora_A.detach().clone()
    return {
        "the layer keeps the very base it was given": getattr(layer, "base", None) is base,
        "the global random state is left unchanged": drawn,
        "lora_A is random at the start": bool(A.std() > 0),
        "another generator gives another lora_A": not torch.equal(A, other.lora_A),
        "a second layer from one generator gets another lora_A": not torch.equal(
            A, next_one.lora_A
        ),
        "an equal generator gives the same lora_A": again.lora_A.detach() != A,
        "the output at the start is the base's": _output(layer, inputs["x"], inputs).detach()
        != linear(inputs)(inputs["x"]).detach(),
        **_differentiated(layer, inputs),
        "the base's weight is left unchanged": base.weight.detach().clone(),
        **_with_another_base(layer, base, inputs),
        **_without_bias(impl, inputs),
    }


def _output(layer: Any, x: Tensor, inputs: Arrays) -> Tensor:
    output: Any = layer(x)
    wanted = tuple(inputs["probe"].shape)
    if (got := tuple(_tensor(output, "forward").shape)) != wanted:
        raise ContractError(f"forward: expected shape {wanted}, got {got}")
    return cast(Tensor, output)


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
        output = _output(layer, x, inputs)
    if not output.requires_grad:
        raise ContractError(
            "the output does not depend on a trainable parameter: is something detached, "
            "or computed under torch.no_grad()?"
        )
    (output * inputs["probe"]).sum().backward()
    return {
        "the output with the factors set": output.detach(),
        "forward gets by without an (O, I) update": not shapes.met,
        "the gradient of lora_A": _gradient(layer.lora_A, "lora_A"),
        "the gradient of lora_B": _gradient(layer.lora_B, "lora_B"),
        "the gradient of the input": _gradient(x, "the input"),
    }


def _gradient(value: Tensor, name: str) -> Tensor:
    if value.grad is None:
        raise ContractError(f"no gradient reaches {name}: is something detached on the way to it?")
    return value.grad


def _with_another_base(layer: Any, base: nn.Linear, inputs: Arrays) -> Arrays:
    """The output after the weight of the layer that was given is changed from outside."""
    with torch.no_grad():
        base.weight.copy_(inputs["other_weight"])
        output = _output(layer, inputs["x"], inputs)
    return {"the output once the base has another weight": output.detach()}


def _without_bias(impl: Callable[..., Any], inputs: Arrays) -> Arrays:
    layer, *_ = _made(impl, inputs | {"bias": None}, torch.Generator().manual_seed(5), 1)
    _set_factors(layer, inputs)
    output = _output(layer, inputs["x"], inputs)
    return {"the output over a base without bias": output.detach()}


def apply_lora(impl: Callable[..., Any], inputs: Arrays) -> Arrays:
    """Apply to a nested model with decoys, report what was wrapped, trains and was counted."""
    model = Model(inputs)
    places = [n for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.LayerNorm)]
    before = dict(model.named_parameters())
    counts = impl(model, Wrapped, inputs["targets"])
    if type(counts) is not tuple or len(counts) != 2:
        raise ContractError(f"expected a tuple (trainable, total), got {_what(counts)}")
    wrapped = {n for n, m in model.named_modules() if type(m) is Wrapped}
    after = {n.replace(".base.", "."): p for n, p in model.named_parameters()}
    added = [p for n, p in sorted(model.named_parameters()) if n.endswith(".extra")]
    return {
        **{f"{name} is wrapped": name in wrapped for name in places},
        "the number of wrapped layers": len(wrapped),
        "the base weights are the same tensors": all(after.get(n) is p for n, p in before.items()),
        **{f"{name} is frozen": not p.requires_grad for name, p in before.items()},
        "what make_layer added trains": all(p.requires_grad for p in added),
        "the number of trainable parameters, counts[0]": counts[0],
        "the number of all parameters, counts[1]": counts[1],
        **_refusal(impl, inputs),
        **_at_work(model, list(before.values()), added, inputs),
    }


def _at_work(
    model: Model, before: Sequence[Tensor], added: Sequence[Tensor], inputs: Arrays
) -> Arrays:
    """Output and gradients with the case's numbers in what was there before and what was added."""
    parameters = [*before, *added]
    sizes = [parameter.numel() for parameter in parameters]
    with torch.no_grad():
        for parameter, numbers in zip(
            parameters, inputs["numbers"][: sum(sizes)].split(sizes), strict=True
        ):
            parameter.copy_(numbers.view_as(parameter))
    output = model(inputs["x"])
    if output.requires_grad:
        (output * inputs["probe"]).sum().backward()
    return {
        "the output of the changed model": output.detach(),
        "the gradients of what was added": [parameter.grad for parameter in added],
        "gradients of what was there before": [p.grad for p in before if p.grad is not None],
    }


def _refusal(impl: Callable[..., Any], inputs: Arrays) -> Arrays:
    """Ask for two names that the model does not have."""
    absent = ["no_such_layer", "nor_this_one"]
    raised: Exception | None = None
    try:
        impl(Model(inputs), Wrapped, absent)
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
        results[f"the {dtype} weight is left unchanged"] = weight
        results[f"the factors ({dtype}) are left unchanged"] = [A, B]
    unmerged = impl(inputs["merged"].clone(), *factors, -inputs["scaling"])
    return results | {"unmerged": _tensor(unmerged, "merge_weight")}


def _seen(case: Arrays) -> str:
    """What can be read off a layer's parameters, so that a message says which layer it is about."""
    factors = [f"{n} {'random' if case[n].any() else 'zero'}" for n in ("lora_A", "lora_B")]
    base = f"base trains: {' and '.join(case['trains'])}" if case["trains"] else "base frozen"
    return f"({', '.join([*factors, base])})"


def diagnose(impl: Callable[..., Any], inputs: Arrays) -> Arrays:
    """Ask for the diagnosis of several layers; of each return what is to stay as it was."""
    results: Arrays = {}
    for number, case in enumerate(inputs["cases"], start=1):
        layer = Probe(case)
        answer = impl(layer, case["alpha"])
        name = f"layer {number} of {len(inputs['cases'])} {_seen(case)}"
        parameters = list(layer.parameters())
        values = torch.cat([parameter.detach().flatten() for parameter in parameters])
        results[f"{name}: values left unchanged"] = values
        flags = [parameter.requires_grad for parameter in parameters]
        results[f"{name}: requires_grad left unchanged"] = flags
        results[f"{name}: .grad left unchanged"] = [parameter.grad for parameter in parameters]
        results[f"{name}: answer"] = answer
    return results


def _stepped(
    impl: Callable[..., Any], inputs: Arrays, clip_norm: float, stale: float
) -> tuple[Any, Bigram]:
    """One step of descent with two parameter groups; `stale` is what .grad holds before."""
    model = Bigram(inputs)
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
