"""How each exercise of lab 08 is called. Runs beside the student's code: numpy and torch only."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from grader.checks.explain import ContractError

Arrays = dict[str, Any]


def _pair(result: Any, first: str, second: str) -> tuple[Any, Any]:
    """The two parts of a returned tuple; a sentence instead of an unpacking error."""
    if type(result) is not tuple or len(result) != 2:
        kind = type(result).__name__
        raise ContractError(f"expected a tuple ({first}, {second}), got an object of type {kind}")
    return result


def _tensor(value: Any, name: str, shape: Sequence[int]) -> Tensor:
    if not isinstance(value, Tensor) or tuple(value.shape) != tuple(shape):
        got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ContractError(f"{name}: expected a tensor of shape {tuple(shape)}, got {got}")
    return value


def _gradients(total: Tensor, inputs: Sequence[Tensor], name: str) -> list[Tensor]:
    """Gradients of the first inputs; a sentence where nothing trains."""
    if not total.requires_grad:
        raise ContractError(f"{name} must carry a gradient: is something detached, or a number?")
    found = torch.autograd.grad(total, list(inputs), allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for x, g in zip(inputs, found, strict=True)]


def _copies(inputs: Arrays, names: Sequence[str]) -> list[Tensor]:
    return [inputs[name].clone() for name in names]


def response_log_probs(impl: Callable[..., Tensor], inputs: Arrays) -> Arrays:
    """Sums, means, the gradient, and logits of lower precision."""
    given = _copies(inputs, ("logits", "ids", "response"))
    logits = given[0].clone().requires_grad_()
    B = len(logits)
    sums = _tensor(impl(logits, given[1], given[2]), "the sums", (B,))
    [gradient] = _gradients((sums * inputs["weights"]).sum(), [logits], "the sums")
    return {
        "logits, ids and response left unchanged": [logits.detach(), *given[1:]],
        "sums": sums.detach(),
        "means a token": _tensor(impl(*given, average=True), "the means", (B,)).detach(),
        "gradient of the logits": gradient,
        "sums of bfloat16 logits": impl(given[0].bfloat16(), given[1], given[2]).detach(),
    }


def optimal_policy(impl: Callable[..., Any], inputs: Arrays) -> Arrays:
    """The optimum for rewards of several sizes, and where some responses are impossible."""
    results: Arrays = {}
    for case in inputs["cases"]:
        given = _copies(case, ("reference", "rewards"))
        log_probs, value = _pair(impl(*given, case["beta"]), "log_probs", "value")
        kind = case["kind"]
        results[f"{kind} rewards: reference and rewards left unchanged"] = given
        results[f"{kind} rewards: log-probabilities"] = log_probs
        results[f"{kind} rewards: value of the objective"] = value
    return results


PAIR = ("policy_chosen", "policy_rejected", "reference_chosen", "reference_rejected")


def dpo_loss(impl: Callable[..., Any], inputs: Arrays) -> Arrays:
    """Plain, smoothed, by length, with margins far apart; gradients of policy and reference."""
    beta, lengths = inputs["beta"], tuple(_copies(inputs, ("chosen_lengths", "rejected_lengths")))
    pair = [tensor.requires_grad_() for tensor in _copies(inputs, PAIR)]
    losses, margins = _pair(impl(*pair, beta), "losses", "margins")
    losses = _tensor(losses, "the losses", pair[0].shape)
    gradients = _gradients(losses.sum(), pair, "the losses")
    smoothing = inputs["label_smoothing"]
    options = {
        "smoothed": (pair, {"label_smoothing": smoothing}),
        "by lengths": (pair, {"lengths": lengths}),
        "smoothed, by lengths": (pair, {"label_smoothing": smoothing, "lengths": lengths}),
        "far apart": ([pair[0] - inputs["far"][0], pair[1] - inputs["far"][1], *pair[2:]], {}),
    }
    others = {
        f"{name}: {part}": value.detach()
        for name, (tensors, chosen) in options.items()
        for part, value in zip(
            ("losses", "margins"),
            _pair(impl(*tensors, beta, **chosen), "losses", "margins"),
            strict=True,
        )
    }
    return {
        "arguments left unchanged": [*(x.detach() for x in pair), *lengths],
        "losses": losses.detach(),
        "margins": margins.detach(),
        "margins: no gradient flows through them": not margins.requires_grad,
        "gradients of the policy": gradients[:2],
        "reference: no gradient reaches it": gradients[2:],
        **others,
    }


def orpo_loss(impl: Callable[..., Any], inputs: Arrays) -> Arrays:
    """Ordinary responses with gradients, then nearly certain and nearly impossible ones."""
    given = [x.requires_grad_() for x in _copies(inputs, ("chosen", "rejected"))]
    losses, ratios = _pair(impl(*given, inputs["weight"]), "losses", "log_odds_ratios")
    losses = _tensor(losses, "the losses", given[0].shape)
    results: Arrays = {
        "arguments left unchanged": [x.detach() for x in given],
        "losses": losses.detach(),
        "log odds ratios": ratios.detach(),
        "gradients": _gradients(losses.sum(), given, "the losses"),
    }
    for name, (chosen, rejected) in inputs["edges"].items():
        pair = impl(chosen.clone(), rejected.clone(), inputs["weight"])
        losses, ratios = _pair(pair, "losses", "log_odds_ratios")
        results[f"log-probabilities {name}: losses"] = losses
        results[f"log-probabilities {name}: log odds ratios"] = ratios
    return results


def gae(impl: Callable[..., Any], inputs: Arrays) -> Arrays:
    """Advantages and returns of ended and cut episodes, with three lambdas."""
    names = ("rewards", "values", "last_values", "terminated", "lengths")
    results: Arrays = {}
    for name, lam in (("", inputs["lam"]), ("lam 0: ", 0.0), ("lam 1: ", 1.0)):
        given = _copies(inputs, names)
        given[1].requires_grad_()
        parts = _pair(impl(*given, inputs["gamma"], lam), "advantages", "returns")
        advantages, returns = (_tensor(x, "each of the two", given[0].shape) for x in parts)
        results[f"{name}arguments left unchanged"] = [x.detach() for x in given]
        results[f"{name}advantages"] = advantages.detach()
        results[f"{name}returns"] = returns.detach()
        results[f"{name}both carry no gradient"] = not (
            advantages.requires_grad or returns.requires_grad
        )
    return results


POLICY = ("log_probs", "old_log_probs", "reference_log_probs", "advantages")


def ppo_loss(impl: Callable[..., Any], inputs: Arrays) -> Arrays:
    """Loss, gradients and the next coefficient for targets above, near and below."""
    clip, kl_coef = inputs["clip"], inputs["kl_coef"]
    given = [tensor.requires_grad_() for tensor in _copies(inputs, POLICY)]
    response = inputs["response"].clone()
    results: Arrays = {}
    for place, target in inputs["targets"].items():
        returned = impl(*given, response, clip, kl_coef, target)
        loss, next_coef = _pair(returned, "loss", "kl_coef")
        results[f"divergence {place} its target: next kl_coef"] = next_coef
    plain, _ = _pair(impl(*given, response, clip, 0.0, 1.0), "loss", "kl_coef")
    gradients = _gradients(_tensor(loss, "the loss", ()), given, "the loss")
    return {
        "arguments left unchanged": [*(x.detach() for x in given), response],
        "loss without a penalty": _tensor(plain, "the loss", ()).detach(),
        "loss": loss.detach(),
        "gradient of log_probs": gradients[0],
        "no gradient reaches what was measured before": gradients[1:],
        **results,
    }


def group_advantages(impl: Callable[..., Tensor], inputs: Arrays) -> Arrays:
    """Groups of several sizes, in random order, with and without scaling."""
    given = _copies(inputs, ("rewards", "groups"))
    return {
        "unscaled advantages": impl(*given, scale_by_std=False),
        "scaled advantages": impl(*given),
        "rewards and groups left unchanged": given,
    }


def _loss(case: Arrays) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """The case's loss as a learner may call it; it does its work where it is."""

    def loss(policy: Tensor, reference: Tensor, response: Tensor) -> Tensor:
        return cast(Tensor, case["loss"](policy, reference, response))

    return loss


def diagnose(impl: Callable[..., Any], inputs: Arrays) -> Arrays:
    """Ask for the diagnosis of several losses."""
    return {
        f"loss {index + 1}": impl(_loss(case), case["beta"])
        for index, case in enumerate(inputs["cases"])
    }


DRIVES: dict[str, Callable[[Any, Arrays], Arrays]] = {
    "response_log_probs": response_log_probs,
    "optimal_policy": optimal_policy,
    "dpo_loss": dpo_loss,
    "orpo_loss": orpo_loss,
    "gae": gae,
    "ppo_loss": ppo_loss,
    "group_advantages": group_advantages,
    "diagnose": diagnose,
}
