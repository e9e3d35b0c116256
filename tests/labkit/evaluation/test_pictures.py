"""Asking about pictures: choices against whole rows, free answers, and chance without training."""

import copy

import numpy as np
import pytest
import torch

from labkit.data import digits, pictures
from labkit.evaluation import pictures as asking
from labkit.inference.sampling import SamplingConfig
from labkit.model import vision
from labkit.model.zoo import Loaded
from labkit.training import multimodal as training
from labkit.training.config import TrainConfig
from labkit.tuning import lora, multimodal
from labkit.tuning.lora import LoraConfig
from labkit.tuning.multimodal import ProjectorConfig, VisionLanguageModel

IMAGE_ID = 3  # a dollar sign, which no chat here holds
CHOICES = ("dark", "bright")
QUESTION = [{"role": "user", "content": "<image> dark or bright?"}]


@pytest.fixture
def model(byte_loaded: Loaded) -> VisionLanguageModel:
    encoder = vision.VisionEncoder(vision.VisionConfig(width=16, ffn_width=24, patch_size=4))
    vision.initialise(encoder, torch.Generator().manual_seed(5))
    language_model = copy.deepcopy(byte_loaded.model)
    return VisionLanguageModel(encoder, language_model, ProjectorConfig(), image_id=IMAGE_ID)


@pytest.fixture
def images(gen: torch.Generator) -> torch.Tensor:
    """Dark and bright ones in turn."""
    return torch.rand(12, 1, 8, 8, generator=gen) / 4 + torch.tensor([0.0, 0.75] * 6).view(
        12, 1, 1, 1
    )


@torch.no_grad()
def test_a_choice_is_the_likeliest_first_token(
    model: VisionLanguageModel, byte_loaded: Loaded, images: torch.Tensor
) -> None:
    letters = "abcdefghijklmnopqrstuvwxyz"
    model.projector.out.weight.mul_(30)  # loud pictures: the answers must differ
    prompt = torch.tensor([pictures.encode_prompt(byte_loaded.tokenizer, QUESTION, model.tokens)])
    firsts = [byte_loaded.tokenizer.encode(letter)[0] for letter in letters]
    expected = [int(model(prompt, image[None])[0, -1, firsts].argmax()) for image in images]
    for size in (5, 32):
        got = asking.choose(
            model, byte_loaded.tokenizer, images, QUESTION, letters, batch_size=size
        )
        assert got.tolist() == expected
    assert len(set(expected)) > 1


def test_a_trained_projector_answers_from_the_picture(
    model: VisionLanguageModel, byte_loaded: Loaded, images: torch.Tensor
) -> None:
    tokenizer = byte_loaded.tokenizer
    examples = [
        pictures.ImageExample(
            pictures.encode_chat(
                tokenizer,
                [*QUESTION, {"role": "assistant", "content": CHOICES[i % 2]}],
                model.tokens,
            ),
            image,
        )
        for i, image in enumerate(images)
    ]
    lora.apply(model.language_model, LoraConfig(rank=4, target_modules="all-linear"))
    multimodal.train_only(model, ["projector", "adapters"])
    loader = pictures.ImageLoader(examples, batch_size=12, pad_id=2)
    list(training.train_answers(model, loader, TrainConfig(steps=80, lr=1e-2)))
    right = np.arange(12) % 2
    assert asking.choose(model, tokenizer, images, QUESTION, CHOICES).tolist() == right.tolist()
    swapped = asking.choose(model, tokenizer, images.flip(0), QUESTION, CHOICES)
    assert swapped.tolist() == right[::-1].tolist()
    blank = asking.choose(model, tokenizer, torch.zeros_like(images), QUESTION, CHOICES)
    assert len(set(blank.tolist())) == 1
    config = SamplingConfig(max_new_tokens=8, temperature=0.0)
    said = asking.say(model, tokenizer, images, QUESTION, config, batch_size=5)
    assert [text[0] for text in said] == [CHOICES[i][0] for i in right]


@pytest.mark.slow
@torch.no_grad()
def test_before_tuning_smollm2_knows_nothing_of_the_picture(smollm2: Loaded) -> None:
    _, held = digits.split(digits.load())
    encoder = vision.VisionEncoder(vision.VisionConfig())
    vision.initialise(encoder, torch.Generator().manual_seed(0))
    model = VisionLanguageModel(
        encoder,
        smollm2.model,
        ProjectorConfig(group=4),
        image_id=smollm2.tokenizer.token_id("<empty_output>"),
    )
    found = asking.choose(
        model,
        smollm2.tokenizer,
        held.images[:100],
        digits.question(digits.WHICH),
        digits.WHICH.choices,
    )
    # Chance is 1/10; of 100 answers more than 22 are right with probability 1e-4.
    assert (found == held.labels[:100].numpy()).mean() <= 0.22


def test_ambiguous_choices_and_no_pictures_are_refused(
    model: VisionLanguageModel, byte_loaded: Loaded, images: torch.Tensor
) -> None:
    tokenizer = byte_loaded.tokenizer
    for choices in (("bad", "bright"), ()):
        with pytest.raises(ValueError, match="must differ in their first tokens"):
            asking.choose(model, tokenizer, images, QUESTION, choices)
    with pytest.raises(ValueError, match="0 pictures in batches"):
        asking.choose(model, tokenizer, images[:0], QUESTION, CHOICES)
    with pytest.raises(ValueError, match="batch_size=0"):
        asking.say(model, tokenizer, images, QUESTION, SamplingConfig(), batch_size=0)


def test_a_transformers_decoder_is_refused_by_name(
    model: VisionLanguageModel, byte_loaded: Loaded, images: torch.Tensor, as_llama
) -> None:
    llama = as_llama(model.language_model)
    over = VisionLanguageModel(model.encoder, llama, ProjectorConfig(), image_id=IMAGE_ID)
    with pytest.raises(ValueError, match="not a LlamaForCausalLM"):
        asking.choose(over, byte_loaded.tokenizer, images, QUESTION, CHOICES)
