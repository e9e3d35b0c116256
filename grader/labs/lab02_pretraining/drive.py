"""How each exercise of lab 02 is called. Runs beside the student's code: numpy and torch only."""

import copy
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from grader.checks.explain import ContractError

Arrays = dict[str, Any]


def _parts(result: Any, names: Sequence[str]) -> dict[str, Any]:
    """The parts of a returned tuple by name; a sentence instead of an unpacking error."""
    if type(result) is not tuple or len(result) != len(names):
        kind = type(result).__name__
        raise ContractError(f"expected a tuple ({', '.join(names)}), got an object of type {kind}")
    return dict(zip(names, result, strict=True))


def _ids(value: Any, name: str) -> Tensor:
    """A list of whole numbers as a tensor."""
    if type(value) not in (list, tuple) or any(type(token) is not int for token in value):
        raise ContractError(f"{name}: expected a list of whole numbers")
    return torch.tensor(value, dtype=torch.int64)


def merge_step(impl: Callable[..., Any], inputs: Arrays) -> Arrays:
    """One merge in several sets of words."""
    results: Arrays = {}
    for case in inputs["cases"]:
        given = copy.deepcopy([case["words"], case["times"]])
        parts = _parts(impl(*given, case["new"]), ("pair", "words"))
        pair, words = parts["pair"], parts["words"]
        if type(words) is not list:
            raise ContractError("words: expected a list of words")
        kind = case["kind"]
        results[f"{kind}: words and times left unchanged"] = given
        results[f"{kind}: the pair"] = "none" if pair is None else _ids(pair, "pair")
        results[f"{kind}: the words"] = [_ids(word, "a word") for word in words]
    return results


def encode_word(impl: Callable[..., Any], inputs: Arrays) -> Arrays:
    """Encode several words with each list of merges."""
    results: Arrays = {}
    for case in inputs["cases"]:
        merges = [tuple(merge) for merge in case["merges"]]
        given = copy.deepcopy(case["words"])
        for name, word in given.items():
            found = _ids(impl(word, list(merges)), "the encoded word")
            results[f"{case['kind']}, {name}"] = found
        results[f"{case['kind']}: words left unchanged"] = list(given.values())
    return results


def pack_rows(impl: Callable[..., Any], inputs: Arrays) -> Arrays:
    """Pack several corpora."""
    names = ("ids", "labels", "documents", "positions")
    results: Arrays = {}
    for case in inputs["cases"]:
        documents = copy.deepcopy(case["documents"])
        parts = _parts(impl(documents, case["length"], case["pad_id"]), names)
        results[f"{case['kind']}: documents left unchanged"] = documents
        for name, value in parts.items():
            results[f"{case['kind']}: {name}"] = value
    return results


def within_documents(impl: Callable[..., Any], inputs: Arrays) -> Arrays:
    """Mask, loss, count, and which logits learn."""
    given = [inputs[name].clone() for name in ("logits", "ids", "documents")]
    logits = given[0].clone().requires_grad_()
    parts = _parts(impl(logits, *given[1:]), ("mask", "loss", "count"))
    loss = parts["loss"]
    if not isinstance(loss, Tensor) or loss.shape != () or not loss.requires_grad:
        raise ContractError("loss: expected a tensor of one number that carries a gradient")
    [gradient] = torch.autograd.grad(loss, [logits])
    return {
        "logits, ids and documents left unchanged": [logits.detach(), *given[1:]],
        "mask": parts["mask"],
        "count": parts["count"],
        "loss": loss.detach(),
        "gradient of the logits": gradient,
    }


def learning_rate(impl: Callable[..., Any], inputs: Arrays) -> Arrays:
    """The rate of every step of several schedules, and beyond their ends."""
    results: Arrays = {}
    for case in inputs["cases"]:
        plan = case["peak"], case["steps"], case["warmup"], case["stable"]
        rates = [impl(step, *plan) for step in range(case["steps"] + 3)]
        if any(type(rate) not in (float, int) for rate in rates):
            raise ContractError("expected a float, the rate of one step")
        results[case["kind"]] = torch.tensor(rates, dtype=torch.float64)
    return results


def optimizer_step(impl: Callable[..., Any], inputs: Arrays) -> Arrays:
    """One step of several kinds: a first one, a later one, one without any gradient."""
    results: Arrays = {}
    for case in inputs["cases"]:
        given = copy.deepcopy([case["weights"], case["gradients"], case["moments"]])
        numbers = [case[name] for name in ("step", "lr", "weight_decay")]
        result = impl(*given, *numbers, tuple(case["betas"]), case["max_norm"])
        parts = _parts(result, ("weights", "moments", "norm"))
        weights, moments = parts["weights"], parts["moments"]
        if type(weights) is not dict or type(moments) is not dict:
            raise ContractError("weights and moments: expected two dicts by name")
        kind = case["kind"]
        results[f"{kind}: arguments left unchanged"] = [list(part.values()) for part in given]
        results[f"{kind}: norm"] = parts["norm"]
        for name, part in (("moments", moments), ("weights", weights)):
            names = sorted(map(str, part))
            results[f"{kind}: {name}: their names"] = ", ".join(names)
            results[f"{kind}: {name}"] = [part[each] for each in names]
    return results


def training_flops(impl: Callable[..., Any], inputs: Arrays) -> Arrays:
    """Count several models in each way of training."""
    results: Arrays = {}
    for case in inputs["cases"]:
        config = SimpleNamespace(**case["config"])
        for name, options in (
            ("all pairs", {}),
            ("causal", {"causal": True}),
            ("recomputed", {"recompute": True}),
            ("causal and recomputed", {"causal": True, "recompute": True}),
        ):
            result = impl(config, case["length"], **options)
            parts = _parts(result, ("operations", "share of 6 N T"))
            for part, value in parts.items():
                results[f"{case['kind']}, {name}: {part}"] = value
    return results


class Loop:
    """A training loop that may have one fault: `train(ids, lr, warmup, steps)` gives its losses."""

    def __init__(self, case: Arrays) -> None:
        self.vocab_size = case["vocab_size"]
        self._train = case["train"]

    def train(self, ids: Tensor, lr: float, warmup: int, steps: int) -> Tensor:
        """Losses (steps,) in nats a token, each before its step."""
        losses: Tensor = self._train(ids, lr, warmup, steps)
        return losses


def diagnose(impl: Callable[..., str], inputs: Arrays) -> Arrays:
    """Diagnose each loop."""
    return {f"loop {index + 1}": impl(Loop(case)) for index, case in enumerate(inputs["cases"])}


DRIVES: dict[str, Callable[[Any, Arrays], Arrays]] = {
    "merge_step": merge_step,
    "encode_word": encode_word,
    "pack_rows": pack_rows,
    "within_documents": within_documents,
    "learning_rate": learning_rate,
    "optimizer_step": optimizer_step,
    "training_flops": training_flops,
    "diagnose": diagnose,
}
