"""A smaller student learns from a teacher's logits."""

import itertools

import pytest
import torch

from labkit.data.batch import TokenBatch
from labkit.model import minillm
from labkit.model.config import ModelConfig
from labkit.objectives.distillation import forward_kl
from labkit.objectives.language_modelling import IGNORE_INDEX
from labkit.training.config import TrainConfig
from labkit.training.distill import DistillConfig, teacher_loss, train_distillation
from labkit.training.forward import batch_logits
from labkit.training.loop import train

V = 41


def model_of(width, layers, seed, vocab_size=V):
    config = ModelConfig(
        vocab_size=vocab_size,
        width=width,
        num_layers=layers,
        num_heads=6,
        num_kv_heads=2,
        head_width=4,
        ffn_width=2 * width - 5,
        max_length=60,
    )
    model = minillm.MiniLLM(config)
    minillm.initialise(model, torch.Generator().manual_seed(seed))
    return model


def counting_batches(seed):
    """Rows that count on from a random start in steps of 3: a rule that can be learnt."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        start = torch.randint(0, V, (5, 1), generator=generator)
        ids = (start + 3 * torch.arange(13)) % V
        labels = ids.clone()
        labels[0, :4] = IGNORE_INDEX
        yield TokenBatch(ids=ids, labels=labels)


@pytest.fixture(scope="module")
def teacher():
    teacher = model_of(23, 3, seed=1)
    list(train(teacher, counting_batches(2), TrainConfig(steps=120, lr=1e-2, warmup_steps=10)))
    return teacher


def divergence(student, teacher):
    """Held-out KL(teacher, student) a token at temperature 1."""
    batch = next(counting_batches(99))
    mask = torch.ones_like(batch.ids, dtype=torch.bool)
    with torch.no_grad():
        total, count = forward_kl(batch_logits(student, batch), batch_logits(teacher, batch), mask)
    return total.item() / count


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_loss_falls_and_an_untrained_student_is_beaten(teacher, direction):
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    student, untrained = model_of(17, 2, seed=4), model_of(17, 2, seed=4)
    records = list(
        train_distillation(
            student,
            teacher,
            counting_batches(5),
            TrainConfig(steps=80, lr=1e-2, warmup_steps=5),
            DistillConfig(temperature=2.0, hard_weight=0.1, direction=direction),
        )
    )
    assert records[-1].loss_nats < 0.3 * records[0].loss_nats
    assert divergence(student, teacher) < 0.3 * divergence(untrained, teacher)
    for name, tensor in teacher.state_dict().items():
        assert torch.equal(tensor, before[name]), "the teacher stays as it was"
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_a_copy_of_the_teacher_has_nothing_to_learn(teacher):
    loss = teacher_loss(teacher, DistillConfig())
    loss_sum, tokens = loss(teacher, next(counting_batches(3)))
    assert tokens == 5 * 12 - 3
    assert loss_sum.item() == pytest.approx(0.0, abs=1e-4)


def test_another_vocabulary_is_refused(teacher):
    student = model_of(17, 2, seed=4, vocab_size=V + 6)
    batches = itertools.islice(counting_batches(5), 1)
    with pytest.raises(ValueError, match="vocabulary of 47 and the teacher's of 41"):
        next(
            train_distillation(
                student, teacher, batches, TrainConfig(steps=1, lr=1e-3), DistillConfig()
            )
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": 0.0}, r"temperature=0\.0"),
        ({"hard_weight": -0.1}, r"hard_weight=-0\.1"),
        ({"direction": "sideways"}, "direction='sideways'"),
    ],
)
def test_refuses(change, message):
    with pytest.raises(ValueError, match=message):
        DistillConfig(**change)
