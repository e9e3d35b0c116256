"""Multiple choice against one plain forward pass per choice."""

import numpy as np
import pytest
import torch

from labkit.data.questions import Item
from labkit.evaluation.multiple_choice import (
    continuation_log_probs,
    continuations,
    format_item,
    score,
)
from labkit.model.tokenizer import Tokenizer
from labkit.model.zoo import Loaded

ITEMS = [
    Item(question="What is 2 + 2?", choices=("four", "a small fish", "ten"), answer=0),
    Item(question="Which is a color?", choices=("blue", "seven"), answer=0),
    Item(question="What do cows drink?", choices=("iron", "stone", "water", "sand"), answer=2),
]
SHOTS = [Item(question="Is ice cold?", choices=("no", "yes"), answer=1)]


def brute_force(loaded: Loaded, prompt: str, continuation: str) -> list[float]:
    """Encodes the whole text at once and reads the continuation's tokens off the logits."""
    ids = loaded.tokenizer.encode(prompt + continuation)
    start = len(loaded.tokenizer.encode(prompt))
    with torch.no_grad():
        logits = loaded.model(torch.tensor([ids]))[0].double()
    return [float(logits[t - 1].log_softmax(-1)[ids[t]]) for t in range(start, len(ids))]


@pytest.mark.parametrize("method", ["letter", "text"])
@pytest.mark.parametrize("normalise", ["none", "tokens", "bytes"])
@pytest.mark.parametrize("shots", [[], SHOTS], ids=["zero-shot", "one-shot"])
def test_equals_brute_force(
    byte_loaded: Loaded, method: str, normalise: str, shots: list[Item]
) -> None:
    result = score(
        byte_loaded.model,
        byte_loaded.tokenizer,
        ITEMS,
        method=method,
        few_shot=shots,
        normalise=normalise,
    )
    assert result.log_probs.shape == (3, 4)
    for index, item in enumerate(ITEMS):
        prompt = "".join(format_item(shot, method, solved=True) + "\n\n" for shot in shots)
        prompt += format_item(item, method)
        texts = continuations(item, method)
        tokens = [brute_force(byte_loaded, prompt, text) for text in texts]
        sums = [sum(values) for values in tokens]
        np.testing.assert_allclose(result.log_probs[index, : len(texts)], sums, rtol=1e-4)
        assert (result.log_probs[index, len(texts) :] == -np.inf).all()
        lengths = {
            "none": [1] * len(texts),
            "tokens": [len(values) for values in tokens],
            "bytes": [len(text.strip().encode()) for text in texts],
        }[normalise]
        best = int(np.argmax(np.array(sums) / lengths))
        assert result.predicted[index] == best
        assert result.correct[index] == (best == item.answer)
    assert result.accuracy == np.mean(result.correct)


def test_padding_does_not_reach_the_shorter_choice(byte_loaded: Loaded) -> None:
    prompt, short, long = [5, 7, 9], [11, 13], [17, 19, 23, 29, 31]
    both = continuation_log_probs(byte_loaded.model, prompt, [short, long])
    alone = [continuation_log_probs(byte_loaded.model, prompt, [c])[0] for c in (short, long)]
    np.testing.assert_allclose(both, alone, rtol=1e-5)
    mixed = continuation_log_probs(byte_loaded.model, prompt, [[11], [11, 13]])[0]
    single = continuation_log_probs(byte_loaded.model, prompt, [[11]])[0]
    assert mixed == pytest.approx(single, rel=1e-5)


def test_prompts() -> None:
    assert format_item(ITEMS[1], "letter") == (
        "Question: Which is a color?\nA. blue\nB. seven\nAnswer:"
    )
    assert format_item(ITEMS[1], "letter", solved=True).endswith("\nAnswer: A")
    assert format_item(ITEMS[1], "text") == "Question: Which is a color?\nAnswer:"
    assert format_item(ITEMS[2], "text", solved=True).endswith("\nAnswer: water")
    assert continuations(ITEMS[2], "letter") == [" A", " B", " C", " D"]


def test_a_tie_is_no_answer(byte_tokenizer: Tokenizer, byte_loaded: Loaded) -> None:
    """A model without preferences must not be credited for items whose answer is A."""

    class Uniform(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unused = torch.nn.Parameter(torch.zeros(1))

        def forward(self, input_ids: torch.Tensor, position_ids: object, use_cache: bool) -> object:
            logits = torch.zeros(*input_ids.shape, byte_tokenizer.vocab_size)
            return type("Output", (), {"logits": logits})()

    result = score(Uniform(), byte_tokenizer, ITEMS, method="letter")
    assert result.predicted.tolist() == [-1, -1, -1]
    assert result.accuracy == 0.0


def test_real_tokens_join_at_the_answer(smollm2: Loaded) -> None:
    """Encoding prompt and answer apart gives the tokens of the whole text."""
    encode = smollm2.tokenizer.encode
    for item in ITEMS:
        for method in ("letter", "text"):
            prompt = format_item(item, method)
            for text in continuations(item, method):
                assert encode(prompt) + encode(text) == encode(prompt + text)
    assert all(len(encode(text)) == 1 for text in continuations(ITEMS[2], "letter"))


def test_the_real_model_knows_easy_answers(smollm2: Loaded) -> None:
    result = score(smollm2.model, smollm2.tokenizer, ITEMS, method="text")
    assert result.accuracy == 1.0


def test_bad_input_is_refused(byte_loaded: Loaded) -> None:
    model, tokenizer = byte_loaded.model, byte_loaded.tokenizer
    with pytest.raises(ValueError, match="method='word'"):
        score(model, tokenizer, ITEMS, method="word")
    with pytest.raises(ValueError, match="normalise='words'"):
        score(model, tokenizer, ITEMS, normalise="words")
    with pytest.raises(ValueError, match="no item"):
        score(model, tokenizer, [])
    with pytest.raises(ValueError, match=r"2 \+ 2.*would leak"):
        score(model, tokenizer, ITEMS, few_shot=ITEMS[:1])
    many = Item(question="?", choices=tuple(map(str, range(27))), answer=0)
    with pytest.raises(ValueError, match="27 choices"):
        score(model, tokenizer, [many])
    with pytest.raises(ValueError, match="at least one token"):
        continuation_log_probs(model, [1, 2], [[3], []])
