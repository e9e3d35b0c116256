"""How each exercise of lab 05 is called. Runs beside the student's code: numpy and torch only."""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from grader.checks.explain import ContractError
from grader.labs.lab05_peft_methods.given import (
    Decoder,
    Spans,
    dtype_name,
    linear,
    parts,
    tensor,
    what,
)

Arrays = dict[str, Any]


def _gradients(total: Tensor, named: dict[str, Tensor]) -> Arrays:
    """The gradient of each, all zeros where none arrives; a sentence where nothing trains."""
    if not total.requires_grad:
        raise ContractError("the result carries no gradient: is something detached?")
    found = torch.autograd.grad(total, list(named.values()), allow_unused=True)
    return {
        f"the gradient of {name}": torch.zeros_like(x) if g is None else g
        for (name, x), g in zip(named.items(), found, strict=True)
    }


def _only_trains(layer: nn.Module, wanted: dict[str, Tensor]) -> None:
    trained = {name: id(p) for name, p in layer.named_parameters() if p.requires_grad}
    if set(trained.values()) != {id(p) for p in wanted.values()}:
        names = ", ".join(trained) or "none at all"
        raise ContractError(f"exactly {', '.join(wanted)} should train; what trains is {names}")


def _parameters(layer: Any, shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """The layer's parameters by dotted name, of these shapes, in float32."""
    if not isinstance(layer, nn.Module):
        raise ContractError(f"expected an nn.Module, got {what(layer)}")
    found: dict[str, Tensor] = {}
    for name, shape in shapes.items():
        value: Any = layer
        for part in name.split("."):
            value = getattr(value, part, None)
        is_parameter = isinstance(value, nn.Parameter)
        if not is_parameter or (tuple(value.shape), value.dtype) != (shape, torch.float32):
            wanted = f"an nn.Parameter of shape {shape}, float32"
            raise ContractError(f"{name}: expected {wanted}, got {what(value)}")
        found[name] = value
    return found


def adapter(impl: Callable[..., Any], inputs: Arrays) -> Arrays:
    """After a linear layer and beside a network, at the start and later; then over bfloat16."""
    results: Arrays = {}
    for form in ("sequential", "parallel"):
        found = _one_adapter(impl, inputs, form)
        results |= {f"{form}: {key}": value for key, value in found.items()}
    return results | _over_bfloat16(impl, inputs["exact"])


def _base(inputs: Arrays, form: str) -> nn.Module:
    first = linear(inputs["first"], inputs["bias"])
    if form == "sequential":
        return first
    return nn.Sequential(first, nn.Tanh(), linear(inputs["second"]))


def _adapter_shapes(width: int, inner: int, outputs: int) -> dict[str, tuple[int, ...]]:
    return {
        "down.weight": (inner, width),
        "down.bias": (inner,),
        "up.weight": (outputs, inner),
        "up.bias": (outputs,),
    }


def _one_adapter(impl: Callable[..., Any], inputs: Arrays, form: str) -> Arrays:
    x, probe = inputs["x"].clone(), inputs[f"probe {form}"]
    inner, outputs = len(inputs["down.bias"]), probe.shape[-1]
    width = x.shape[-1] if form == "parallel" else outputs

    def make(generator: torch.Generator) -> tuple[Any, nn.Module, dict[str, Tensor]]:
        base = _base(inputs, form)
        layer = impl(base, x.shape[-1], outputs, inner, form, inputs["scaling"], generator)
        named = _parameters(layer, _adapter_shapes(width, inner, outputs))
        _only_trains(layer, named)
        return layer, base, named

    generator = torch.Generator().manual_seed(inputs["seed"])
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(1)
        layer, base, named = make(generator)
        drawn = torch.rand(4)
        torch.default_generator.manual_seed(2)
        again = make(torch.Generator().manual_seed(inputs["seed"]))[2]["down.weight"].detach()
    down = named["down.weight"].detach().clone()
    start = tensor(layer(x), "forward", probe.shape)
    first = _gradients((start * probe).sum(), {"up.weight": named["up.weight"]})
    results: Arrays = {
        "the global random state is left unchanged": drawn,
        "it keeps the very module it was given": getattr(layer, "base", None) is base,
        "the output at the start is the base's": start.detach() != _base(inputs, form)(x).detach(),
        "down.weight is random at the start": bool(down.std() > 0),
        "an equal generator gives the same down.weight": again != down,
        "a second one from one generator differs": not torch.equal(
            make(generator)[2]["down.weight"], down
        ),
        "up.weight learns from the first step on": bool(first["the gradient of up.weight"].any()),
    }
    return results | _after_training(layer, named, inputs | {"form": form})


def _after_training(layer: Any, named: dict[str, Tensor], inputs: Arrays) -> Arrays:
    """Output and gradients with the case's numbers in the adapter."""
    form = inputs["form"]
    with torch.no_grad():
        for name, parameter in named.items():
            key = name if name in inputs else f"{name} {form}"
            parameter.copy_(inputs[key])
    x = inputs["x"].clone().requires_grad_()
    output = layer(x)
    gradients = _gradients((output * inputs[f"probe {form}"]).sum(), {**named, "x": x})
    return {"the output later": output.detach(), **gradients}


def _over_bfloat16(impl: Callable[..., Any], exact: Arrays) -> Arrays:
    """Whole numbers that float32 adds without rounding, in any order; the base gives zeros."""
    inner, width = exact["down.weight"].shape
    outputs = len(exact["up.weight"])
    base = linear(torch.zeros(outputs, width, dtype=torch.bfloat16))
    layer = impl(base, width, outputs, inner, "parallel", 0.5, torch.Generator().manual_seed(0))
    named = _parameters(layer, _adapter_shapes(width, inner, outputs))
    with torch.no_grad():
        for name, parameter in named.items():
            parameter.copy_(exact[name])
        output = layer(exact["x"].bfloat16())
    return {
        "over a bfloat16 base: dtype of the output": dtype_name(output),
        "over a bfloat16 base: the output": output.float(),
    }


def prompted_loss(impl: Callable[..., Any], inputs: Arrays) -> Arrays:
    """What reaches the decoder, logits of the real tokens, the loss and the rows' gradient."""
    results: Arrays = {}
    for kind, dtype in (("", torch.float32), ("bfloat16 embeddings: ", torch.bfloat16)):
        rows = inputs["rows"].clone().requires_grad_()
        embeddings = inputs["embeddings"].to(dtype)
        others = [inputs["mask"].clone(), inputs["labels"].clone()]
        decoder = Decoder(inputs["places"], inputs["head"])
        logits, loss = parts(impl(decoder, rows, embeddings, *others), "logits", "loss")
        if len(decoder.met) != 1:
            raise ContractError(f"call the decoder once; it was called {len(decoder.met)} times")
        B, T = inputs["mask"].shape
        logits = tensor(logits, "the logits", (B, T, inputs["head"].shape[1]))
        loss = tensor(loss, "the loss", ())
        met, mask, positions = decoder.met[0]
        results |= {
            f"{kind}rows, mask and labels left unchanged": [rows.detach(), *others],
            f"{kind}dtype of what the decoder gets": dtype_name(met),
            f"{kind}mask that the decoder gets": mask,
            f"{kind}positions of what is no padding": positions.masked_fill(~mask, 0),
            f"{kind}embeddings that the decoder gets": met.float(),
            f"{kind}logits of the real tokens": logits.detach()[inputs["mask"]],
            f"{kind}the loss": loss.detach(),
        }
        gradient = _gradients(loss, {"rows": rows})
        # In bfloat16 the sum over sequences depends on its order.
        results |= {f"{kind}{key}": g for key, g in gradient.items() if dtype is torch.float32}
    return results


QUERIES = ("q", "k", "v", "prefix_k", "prefix_v")


def prefix_attention(impl: Callable[..., Any], inputs: Arrays) -> Arrays:
    """Ordinary and large scores: output, share, gradients, and what was built on the way."""
    results: Arrays = {}
    for kind, sharper in (("", 1.0), ("large scores: ", inputs["sharper"])):
        named = {name: inputs[name].clone() for name in QUERIES}
        named["q"] *= sharper
        named = {name: x.requires_grad_() for name, x in named.items()}
        B, H, T, K = named["q"].shape
        with Spans(T + named["prefix_k"].shape[1]) as spans:
            output, share = parts(impl(*named.values()), "output", "share")
        output = tensor(output, "the output", (B, H, T, K))
        share = tensor(share, "the share", (B, H, T))
        total = (output * inputs["probe"]).sum()
        results |= {
            f"{kind}the share": share.detach(),
            f"{kind}the output": output.detach(),
            **{f"{kind}{key}": g for key, g in _gradients(total, named).items()},
            f"{kind}no tensor spans prefix and text": not spans.met,
        }
    return results


def ia3_linear(impl: Callable[..., Any], inputs: Arrays) -> Arrays:
    """Outputs and inputs scaled, with and without bias: at the start, later, merged."""
    results: Arrays = {}
    for feedforward in (False, True):
        for has_bias in (True, False):
            name = "inputs scaled" if feedforward else "outputs scaled"
            name += ", with bias" if has_bias else ", no bias"
            found = _one_ia3(impl, inputs, feedforward, has_bias)
            results |= {f"{name}: {key}": value for key, value in found.items()}
    return results


def _one_ia3(impl: Callable[..., Any], inputs: Arrays, feedforward: bool, has_bias: bool) -> Arrays:
    weight, bias = inputs["weight"], inputs["bias"] if has_bias else None
    numbers = inputs["input_scale" if feedforward else "output_scale"]
    base = linear(weight, bias)
    layer = impl(base, feedforward)
    named = _parameters(layer, {"scale": tuple(numbers.shape)})
    _only_trains(layer, named)
    x, probe = inputs["x"].clone().requires_grad_(), inputs["probe"]
    start = tensor(layer(x), "forward", probe.shape).detach()
    with torch.no_grad():
        named["scale"].copy_(numbers)
    output = layer(x)
    gradients = _gradients((output * probe).sum(), {"scale": named["scale"], "x": x})
    merged, merged_bias = parts(layer.merged(), "weight", "bias")
    return {
        "the output at the start is the base's": start != linear(weight, bias)(x).detach(),
        "the output": output.detach(),
        **gradients,
        "merged weight": tensor(merged, "merged weight", weight.shape).detach(),
        "merged bias": merged_bias if merged_bias is None else merged_bias.detach(),
        "the base's numbers left unchanged": [p.detach().clone() for p in base.parameters()],
        **_ia3_in_bfloat16(impl, inputs, feedforward, bias, numbers),
    }


def _ia3_in_bfloat16(
    impl: Callable[..., Any],
    inputs: Arrays,
    feedforward: bool,
    bias: Tensor | None,
    numbers: Tensor,
) -> Arrays:
    base = linear(inputs["weight"], bias).bfloat16()
    layer = impl(base, feedforward)
    with torch.no_grad():
        _parameters(layer, {"scale": tuple(numbers.shape)})["scale"].copy_(numbers)
        output = layer(inputs["x"].bfloat16())
    merged, merged_bias = parts(layer.merged(), "weight", "bias")
    return {
        "bfloat16 base: dtype of the output": dtype_name(output),
        "bfloat16 base: merged weight": merged.detach(),
        "bfloat16 base: merged bias": merged_bias if merged_bias is None else merged_bias.detach(),
    }


DORA = ("weight", "lora_A", "lora_B", "magnitude")


def dora_gradients(impl: Callable[..., Any], inputs: Arrays) -> Arrays:
    """The merged weight and three gradients, with the length as a constant and not."""
    results: Arrays = {}
    names = ("merged", "grad_magnitude", "grad_A", "grad_B")
    for kind, constant in (("constant length", True), ("true gradient", False)):
        given = [inputs[name].clone() for name in DORA]
        grad = inputs["grad"].clone()
        found = parts(impl(*given, inputs["scaling"], grad, constant), *names)
        shapes = [given[0].shape, given[3].shape, given[1].shape, given[2].shape]
        for name, value, shape in zip(names, found, shapes, strict=True):
            results[f"{kind}: {name}"] = tensor(value, name, shape).detach()
        results[f"{kind}: arguments left unchanged"] = [*given, grad]
    return results


def reallocate(impl: Callable[..., Any], inputs: Arrays) -> Arrays:
    """Two steps on end, the second with the memory that the first returned."""
    layers = inputs["layers"]
    results: Arrays = {}
    memory = [tuple((torch.zeros_like(x), torch.zeros_like(x)) for x in layer) for layer in layers]
    for step, grads in enumerate(inputs["gradients"], start=1):
        given = [tuple(x.clone() for x in layer) for layer in layers]
        settings = (inputs["beta_1"], inputs["beta_2"], inputs["budget"])
        returned = impl(given, [tuple(g.clone() for g in row) for row in grads], memory, *settings)
        memory, kept = parts(returned, "memory", "kept")
        results |= {
            f"step {step}: factors left unchanged": [list(layer) for layer in given],
            f"step {step}: smoothed sensitivity": _part(memory, layers, 0),
            f"step {step}: smoothed uncertainty": _part(memory, layers, 1),
            f"step {step}: what each layer keeps": list(kept),
        }
    return results


def _part(memory: Any, layers: Any, index: int) -> list[list[Tensor]]:
    """All sensitivities, or all uncertainties, of a returned memory."""
    try:
        return [
            [tensor(pair[index], "an entry of the memory", x.shape) for pair, x in both]
            for both in (
                list(zip(row, layer, strict=True))
                for row, layer in zip(memory, layers, strict=True)
            )
        ]
    except (TypeError, ValueError, IndexError) as error:
        wanted = "for each layer three pairs (sensitivity, uncertainty), of A, E and B"
        raise ContractError(f"memory: expected {wanted}") from error


def trained_numbers(impl: Callable[..., Any], inputs: Arrays) -> Arrays:
    """Ask for every method at every model."""
    results: Arrays = {}
    for method in inputs["methods"]:
        counts = []
        for model, size in zip(inputs["models"], inputs["sizes"], strict=True):
            count = impl(method, dict(model), size)
            if type(count) is not int:
                raise ContractError(f"{method}: expected an int, got {what(count)}")
            counts.append(count)
        results[f"{method}: numbers that train"] = torch.tensor(counts)
    return results


def _probe(function: Callable[..., Any]) -> Callable[[Tensor, int], Tensor]:
    """A colleague's layer as a learner may call it; it does its work where it is."""

    def layer(x: Tensor, steps: int) -> Tensor:
        return cast(Tensor, function(x, steps))

    return layer


def diagnose(impl: Callable[..., Any], inputs: Arrays) -> Arrays:
    """Ask for the diagnosis of several layers."""
    return {
        f"layer {index + 1}": impl(_probe(case["adapted"]), _probe(case["exported"]), case["width"])
        for index, case in enumerate(inputs["cases"])
    }


DRIVES: dict[str, Callable[[Any, Arrays], Arrays]] = {
    "adapter": adapter,
    "prompted_loss": prompted_loss,
    "prefix_attention": prefix_attention,
    "ia3_linear": ia3_linear,
    "dora_gradients": dora_gradients,
    "reallocate": reallocate,
    "trained_numbers": trained_numbers,
    "diagnose": diagnose,
}
