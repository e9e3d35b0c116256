"""Learning to see: the losses against plain ones, and what a stage may change."""

import copy
from itertools import islice

import pytest
import torch
from torch import Tensor

from labkit.data import digits, pictures
from labkit.data.batch import IGNORE_INDEX
from labkit.model import vision
from labkit.model.zoo import Loaded
from labkit.objectives.language_modelling import cross_entropy
from labkit.training import multimodal as training
from labkit.training.config import TrainConfig
from labkit.tuning import lora, multimodal
from labkit.tuning.lora import LoraConfig
from labkit.tuning.multimodal import ProjectorConfig, VisionLanguageModel

IMAGE_ID = 3  # a dollar sign, which no chat here holds


@pytest.fixture(scope="module")
def train_set() -> digits.Digits:
    return digits.split(digits.load())[0].take(range(64))


@pytest.fixture
def model(byte_loaded: Loaded) -> VisionLanguageModel:
    encoder = vision.VisionEncoder(vision.VisionConfig(width=16, ffn_width=24, patch_size=4))
    vision.initialise(encoder, torch.Generator().manual_seed(5))
    language_model = copy.deepcopy(byte_loaded.model)
    return VisionLanguageModel(encoder, language_model, ProjectorConfig(), image_id=IMAGE_ID)


@pytest.fixture
def examples(
    model: VisionLanguageModel, byte_loaded: Loaded, train_set: digits.Digits, gen
) -> list[pictures.ImageExample]:
    chats = digits.chats(train_set.labels, digits.KINDS, gen)
    return [
        pictures.ImageExample(
            pictures.encode_chat(byte_loaded.tokenizer, chat, model.tokens), image
        )
        for chat, image in zip(chats, train_set.images, strict=True)
    ]


def test_the_answers_loss_is_the_loss_of_all_logits(
    model: VisionLanguageModel, examples: list[pictures.ImageExample]
) -> None:
    multimodal.train_only(model, ["projector"])
    batch = pictures.collate_images(examples[:6], pad_id=2)
    loss, count = training.answer_loss(model, batch)
    loss.backward()
    got = model.projector.out.weight.grad.clone()
    model.projector.zero_grad()
    expected, expected_count = cross_entropy(model(batch.ids, batch.images), batch.labels)
    expected.backward()
    assert count == expected_count == int((batch.labels != IGNORE_INDEX).sum())
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(got, model.projector.out.weight.grad, rtol=1e-4, atol=1e-6)


def test_only_the_answers_words_count(
    model: VisionLanguageModel, byte_loaded: Loaded, examples: list[pictures.ImageExample]
) -> None:
    batch = pictures.collate_images(examples[:6], pad_id=2)
    learnt = [byte_loaded.tokenizer.decode([i for i in e.text.labels if i >= 0]) for e in examples]
    assert set(learnt) <= {choice for kind in digits.KINDS for choice in kind.choices}
    other = pictures.ImageBatch(
        ids=batch.ids, labels=batch.labels.roll(1, dims=0), images=batch.images
    )
    assert training.answer_loss(model, batch)[0] != training.answer_loss(model, other)[0]


def test_transformers_decoders_have_the_same_loss(
    model: VisionLanguageModel, examples: list[pictures.ImageExample], as_llama
) -> None:
    over = VisionLanguageModel(
        model.encoder, as_llama(model.language_model), ProjectorConfig(), image_id=IMAGE_ID
    )
    batch = pictures.collate_images(examples[:4], pad_id=2)
    ours, theirs = training.answer_loss(model, batch), training.answer_loss(over, batch)
    assert ours[1] == theirs[1]
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-4, atol=1e-4)


def test_a_stage_changes_what_it_trains_and_nothing_else(
    model: VisionLanguageModel, examples: list[pictures.ImageExample]
) -> None:
    lora.apply(model.language_model, LoraConfig(rank=2))
    loader = pictures.ImageLoader(examples, batch_size=16, pad_id=2)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    first = list(
        training.train_answers(
            multimodal.train_only(model, ["projector"]), loader, TrainConfig(steps=12, lr=1e-2)
        )
    )
    middle = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    moved = {name for name in before if not torch.equal(before[name], middle[name])}
    assert moved == {"projector.out.weight", "projector.out.bias"}
    assert first[-1].loss_nats < first[0].loss_nats
    second = TrainConfig(steps=2, lr=1e-3)
    multimodal.train_only(model, ["projector", "adapters"])
    list(training.train_answers(model, loader, second))
    moved = {n for n, tensor in model.state_dict().items() if not torch.equal(tensor, middle[n])}
    assert any("lora_B" in name for name in moved)
    assert all("lora_" in name or name.startswith("projector.") for name in moved)


def classifier(train_set: digits.Digits, steps: int) -> vision.ImageClassifier:
    model = vision.ImageClassifier(vision.VisionEncoder(vision.VisionConfig()), 10)
    vision.initialise(model, torch.Generator().manual_seed(0))
    batches = pictures.class_batches(
        train_set.images,
        train_set.labels,
        batch_size=64,
        generator=torch.Generator().manual_seed(1),
    )
    list(training.train_classifier(model, batches, TrainConfig(steps=steps, lr=3e-3)))
    return model


def test_the_encoder_learns_to_see_held_out_digits() -> None:
    train, held = digits.split(digits.load())
    untrained = vision.ImageClassifier(vision.VisionEncoder(vision.VisionConfig()), 10)
    vision.initialise(untrained, torch.Generator().manual_seed(0))
    assert training.class_accuracy(untrained, held.images, held.labels) < 0.35
    trained = classifier(train, steps=150)
    assert training.class_accuracy(trained, held.images, held.labels) > 0.85
    assert training.class_accuracy(trained, held.images, (held.labels + 1) % 10) < 0.05


def test_class_loss_is_a_sum_over_images(train_set: digits.Digits) -> None:
    model = vision.ImageClassifier(vision.VisionEncoder(vision.VisionConfig()), 10)
    vision.initialise(model, torch.Generator().manual_seed(0))
    [batch] = islice(
        pictures.class_batches(
            train_set.images, train_set.labels, batch_size=8, generator=torch.Generator()
        ),
        1,
    )
    loss, count = training.class_loss(model, batch)
    alone: list[Tensor] = [
        -model(image[None]).log_softmax(1)[0, int(label)]
        for image, label in zip(batch.images, batch.labels, strict=True)
    ]
    assert count == 8
    torch.testing.assert_close(loss, torch.stack(alone).sum())
