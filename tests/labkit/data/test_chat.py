"""Loss masks of conversations: exact borders, on a trained tokenizer and on SmolLM2's."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit.data.batch import IGNORE_INDEX, Example
from labkit.data.bpe import train_bpe
from labkit.data.chat import (
    ChatTokenizer,
    Message,
    chat_segments,
    encode_chat,
    only_last_turn,
)
from labkit.model.tokenizer import CHATML_TEMPLATE, Tokenizer
from labkit.model.zoo import Loaded

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEXTS = ["assistant user system\nHello there, how are you today?\n\nFine. " * 3]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    bpe = train_bpe(TEXTS, vocab_size=330, special_tokens=SPECIAL)
    return Tokenizer(bpe.to_tokenizers(), eos_token="<|im_end|>", chat_template=CHATML_TEMPLATE)


def turn(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def learnt(tokenizer: Tokenizer, messages: list[Message]) -> str:
    example = encode_chat(tokenizer, messages)
    kept = [label for label in example.labels if label != IGNORE_INDEX]
    return tokenizer.decode(kept, skip_special=False)


def test_only_answers_with_their_end_of_turn_are_learnt(tokenizer: Tokenizer) -> None:
    messages = [turn("system", "Be kind."), turn("user", "Hello"), turn("assistant", "Fine."),
                turn("user", "there"), turn("assistant", "you\n")]  # fmt: skip
    assert learnt(tokenizer, messages) == "Fine.<|im_end|>you\n<|im_end|>"
    example = encode_chat(tokenizer, messages)
    text = tokenizer.apply_chat(messages, add_generation_prompt=False)
    assert tokenizer.decode(list(example.ids), skip_special=False) == text
    assert all(b in (a, IGNORE_INDEX) for a, b in zip(example.ids, example.labels, strict=True))


def test_the_prompt_has_the_ids_it_has_at_inference(tokenizer: Tokenizer) -> None:
    messages = [turn("user", "Hello"), turn("assistant", "\n\n  Fine.")]
    prompt = tokenizer.encode(tokenizer.apply_chat(messages[:1]))
    example = encode_chat(tokenizer, messages)
    assert list(example.ids[: len(prompt)]) == prompt
    assert set(example.labels[: len(prompt)]) == {IGNORE_INDEX}
    assert IGNORE_INDEX not in example.labels[len(prompt) : -1]


@settings(deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs", "Cn"])), min_size=2, max_size=6))
def test_any_contents_keep_their_borders(tokenizer: Tokenizer, contents: list[str]) -> None:
    messages = [turn(("user", "assistant")[i % 2], content) for i, content in enumerate(contents)]
    answers = "".join(content + "<|im_end|>" for content in contents[1::2])
    assert learnt(tokenizer, messages) == answers


def test_smollm2s_template_with_its_default_system_turn(smollm2: Loaded) -> None:
    messages = [turn("user", "What does `len` do?"), turn("assistant", "Return the number.")]
    example = encode_chat(smollm2.tokenizer, messages)
    text = smollm2.tokenizer.apply_chat(messages, add_generation_prompt=False)
    assert list(example.ids) == smollm2.tokenizer.encode(text)
    assert learnt(smollm2.tokenizer, messages) == "Return the number.<|im_end|>"
    assert isinstance(smollm2.tokenizer, ChatTokenizer)


def test_a_template_that_rewrites_earlier_turns_is_refused(tokenizer: Tokenizer) -> None:
    template = "{{ messages|length }}" + CHATML_TEMPLATE
    rewriting = Tokenizer(tokenizer.backend, eos_token="<|im_end|>", chat_template=template)
    with pytest.raises(ValueError, match="rewrites the text before message 1"):
        encode_chat(rewriting, [turn("user", "a"), turn("assistant", "b")])


@pytest.mark.parametrize("roles", [(), ("user",), ("assistant",), ("assistant", "user")])
def test_a_chat_without_an_answer_is_refused(tokenizer: Tokenizer, roles: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="an assistant turn must answer"):
        chat_segments(tokenizer, [turn(role, "a") for role in roles])


def test_a_message_without_content_is_named(tokenizer: Tokenizer) -> None:
    with pytest.raises(ValueError, match="message 1 has keys"):
        encode_chat(tokenizer, [turn("user", "a"), {"role": "assistant"}])


def test_only_the_last_turn_keeps_its_labels(tokenizer: Tokenizer) -> None:
    turns: list[Message] = [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "first"},
        {"role": "user", "content": "two"},
        {"role": "assistant", "content": "second"},
    ]
    whole = encode_chat(tokenizer, turns)
    last = only_last_turn(whole)
    assert last.ids == whole.ids
    learnt = [label for label in last.labels if label != IGNORE_INDEX]
    assert tokenizer.decode(learnt, skip_special=False) == "second<|im_end|>"
    assert only_last_turn(last) == last
    # The turns of one row are the last turns of its beginnings, each learnt once.
    first = only_last_turn(encode_chat(tokenizer, turns[:2]))
    both = [a if a != IGNORE_INDEX else b for a, b in zip(first.labels, last.labels, strict=False)]
    assert tuple(both) == whole.labels[: len(first.labels)]


def test_a_last_turn_at_the_very_start_and_none() -> None:
    assert only_last_turn(Example((1, 2), (1, 2))).labels == (1, 2)
    with pytest.raises(ValueError, match="no label"):
        only_last_turn(Example((1, 2), (IGNORE_INDEX, IGNORE_INDEX)))
