"""The two losses on the way to a model that sees: naming an image's class, answering about it.

Paper: training in stages arXiv 2304.10592, section 3, and arXiv 2304.08485, section 4.2: first the
projector alone, then more. A stage here is `labkit.tuning.multimodal.train_only` and one call of
`train_answers`.
"""

from collections.abc import Iterable, Iterator
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from labkit.data.batch import TokenBatch
from labkit.data.pictures import ImageBatch
from labkit.model.minillm import MiniLLM
from labkit.model.vision import ImageClassifier
from labkit.objectives.language_modelling import IGNORE_INDEX, cross_entropy, shift_labels
from labkit.training.config import TrainConfig
from labkit.training.loop import StepRecord, train
from labkit.tuning.multimodal import VisionLanguageModel


def class_loss(model: nn.Module, batch: TokenBatch) -> tuple[Float[Tensor, ""], int]:
    """Summed cross-entropy of an image classifier in nats, and the number of images."""
    scores = model(cast(ImageBatch, batch).images)
    classes = batch.labels.squeeze(1)
    return functional.cross_entropy(scores.float(), classes, reduction="sum"), len(classes)


def answer_loss(model: nn.Module, batch: TokenBatch) -> tuple[Float[Tensor, ""], int]:
    """Summed cross-entropy of the labelled tokens in nats, and their number.

    A MiniLLM's head is only given the positions that predict a labelled token: with short answers
    and a large vocabulary most of its work falls away.
    """
    seeing, shown = cast(VisionLanguageModel, model), cast(ImageBatch, batch)
    if not isinstance(seeing.language_model, MiniLLM):
        return cross_entropy(seeing(shown.ids, shown.images), shown.labels)
    with seeing.showing(shown.images):
        hidden = seeing.language_model.hidden_states(shown.ids)
    targets = shift_labels(shown.labels)
    learnt = targets != IGNORE_INDEX
    logits = seeing.language_model.lm_head(hidden[learnt])
    loss = functional.cross_entropy(logits.float(), targets[learnt], reduction="sum")
    return loss, int(learnt.sum())


def train_classifier(
    classifier: ImageClassifier, batches: Iterable[ImageBatch], config: TrainConfig
) -> Iterator[StepRecord]:
    """Train encoder and head to name the class of an image; `tokens` of a record are images."""
    return train(classifier, batches, config, loss=class_loss)


def train_answers(
    model: VisionLanguageModel, batches: Iterable[ImageBatch], config: TrainConfig
) -> Iterator[StepRecord]:
    """Train what `train_only` has chosen to give the labelled answers, yielding a record a step.

    Raises:
        DivergedError, ValueError: as `labkit.training.loop.train`.
    """
    return train(model, batches, config, loss=answer_loss)


@torch.no_grad()
def class_accuracy(classifier: ImageClassifier, images: Tensor, labels: Tensor) -> float:
    """Share of images whose largest score is that of their class."""
    return float((classifier(images).argmax(dim=1) == labels).float().mean())
