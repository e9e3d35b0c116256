"""Fine-tuning on conversations: what counts, packed equals padded, what fits."""

import copy

import pytest

from labkit.data.batch import IGNORE_INDEX
from labkit.training.config import TrainConfig
from labkit.training.sft import SftConfig, fitting_examples, train_sft

CHATS = [
    [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    for question, answer in (
        ("a?", "yes"),
        ("what of b?", "nope"),
        ("c", "perhaps not"),
        ("dd", "e"),
    )
]


def run(loaded, *, packing, steps=1, batch_size=9, **settings):
    examples = fitting_examples(loaded.tokenizer, CHATS, 100)
    config = TrainConfig(**({"steps": steps, "lr": 3e-3} | settings))
    sft = SftConfig(length=100, batch_size=batch_size, packing=packing)
    model = copy.deepcopy(loaded.model).requires_grad_(True)
    return list(train_sft(model, examples, config, sft, pad_id=loaded.tokenizer.pad_id))


def test_only_the_answers_are_learnt(byte_loaded):
    examples = fitting_examples(byte_loaded.tokenizer, CHATS, 100)
    answers = [
        byte_loaded.tokenizer.decode([i for i in example.labels if i != IGNORE_INDEX])
        for example in examples
    ]
    assert [answer.removesuffix("<|im_end|>") for answer in answers] == [
        chat[1]["content"] for chat in CHATS
    ]


def test_packed_rows_give_the_loss_of_padded_ones(byte_loaded):
    [packed], [padded] = (run(byte_loaded, packing=packing) for packing in (True, False))
    assert packed.tokens == padded.tokens == sum(len(c[1]["content"]) + 1 for c in CHATS)
    assert packed.loss_nats == pytest.approx(padded.loss_nats, rel=1e-5)
    assert packed.grad_norm == pytest.approx(padded.grad_norm, rel=1e-4)


def test_accumulated_rows_equal_one_batch(byte_loaded):
    [one] = run(byte_loaded, packing=False, batch_size=4)
    [many] = run(byte_loaded, packing=False, batch_size=1, accumulation=4)
    assert many.tokens == one.tokens
    assert many.loss_nats == pytest.approx(one.loss_nats, rel=1e-5)
    assert many.grad_norm == pytest.approx(one.grad_norm, rel=1e-4)


def test_loss_falls(byte_loaded):
    records = run(byte_loaded, packing=True, steps=25)
    assert records[-1].loss_nats < 0.5 * records[0].loss_nats


def test_too_long_conversations_are_left_out(byte_loaded):
    lengths = [len(e.ids) for e in fitting_examples(byte_loaded.tokenizer, CHATS, 1000)]
    assert len(fitting_examples(byte_loaded.tokenizer, CHATS, max(lengths))) == 4
    assert len(fitting_examples(byte_loaded.tokenizer, CHATS, max(lengths) - 1)) == 3
    with pytest.raises(ValueError, match="none of 4 conversations fits into length=5"):
        fitting_examples(byte_loaded.tokenizer, CHATS, 5)


@pytest.mark.parametrize("change", [{"length": 1}, {"batch_size": 0}])
def test_refuses(change):
    with pytest.raises(ValueError, match=r"length=\d+ must be at least 2 and batch_size=\d+"):
        SftConfig(**({"length": 10, "batch_size": 2} | change))
