"""Tokenizer files and chat markup, without the real model."""

import json
from pathlib import Path

import pytest
from tokenizers.decoders import Metaspace

from labkit.model.tokenizer import Tokenizer
from labkit.runtime.errors import CorruptFileError

MESSAGES = [{"role": "user", "content": "2 < 3?"}, {"role": "assistant", "content": "yes"}]


def test_round_trip_through_a_folder(tiny_tokenizer: Tokenizer, tmp_path: Path) -> None:
    tiny_tokenizer.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    text = "abcdefgh 12 <|im_end|>xyz"
    assert again.encode(text) == tiny_tokenizer.encode(text)
    assert again.chat_template == tiny_tokenizer.chat_template
    assert (again.eos_id, again.pad_id, again.vocab_size) == (95, 96, 97)
    assert (again.bos_token, again.unk_token) == ("<|im_start|>", None)


def test_transformers_reads_the_same_ids(tiny_tokenizer: Tokenizer, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tiny_tokenizer.save(tmp_path)
    peer = AutoTokenizer.from_pretrained(tmp_path)
    text = tiny_tokenizer.apply_chat(MESSAGES)
    assert peer.encode(text, add_special_tokens=False) == tiny_tokenizer.encode(text)
    assert peer.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True) == text
    assert (peer.eos_token_id, peer.pad_token_id) == (95, 96)


def test_a_folder_that_transformers_saved(tiny_tokenizer: Tokenizer, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tiny_tokenizer.save(tmp_path / "ours")
    AutoTokenizer.from_pretrained(tmp_path / "ours").save_pretrained(tmp_path / "theirs")
    again = Tokenizer.load(tmp_path / "theirs")
    assert again.apply_chat(MESSAGES) == tiny_tokenizer.apply_chat(MESSAGES)
    assert again.encode("abc<|pad|>") == tiny_tokenizer.encode("abc<|pad|>")


def test_chatml_markup(tiny_tokenizer: Tokenizer) -> None:
    turns = "<|im_start|>user\n2 < 3?<|im_end|>\n<|im_start|>assistant\nyes<|im_end|>\n"
    assert tiny_tokenizer.apply_chat(MESSAGES, add_generation_prompt=False) == turns
    assert tiny_tokenizer.apply_chat(MESSAGES) == turns + "<|im_start|>assistant\n"


def test_template_layout_is_stripped_as_transformers_does(
    tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    tiny_tokenizer.chat_template = (
        "{{ bos_token }}\n  {% for message in messages %}\n    {{ message['content'] | trim }}"
        "{{ eos_token }}\n  {% endfor %}\n{% if not add_generation_prompt %}\nend{% endif %}\n"
    )
    tiny_tokenizer.save(tmp_path)
    peer = AutoTokenizer.from_pretrained(tmp_path)
    for prompted in (True, False):
        ours = tiny_tokenizer.apply_chat(MESSAGES, add_generation_prompt=prompted)
        assert ours == peer.apply_chat_template(
            MESSAGES, tokenize=False, add_generation_prompt=prompted
        )


def test_special_tokens_are_whole_and_skipped_on_demand(tiny_tokenizer: Tokenizer) -> None:
    ids = tiny_tokenizer.encode("ab<|im_end|>")
    assert ids[-1] == tiny_tokenizer.eos_id
    assert tiny_tokenizer.decode(ids) == "ab"
    assert tiny_tokenizer.decode(ids, skip_special=False) == "ab<|im_end|>"


def test_refused_messages_are_explained(tiny_tokenizer: Tokenizer) -> None:
    with pytest.raises(ValueError, match=r"message 1 lacks \['content'\]"):
        tiny_tokenizer.apply_chat([MESSAGES[0], {"role": "user"}])
    tiny_tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(ValueError, match="roles must alternate"):
        tiny_tokenizer.apply_chat(MESSAGES)
    tiny_tokenizer.chat_template = None
    with pytest.raises(ValueError, match="no chat template"):
        tiny_tokenizer.apply_chat(MESSAGES)


def test_a_template_cannot_reach_the_interpreter(tiny_tokenizer: Tokenizer) -> None:
    tiny_tokenizer.chat_template = "{{ messages.__class__.__mro__[1].__subclasses__() }}"
    with pytest.raises(ValueError, match="unsafe"):
        tiny_tokenizer.apply_chat(MESSAGES)


def test_unknown_special_token_is_refused(tiny_tokenizer: Tokenizer) -> None:
    with pytest.raises(ValueError, match=r"'<eot>' is not in the vocabulary of 97"):
        Tokenizer(tiny_tokenizer.backend, eos_token="<eot>")


def test_bad_folders_are_named(tiny_tokenizer: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json"):
        Tokenizer.load(tmp_path)
    tiny_tokenizer.save(tmp_path)
    settings = tmp_path / "tokenizer_config.json"
    settings.write_text(json.dumps({"pad_token": "<|pad|>"}))
    with pytest.raises(ValueError, match=r"tokenizer_config\.json names no eos_token"):
        Tokenizer.load(tmp_path)
    for damaged in ("{", "[]"):
        settings.write_text(damaged)
        with pytest.raises(CorruptFileError, match=r"tokenizer_config\.json"):
            Tokenizer.load(tmp_path)
    whole = (tmp_path / "tokenizer.json").read_bytes()
    (tmp_path / "tokenizer.json").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CorruptFileError, match=r"tokenizer\.json"):
        Tokenizer.load(tmp_path)


TEXTS = ["a naïve 漢字 😀\n\tdef f(x):\r\n  return '\x00\x7f'", "", " ", "\u2028 \xa0", "ÿĀġ Ġ"]


@pytest.mark.parametrize("text", TEXTS)
def test_token_bytes_are_the_bytes_of_the_text(mini, text: str) -> None:
    tokenizer = mini.tokenizer
    assert b"".join(map(tokenizer.token_bytes, tokenizer.encode(text))) == text.encode()


def test_token_bytes_are_what_decode_shows_and_those_of_transformers_table(mini) -> None:
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    tokenizer, byte_of = mini.tokenizer, {v: k for k, v in bytes_to_unicode().items()}
    for index in range(tokenizer.vocab_size):
        found = tokenizer.token_bytes(index)
        assert found.decode(errors="replace") == tokenizer.decode([index], skip_special=False)
        if index not in tokenizer.special_ids:
            token = tokenizer.backend.id_to_token(index)
            assert found == bytes(byte_of[letter] for letter in token)


def test_special_and_added_tokens_are_spelt_as_they_are_written(byte_tokenizer) -> None:
    backend = type(byte_tokenizer.backend).from_str(byte_tokenizer.backend.to_str())
    backend.add_tokens(["Ġé"])
    tokenizer = Tokenizer(backend, eos_token="<|im_end|>")
    assert tokenizer.special_ids == {256, 257}
    assert tokenizer.token_bytes(257) == b"<|im_end|>"
    assert tokenizer.token_bytes(258) == "Ġé".encode()
    for index in (-1, 259):
        with pytest.raises(ValueError, match=f"token id {index} is not in the vocabulary of 259"):
            tokenizer.token_bytes(index)


def test_token_bytes_need_a_byte_level_tokenizer(tiny_tokenizer: Tokenizer) -> None:
    backend = type(tiny_tokenizer.backend).from_str(tiny_tokenizer.backend.to_str())
    backend.decoder = Metaspace()
    with pytest.raises(ValueError, match="only byte-level tokenizers"):
        Tokenizer(backend, eos_token=tiny_tokenizer.eos_token).token_bytes(0)
