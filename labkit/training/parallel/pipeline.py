"""Pipeline parallelism: each rank holds some layers, micro-batches pass from rank to rank.

A `Pipeline` runs any schedule of `schedules`: what is sent and when follows from the actions.
"""

from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from jaxtyping import Int
from torch import Tensor, nn

from labkit.model.layers import rope_table
from labkit.model.minillm import MiniLLM
from labkit.training.parallel import collectives
from labkit.training.parallel.collectives import Group, finish
from labkit.training.parallel.schedules import Action

Loss = Callable[[Tensor, Tensor], Tensor]


class Segment(nn.Module):
    """Consecutive layers of a MiniLLM; the first segment embeds, the last has norm and head."""

    def __init__(self, model: MiniLLM, stage: int, stages: int) -> None:
        super().__init__()
        self.config = model.config
        self.first, self.last = stage == 0, stage == stages - 1
        blocks = list(model.model.layers)
        bounds = [len(blocks) * s // stages for s in range(stages + 1)]
        self.layers = nn.ModuleList(blocks[bounds[stage] : bounds[stage + 1]])
        self.embed_tokens = model.model.embed_tokens if self.first else None
        self.norm = model.model.norm if self.last else None
        self.lm_head = model.lm_head if self.last else None

    def forward(self, x: Tensor) -> Tensor:
        if self.embed_tokens is not None:
            x = self.embed_tokens(x)
        positions = torch.arange(x.shape[1], device=x.device).expand(x.shape[:2])
        cos, sin = rope_table(positions, self.config.head_width, self.config.rope_theta)
        rope = (cos.to(x.dtype), sin.to(x.dtype))
        for block in self.layers:
            x = block(x, rope)
        if self.norm is not None and self.lm_head is not None:
            x = self.lm_head(self.norm(x))
        return x


def split(model: MiniLLM, group: Group, chunks: int = 1) -> list[Segment]:
    """This rank's segments: stages rank, rank + p, ... of p times `chunks`.

    Raises:
        ValueError: there are more stages than layers, chunks for one rank, or a sliding window.
    """
    p, stages = group.size, group.size * chunks
    if stages > model.config.num_layers:
        raise ValueError(f"{stages} stages need as many layers, not {model.config.num_layers}")
    if p == 1 and chunks > 1:
        raise ValueError(f"chunks={chunks} on one rank: there is nothing to interleave")
    if model.config.sliding_window is not None:
        raise ValueError("a sliding window needs a mask, which segments do not pass on")
    return [Segment(model, chunk * p + group.index, stages) for chunk in range(chunks)]


def sum_tied_gradients(segments: Sequence[Segment], group: Group) -> None:
    """Adds up the gradients of an embedding that the first and the last rank both hold."""
    if not segments[0].config.tie_embeddings or group.size == 1:
        return
    ends = (group.ranks[0], group.ranks[-1])
    if group.rank not in ends:
        return
    pair = Group(ranks=ends, rank=group.rank, tag=group.tag, traffic=group.traffic)
    end = segments[0].embed_tokens if group.index == 0 else segments[-1].lm_head
    assert end is not None
    assert end.weight.grad is not None
    collectives.all_reduce(end.weight.grad, pair)


class Pipeline:
    """Executes a rank's actions over its segments; gradients add up in the parameters."""

    def __init__(self, segments: Sequence[Segment], group: Group) -> None:
        self.segments, self.group = list(segments), group
        self.stages = group.size * len(segments)
        self._held: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
        self._sent: list[dist.Work | None] = []
        self._losses: list[Tensor] = []

    def run(
        self, actions: Sequence[Action], microbatches: Sequence[Int[Tensor, "B T"]], loss: Loss
    ) -> list[Tensor]:
        """One training step's forward and backward passes.

        Args:
            actions: this rank's row of a schedule.
            microbatches: all of them, on every rank; only the ends read more than their shape.
            loss: of (logits, ids), a micro-batch's part of the whole loss: scaled so that the sum
                over micro-batches is what one process would differentiate.

        Returns:
            The micro-batches' losses on the last rank, in order of their forward passes; elsewhere
            nothing.
        """
        self._losses = []
        for action in actions:
            if action.backward:
                self._backward(action, microbatches[action.microbatch])
            else:
                self._forward(action, microbatches[action.microbatch], loss)
        finish(*self._sent)
        self._sent = []
        assert not self._held, f"no backward came for {sorted(self._held)}"
        return self._losses

    def _forward(self, action: Action, ids: Tensor, loss: Loss) -> None:
        segment, stage = self.segments[action.chunk], self._stage(action)
        x = ids
        if not segment.first:
            x = self._receive(action, ids, stage, -1).requires_grad_()
        y = segment(x)
        if segment.last:
            y = loss(y, ids)
            self._losses.append(y.detach())
        else:
            self._send(action, y.detach(), stage + 1, 1)
        self._held[stage, action.microbatch] = (x, y)

    def _backward(self, action: Action, ids: Tensor) -> None:
        segment, stage = self.segments[action.chunk], self._stage(action)
        x, y = self._held.pop((stage, action.microbatch))
        y.backward(None if segment.last else self._receive(action, ids, stage, 1))
        if not segment.first:
            assert x.grad is not None
            self._send(action, x.grad, stage - 1, -1)

    def _stage(self, action: Action) -> int:
        return action.chunk * self.group.size + self.group.index

    def _tag(self, action: Action, stage: int) -> int:
        """One for each message: interleaved ones would overtake each other otherwise."""
        return 1 + 2 * (action.microbatch * self.stages + stage) + action.backward

    def _send(self, action: Action, tensor: Tensor, stage: int, step: int) -> None:
        tag = self._tag(action, stage)
        self._sent.append(self.group.send(tensor, self.group.index + step, tag))

    def _receive(self, action: Action, ids: Tensor, stage: int, step: int) -> Tensor:
        weight = next(self.segments[0].parameters()).detach()
        x = weight.new_empty(*ids.shape, self.segments[0].config.width)
        finish(self.group.receive(x, self.group.index + step, self._tag(action, stage)))
        return x


def pipeline_bytes(microbatch_bytes: int, stages: int, m: int) -> int:
    """Bytes that all ranks send together: the stream over each boundary, there and back."""
    return 2 * (stages - 1) * m * microbatch_bytes
