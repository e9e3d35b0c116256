"""Mixture of experts: each token goes to k of E feed-forward networks, which a router picks.

A `Routing` says where every token went and what was dropped; `recorded_routing` collects those of
a forward pass, for the load-balancing loss and for reports.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from labkit.model.config import ModelConfig, MoeConfig
from labkit.model.layers import SwiGLU


@dataclass(frozen=True, kw_only=True, slots=True)
class Routing:
    """Where the N tokens of one layer went.

    Attributes:
        logits: of the router, in float32.
        experts: each token's k experts, the likeliest first.
        weights: theirs, which sum to 1 for each token.
        kept: False where the expert was full: that expert adds nothing to the token, and the
            other weights stay as they are.
    """

    logits: Float[Tensor, "N E"]
    experts: Int[Tensor, "N k"]
    weights: Float[Tensor, "N k"]
    kept: Bool[Tensor, "N k"]

    @property
    def loads(self) -> Int[Tensor, "E"]:
        """Assignments to each expert before any was dropped; they sum to N k."""
        return torch.bincount(self.experts.flatten(), minlength=self.logits.shape[1])

    @property
    def dropped(self) -> int:
        """Assignments that found their expert full."""
        return int((~self.kept).sum())


class Router(nn.Module):
    """The k largest of p = softmax(W x), renormalised: w_e = p_e / sum of the k.

    Paper: arXiv 2401.04088, section 2.1.
    """

    def __init__(self, width: int, config: MoeConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(config.num_experts, width))
        nn.init.normal_(self.weight, std=width**-0.5)
        self.config = config

    def forward(self, x: Float[Tensor, "N D"]) -> Routing:
        logits = functional.linear(x, self.weight).float()
        weights, experts = logits.softmax(-1).topk(self.config.top_k, dim=-1)
        return Routing(
            logits=logits,
            experts=experts,
            weights=weights / weights.sum(-1, keepdim=True),
            kept=within_capacity(experts, self._capacity(x.shape[0])),
        )

    def _capacity(self, N: int) -> int:
        factor, k = self.config.capacity_factor, self.config.top_k
        if factor is None or not self.training:
            return N
        return math.ceil(factor * N * k / self.config.num_experts)


def within_capacity(experts: Int[Tensor, "N k"], capacity: int) -> Bool[Tensor, "N k"]:
    """Which assignments find room when each expert takes `capacity` tokens.

    All first choices come before all second ones, and within a choice earlier tokens before later.

    Paper: capacity arXiv 2101.03961, equation 3; the order of choices arXiv 2006.16668,
    algorithm 1.
    """
    queue = experts.T.flatten()  # (N, k) -> (k N), choice by choice
    order = queue.argsort(stable=True)
    loads = torch.bincount(queue)
    starts = loads.cumsum(0) - loads
    place = torch.empty_like(queue)
    place[order] = torch.arange(queue.numel(), device=queue.device) - starts[queue[order]]
    return (place < capacity).view(experts.T.shape).T


class MixtureOfExperts(nn.Module):
    """y = sum of w_e(x) * SwiGLU_e(x) over the token's k experts.

    An expert computes its own tokens only. Where all of a token's experts were full, y is 0 and the
    residual stream carries the token on.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        if config.moe is None:
            raise ValueError("the configuration has no moe: give ModelConfig(moe=MoeConfig(...))")
        self.router = Router(config.width, config.moe)
        self.experts = nn.ModuleList(SwiGLU(config) for _ in range(config.moe.num_experts))

    def forward(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        tokens = x.reshape(-1, x.shape[-1])  # (*B, D) -> (N, D)
        routing: Routing = self.router(tokens)
        y = torch.zeros_like(tokens)
        for index, expert in enumerate(self.experts):
            token, choice = torch.where((routing.experts == index) & routing.kept)
            if token.numel():
                weight = routing.weights[token, choice, None].to(x.dtype)
                y = y.index_add(0, token, (weight * expert(tokens[token])).to(y.dtype))
        return y.view_as(x)


def balance_loss(routing: Routing) -> Float[Tensor, ""]:
    """E * sum of f_e P_e: f_e an expert's share of the assignments, P_e its mean probability.

    1 where both are uniform, up to E where one expert gets everything. Only P_e has a gradient.
    Dropped assignments count, or a full expert would look balanced.

    Paper: arXiv 2101.03961, equations 4 to 6, without the factor alpha. Differs: f_e is a share of
    N k assignments, so that balance is 1 whatever k; transformers' Mixtral loss is k times this.
    """
    shares = routing.loads / routing.experts.numel()
    mean_probability = routing.logits.softmax(-1).mean(0)
    return routing.logits.shape[1] * (shares * mean_probability).sum()


def router_z_loss(routing: Routing) -> Float[Tensor, ""]:
    """Mean of logsumexp(logits)^2: keeps the router's logits small, so that they round less.

    Paper: arXiv 2202.08906 (ST-MoE), the router z-loss.
    """
    return routing.logits.logsumexp(-1).pow(2).mean()


@contextmanager
def recorded_routing(model: nn.Module) -> Iterator[list[Routing]]:
    """Within the context, every router's `Routing` is appended to the list, layer by layer.

    A layer that activation checkpointing computes twice is recorded twice.
    """
    found: list[Routing] = []

    def record(module: nn.Module, inputs: tuple[Tensor, ...], output: Routing) -> None:
        found.append(output)

    handles = [
        module.register_forward_hook(record)
        for module in model.modules()
        if isinstance(module, Router)
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
