"""Expert parallelism: the experts of a layer lie on different ranks, and tokens travel to them.

Papers: arXiv 2006.16668 (GShard), section 3.1; arXiv 2101.03961 (Switch), section 2.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from labkit.model.minillm import MiniLLM
from labkit.model.moe import MixtureOfExperts, Routing
from labkit.training.parallel import collectives
from labkit.training.parallel.collectives import Group
from labkit.training.parallel.exchanges import exchange_rows


class ExpertParallel(nn.Module):
    """y = sum of w_e(x) * SwiGLU_e(x), expert e on rank e n / E, by two all-to-alls.

    Each rank has its own tokens. It routes them by a replicated router, sends each kept assignment
    to the rank that has its expert, and takes back the results: 2 D items for each assignment that
    leaves the rank, and as many backward. Capacity counts this rank's tokens only.
    """

    def __init__(self, moe: MixtureOfExperts, group: Group) -> None:
        """Keeps this rank's experts of `moe`, which every rank holds alike.

        Raises:
            ValueError: the ranks do not divide the experts.
        """
        super().__init__()
        E, n = len(moe.experts), group.size
        if E % n:
            raise ValueError(f"{n} ranks must divide num_experts={E}")
        self.group, self.local = group, E // n
        self.router = moe.router
        self.first = group.index * self.local
        self.experts = nn.ModuleList(list(moe.experts)[self.first : self.first + self.local])

    def forward(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        tokens = x.reshape(-1, x.shape[-1])  # (*B, D) -> (N, D)
        routing: Routing = self.router(tokens)
        token, choice = torch.where(routing.kept)
        expert = routing.experts[token, choice]
        order = expert.argsort(stable=True)  # rank 0's experts first
        token, choice, expert = token[order], choice[order], expert[order]
        results = self._dispatched(tokens[token], expert)
        weight = routing.weights[token, choice, None].to(x.dtype)
        y = torch.zeros_like(tokens).index_add(0, token, (weight * results).to(x.dtype))
        return y.view_as(x)

    def _dispatched(
        self, rows: Float[Tensor, "A D"], expert: Int[Tensor, "A"]
    ) -> Float[Tensor, "A D"]:
        """Each row through its expert, wherever that is."""
        n = self.group.size
        sent = torch.bincount(expert, minlength=n * self.local).view(n, self.local)
        received = torch.empty_like(sent)  # rows from each rank for each local expert
        collectives.all_to_all(list(sent), list(received), self.group)
        to, back = sent.sum(1).tolist(), received.sum(1).tolist()
        here = exchange_rows(rows, to, back, self.group)
        places = torch.arange(self.local).repeat(n).repeat_interleave(received.flatten())
        return exchange_rows(self._computed(here, places), back, to, self.group)

    def _computed(
        self, rows: Float[Tensor, "A D"], places: Int[Tensor, "A"]
    ) -> Float[Tensor, "A D"]:
        results = torch.zeros_like(rows)
        for place, expert in enumerate(self.experts):
            mine = torch.where(places == place)[0]
            # An expert without tokens is called all the same: its gradient is then 0, not absent.
            results = results.index_add(0, mine, expert(rows[mine]))
        return results


def dispatch_bytes(leaving: int, coming: int, D: int, item_bytes: int) -> int:
    """Bytes of rows one rank sends in forward: `leaving` assignments out, `coming` results back."""
    return (leaving + coming) * D * item_bytes


def shard_experts(model: MiniLLM, group: Group) -> MiniLLM:
    """Replaces every mixture of experts by its `ExpertParallel`, in place.

    Raises:
        ValueError: the model has no experts, or the ranks do not divide them.
    """
    if model.config.moe is None:
        raise ValueError("the model has no experts to spread: ModelConfig(moe=...) is None")
    for block in model.model.layers:
        experts = block.get_submodule("mlp")
        assert isinstance(experts, MixtureOfExperts)
        block.register_module("mlp", ExpertParallel(experts, group))
    return model


def sum_replicated_gradients(model: nn.Module, group: Group) -> None:
    """Sums over ranks the gradients of all that is not an expert, in place: plain data parallelism.

    An expert's gradient is whole already, since every rank's tokens came to it.
    """
    experts = {
        parameter
        for module in model.modules()
        if isinstance(module, ExpertParallel)
        for parameter in module.experts.parameters()
    }
    for parameter in model.parameters():
        if parameter not in experts and parameter.grad is not None:
            collectives.all_reduce(parameter.grad, group)
