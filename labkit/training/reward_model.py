"""Reward models: a decoder with a scalar head, trained on which response was preferred."""

import copy
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import skip_init

from labkit.data.batch import IGNORE_INDEX, TokenBatch
from labkit.model.minillm import MiniLLM
from labkit.objectives.preference import bradley_terry_loss
from labkit.training.config import TrainConfig
from labkit.training.forward import batch_logits
from labkit.training.loop import StepRecord, train


class TokenScorer(nn.Module):
    """One number after each token: a reward model's body and head, or a critic's.

    The body is a copy of a language model's, its head one row of zeros, so that a new scorer gives
    0 to everything.
    """

    def __init__(self, model: MiniLLM) -> None:
        super().__init__()
        self.body = copy.deepcopy(model).requires_grad_(True)
        self.body.config = replace(model.config, tie_embeddings=False)
        embedding = self.body.model.embed_tokens.weight
        head = skip_init(
            nn.Linear,
            model.config.width,
            1,
            bias=False,
            device=embedding.device,
            dtype=embedding.dtype,
        )
        nn.init.zeros_(head.weight)
        self.body.lm_head = head

    def forward(self, batch: TokenBatch) -> Float[Tensor, "B T"]:
        """The score of each prefix, in float32."""
        return batch_logits(self.body, batch).squeeze(-1).float()


def response_rewards(scorer: nn.Module, batch: TokenBatch) -> Float[Tensor, "B"]:
    """The score after each row's last labelled token: the reward of its response.

    Raises:
        ValueError: A row has no label.
    """
    labelled = batch.labels != IGNORE_INDEX
    if not labelled.any(-1).all():
        raise ValueError("a row without a labelled token has no response to score")
    places = torch.arange(batch.labels.shape[1], device=batch.labels.device)
    last = (labelled * places).argmax(-1, keepdim=True)
    scores: Tensor = scorer(batch)
    return scores.gather(1, last).squeeze(1)


def pair_loss(scorer: nn.Module, batch: TokenBatch) -> tuple[Float[Tensor, ""], int]:
    """Summed Bradley-Terry loss and the number of pairs: chosen rows first, then rejected ones."""
    chosen, rejected = halves(response_rewards(scorer, batch))
    losses = bradley_terry_loss(chosen, rejected)
    return losses.sum(), len(losses)


def halves(rows: Float[Tensor, "B"]) -> tuple[Float[Tensor, "P"], Float[Tensor, "P"]]:
    """The chosen and the rejected half of the rows of `collate_preferences`.

    Raises:
        ValueError: The number of rows is odd.
    """
    if len(rows) % 2:
        raise ValueError(f"{len(rows)} rows are not pairs: make batches with collate_preferences")
    chosen, rejected = rows.chunk(2)
    return chosen, rejected


def train_reward_model(
    scorer: TokenScorer,
    batches: Iterable[TokenBatch],
    config: TrainConfig,
    *,
    checkpoint_dir: Path | str | None = None,
    resume: bool = False,
) -> Iterator[StepRecord]:
    """Train the scorer on preferences, yielding a record a step.

    Only differences of rewards are learnt: the scores are defined up to a constant a prompt.

    Paper: 2203.02155 (InstructGPT), equation 1.

    Args:
        scorer: Trained in place.
        batches: From `labkit.data.preferences.preference_batches`.
        config: Optimisation.
        checkpoint_dir: As for :func:`labkit.training.loop.train`.
        resume: As for ``train``.

    Yields:
        Records whose loss is a mean over pairs, counted as `tokens`.
    """
    return train(
        scorer, batches, config, loss=pair_loss, checkpoint_dir=checkpoint_dir, resume=resume
    )
