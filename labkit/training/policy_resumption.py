"""Resuming policy optimisation: whole rounds are passed over, since their policy is gone."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from labkit.data.batch import TokenBatch
from labkit.data.preferences import Tokens
from labkit.training import checkpoint
from labkit.training.config import TrainConfig
from labkit.training.loop import CHECKPOINT_NAME

PASSED_OVER = TokenBatch(ids=torch.empty(0, 0).long(), labels=torch.empty(0, 0).long())
"""Stands for a minibatch of a round whose steps were taken before a run was resumed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Resumption:
    """Where a run of policy optimisation is stored, and how much of it is done.

    A resumed run equals an uninterrupted one if `generator` is all that sampling draws from.

    Attributes:
        checkpoint_dir: As for :func:`labkit.training.loop.train`.
        resume: As for ``train``.
        generator: What `generate` draws from; stored and restored.
        rounds: Rounds of rollouts done; found by `after`.
        minibatches: Minibatches done, all those of these rounds; found by `after`.
    """

    checkpoint_dir: Path | str | None = None
    resume: bool = False
    generator: torch.Generator | None = None
    rounds: int = 0
    minibatches: int = 0

    def after(
        self,
        prompts: Iterator[list[Tokens]],
        config: TrainConfig,
        *,
        group: int,
        epochs: int,
        minibatch_size: int,
    ) -> "Resumption":
        """The same with its counts, the prompts of the rounds that are done having been drawn.

        Args:
            prompts: Of each round, from the start.
            config: Optimisation.
            group: Responses a prompt.
            epochs: Passes over a round.
            minibatch_size: Responses.

        Raises:
            ValueError: Prompts ran out, or the checkpoint was written within a round.
        """
        steps = self._steps_done()
        needed, rounds, drawn = steps * config.accumulation, 0, 0
        while drawn < needed:
            some = next(prompts, None)
            if some is None:
                raise ValueError(f"the run to resume took {steps} steps, but prompts ran out")
            start, rounds = drawn, rounds + 1
            drawn += epochs * -(-len(some) * group // minibatch_size)
        if drawn > needed and steps < config.steps:
            raise _within_a_round(needed, start, drawn)
        return replace(self, rounds=rounds, minibatches=needed)

    def require_between_rounds(self, start: int, end: int, config: TrainConfig) -> None:
        """Refuse a round of minibatches in the middle of which a checkpoint would be written.

        Raises:
            ValueError: There is one, and it could not be resumed from: its rollouts are not stored.
        """
        every = config.checkpoint_every * config.accumulation
        if self.checkpoint_dir is not None and every and (end - 1) // every > start // every:
            raise _within_a_round((start // every + 1) * every, start, end)

    def _steps_done(self) -> int:
        if not self.resume or self.checkpoint_dir is None:
            return 0
        path = Path(self.checkpoint_dir) / CHECKPOINT_NAME
        return int(checkpoint.load(path).metadata["step"]) if path.exists() else 0


def _within_a_round(minibatch: int, start: int, end: int) -> ValueError:
    return ValueError(
        f"a checkpoint after minibatch {minibatch} lies within the round of minibatches "
        f"{start + 1} to {end}: choose checkpoint_every so that it falls between rounds"
    )
