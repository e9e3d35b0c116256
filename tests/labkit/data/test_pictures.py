"""Where image tokens stand in a conversation, and what batches carry."""

from itertools import islice

import pytest
import torch

from labkit.data import chat, pictures
from labkit.data.batch import IGNORE_INDEX, Example
from labkit.model.tokenizer import Tokenizer

TOKENS = pictures.ImageTokens(image_id=999, count=3)
CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "See <image>: which?"},
    {"role": "assistant", "content": "A 7."},
    {"role": "user", "content": "Sure?"},
    {"role": "assistant", "content": "Yes."},
]


def instead(text: str) -> list[dict[str, str]]:
    return [{**m, "content": m["content"].replace("<image>", text)} for m in CHAT]


def test_the_rest_of_the_row_is_that_of_the_chat_without_a_picture(
    byte_tokenizer: Tokenizer,
) -> None:
    # One token a byte: "~" stands where the picture does and moves nothing else.
    plain = chat.encode_chat(byte_tokenizer, instead("~"))
    ours = pictures.encode_chat(byte_tokenizer, CHAT, TOKENS)
    at = plain.ids.index(byte_tokenizer.encode("~")[0])
    assert ours.ids == (*plain.ids[:at], 999, 999, 999, *plain.ids[at + 1 :])
    assert ours.labels == (
        *plain.labels[:at], *[IGNORE_INDEX] * 3, *plain.labels[at + 1 :],
    )  # fmt: skip
    learnt = [i for i in ours.labels if i != IGNORE_INDEX]
    assert byte_tokenizer.decode(learnt, skip_special=False) == "A 7.<|im_end|>Yes.<|im_end|>"


def test_a_prompt_is_the_beginning_of_its_example(byte_tokenizer: Tokenizer) -> None:
    prompt = pictures.encode_prompt(byte_tokenizer, CHAT[:2], TOKENS)
    example = pictures.encode_chat(byte_tokenizer, CHAT[:3], TOKENS)
    assert example.ids[: len(prompt)] == tuple(prompt)
    assert set(example.labels[: len(prompt)]) == {IGNORE_INDEX}
    assert example.labels[len(prompt)] != IGNORE_INDEX


@pytest.mark.parametrize(("text", "times"), [("nothing", 0), ("<image> and <image>", 2)])
def test_no_placeholder_and_two_are_refused(
    byte_tokenizer: Tokenizer, text: str, times: int
) -> None:
    for encode in (pictures.encode_chat, pictures.encode_prompt):
        with pytest.raises(ValueError, match=f"stands in it {times} times"):
            encode(byte_tokenizer, instead(text), TOKENS)


def test_the_assistant_shows_no_picture(byte_tokenizer: Tokenizer) -> None:
    messages = [CHAT[0], {"role": "user", "content": "Draw."}]
    messages.append({"role": "assistant", "content": "<image>"})
    with pytest.raises(ValueError, match="the assistant cannot show a picture"):
        pictures.encode_chat(byte_tokenizer, messages, TOKENS)


def test_an_image_id_that_text_produces_is_refused(byte_tokenizer: Tokenizer) -> None:
    [taken] = byte_tokenizer.encode("w")
    tokens = pictures.ImageTokens(image_id=taken, count=1)
    with pytest.raises(ValueError, match="choose an id that no text produces"):
        pictures.encode_prompt(byte_tokenizer, CHAT[:2], tokens)


@pytest.mark.parametrize("values", [(-1, 1), (0, 0)])
def test_impossible_image_tokens_are_refused(values: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        pictures.ImageTokens(image_id=values[0], count=values[1])


def examples(count: int) -> list[pictures.ImageExample]:
    """The picture of example i is filled with i, and so is its text of i + 1 tokens."""
    texts = [Example((i,) * (i + 1), (i,) * (i + 1)) for i in range(count)]
    pixels = [torch.full((1, 2, 2), float(i)) for i in range(count)]
    return [pictures.ImageExample(*parts) for parts in zip(texts, pixels, strict=True)]


def test_a_picture_stays_with_its_row() -> None:
    loader = pictures.ImageLoader(examples(7), batch_size=3, pad_id=50)
    first = list(islice(loader, 6))
    for batch in first:
        T = batch.ids.shape[1]
        for ids, labels, image in zip(batch.ids, batch.labels, batch.images, strict=True):
            i = int(image[0, 0, 0])
            assert ids.tolist() == [i] * (i + 1) + [50] * (T - i - 1)
            assert labels.tolist() == [i] * (i + 1) + [IGNORE_INDEX] * (T - i - 1)
    epoch = [int(image[0, 0, 0]) for batch in first[:3] for image in batch.images]
    assert sorted(epoch) == list(range(7))
    again = list(islice(loader, 6))
    assert all(torch.equal(a.images, b.images) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0].images, first[3].images)


def test_a_batch_moves_with_its_pictures() -> None:
    moved = pictures.collate_images(examples(2), 50).to("meta")
    assert {t.device.type for t in (moved.ids, moved.labels, moved.images)} == {"meta"}


def test_pictures_of_two_shapes_are_refused() -> None:
    [one] = examples(1)
    other = pictures.ImageExample(one.text, torch.zeros(1, 3, 3))
    with pytest.raises(ValueError, match=r"\(1, 2, 2\), \(1, 3, 3\)"):
        pictures.collate_images([one, other], 0)


@pytest.mark.parametrize(("count", "size"), [(0, 1), (1, 0)])
def test_an_empty_loader_is_refused(count: int, size: int) -> None:
    with pytest.raises(ValueError, match="both must be at least 1"):
        pictures.ImageLoader(examples(count), batch_size=size, pad_id=0)


def test_class_batches_pair_images_with_their_classes(gen: torch.Generator) -> None:
    images = torch.arange(5.0).view(5, 1, 1, 1)
    batches = list(
        islice(pictures.class_batches(images, torch.arange(5), batch_size=2, generator=gen), 3)
    )
    assert [len(batch.images) for batch in batches] == [2, 2, 1]
    for batch in batches:
        assert batch.labels.tolist() == batch.images.view(-1, 1).long().tolist()
