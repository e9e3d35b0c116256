"""What lab 03's exercises are given: layers, models, broken adapters. Numpy and torch only."""

from typing import Any, cast

import torch
from torch import Tensor, nn

Arrays = dict[str, Any]


def linear(inputs: Arrays) -> nn.Linear:
    """The case's base layer; making it draws nothing from the global generator."""
    O, I = inputs["weight"].shape  # noqa: E741
    base = nn.Linear(I, O, bias=inputs["bias"] is not None, device="meta")
    state = {name: inputs[name].clone() for name, _ in base.named_parameters()}
    base.load_state_dict(state, assign=True)
    return base


class Wrapped(nn.Module):
    """A stand-in adapter layer, a base and one trainable matrix: exercise 3 stands alone."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.extra = nn.Parameter(torch.zeros(2, base.in_features))

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.base(x) + (x @ self.extra.T).sum(-1, keepdim=True))


class _Block(nn.Module):
    def __init__(self, D: int, F: int) -> None:
        super().__init__()
        self.norms = nn.ModuleDict({"q_proj": nn.LayerNorm(D)})
        self.attn = nn.ModuleDict({n: nn.Linear(D, D) for n in ("q_proj", "pre_q_proj", "v_proj")})
        self.up_proj = nn.Linear(D, F)
        self.heads = nn.ModuleList([nn.Linear(F, D), nn.Linear(D, D)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.norms["q_proj"](x)
        for layer in (*self.attn.values(), self.up_proj, *self.heads):
            x = layer(x).tanh()
        return x


class Model(nn.Module):
    """A nested model with decoys; every parameter takes part in its output."""

    def __init__(self, inputs: Arrays) -> None:
        super().__init__()
        D, F = inputs["width"], inputs["ffn_width"]
        with torch.random.fork_rng(devices=[]):
            self.blocks = nn.ModuleList([_Block(D, F) for _ in range(inputs["layers"])])
            self.q_proj = nn.Linear(D, D)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, D) to (B, D)."""
        for block in self.blocks:
            x = x + block(x)
        return cast(Tensor, self.q_proj(x))


class Probe(nn.Module):
    """An adapter layer as a learner may have written it; `scale` and `leak` may be wrong."""

    def __init__(self, inputs: Arrays) -> None:
        super().__init__()
        self.base = linear(inputs).requires_grad_(False)
        for name in inputs["trains"]:
            self.base.get_parameter(name).requires_grad_(True)
        self.lora_A = nn.Parameter(inputs["lora_A"].clone())
        self.lora_B = nn.Parameter(inputs["lora_B"].clone())
        self._scale, self._leak = inputs["scale"], inputs["leak"]

    def forward(self, x: Tensor) -> Tensor:
        narrow = x @ self.lora_A.T
        leak = self._leak * narrow.sum(-1, keepdim=True)
        return cast(Tensor, self.base(x) + self._scale * narrow @ self.lora_B.T + leak)


class Bigram(nn.Module):
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
