"""What lab 07's exercises are given: slow memory, a segment, a model. Numpy and torch only."""

import weakref
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from grader.checks.explain import ContractError


class SlowMemory:
    """Keys and values that are brought tile by tile; notes which."""

    def __init__(self, k: Tensor, v: Tensor, block_k: int) -> None:
        self._k, self._v, self._block_k = k, v, block_k
        self.loads: list[list[int]] = []

    def load(self, first: int, last: int) -> tuple[Tensor, Tensor]:
        """Keys and values first <= s < last."""
        S = len(self._k)
        if not 0 <= first < last <= S or last - first > self._block_k:
            raise ContractError(
                f"load({first}, {last}): a tile has 1 to block_k={self._block_k} of the {S} keys"
            )
        self.loads.append([int(first), int(last)])
        return self._k[first:last].clone(), self._v[first:last].clone()


class Segment:
    """A feed-forward network with dropout, which notes how it is run."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        self.weights = [weights[name].clone().requires_grad_() for name in ("up", "gain", "down")]
        self.weights[1].requires_grad_(False)
        self.gradients_on: list[bool] = []

    def __call__(self, x: Tensor) -> Tensor:
        """Dropout behind the non-linearity: its mask reaches the gradients of both products."""
        self.gradients_on.append(torch.is_grad_enabled())
        up, gain, down = self.weights
        return torch.dropout((x @ up).tanh(), 0.4, True) * gain @ down


class Bigram(nn.Module):
    """Logits of the next token from the last one; notes passes forward and backward."""

    def __init__(self, embedding: Tensor, head: Tensor) -> None:
        super().__init__()
        self.embedding = nn.Parameter(embedding.clone())
        self.head = nn.Parameter(head.clone())
        self.passes: list[str] = []

    def forward(self, ids: Tensor) -> Tensor:
        """(B, T) -> (B, T, V)."""
        self.passes.append(f"forward of {tuple(ids.shape)}")
        logits: Tensor = self.embedding[ids].tanh() @ self.head.T
        if logits.requires_grad:
            logits.register_hook(lambda _: self.passes.append(f"backward of {tuple(ids.shape)}"))
        return logits


class Numbers(TorchDispatchMode):
    """Numbers in the storages that operations make, while they live; the rows of a width."""

    def __init__(self, width: int, weight: Tensor, *there: Tensor) -> None:
        super().__init__()
        self._width, self._shape = width, tuple(weight.shape)
        self._alive = {x.untyped_storage()._cdata: 0 for x in (weight, *there)}
        self._live = self.most_alive = self.most_rows = 0
        self.as_weight = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Look at what an operation returns."""
        made = func(*args, **(kwargs or {}))
        for value in tree_leaves(made):
            if isinstance(value, Tensor):
                self._meet(value)
        return made

    def _meet(self, value: Tensor) -> None:
        storage = value.untyped_storage()
        if storage._cdata in self._alive:
            return
        numbers = storage.nbytes() // value.element_size()
        self._alive[storage._cdata] = numbers
        self._live += numbers
        self.most_alive = max(self.most_alive, self._live)
        if value.shape[-1:] == (self._width,):
            self.most_rows = max(self.most_rows, value.numel() // self._width)
        self.as_weight |= tuple(value.shape) == self._shape
        weakref.finalize(storage, self._free, storage._cdata)

    def _free(self, key: int) -> None:
        self._live -= self._alive.pop(key)
