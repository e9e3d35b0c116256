"""Text to token ids and back, and conversations to text, through the `tokenizers` library."""

import json
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn

import tokenizers
import tokenizers.decoders
from jinja2 import Template, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from labkit.runtime.cache import atomic_path
from labkit.runtime.errors import CorruptFileError

CHATML_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_SPECIALS = ("bos_token", "eos_token", "pad_token", "unk_token")


class Tokenizer:
    """A vocabulary with its special tokens and its chat template.

    Args:
        backend: the trained tokenizer.
        eos_token: ends a text, or a turn of a conversation.
        pad_token: fills short rows of a batch; default: `eos_token`.
        bos_token: begins a text, for models that want one.
        unk_token: what the model's files call the unknown token; kept for export.
        chat_template: Jinja template over `messages`; None if the model does not chat.

    Raises:
        ValueError: a special token is not in the vocabulary.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        eos_token: str,
        pad_token: str | None = None,
        bos_token: str | None = None,
        unk_token: str | None = None,
        chat_template: str | None = None,
    ) -> None:
        self.backend = backend
        self.eos_token = eos_token
        self.pad_token = pad_token or eos_token
        self.bos_token = bos_token
        self.unk_token = unk_token
        self.chat_template = chat_template
        self.eos_id = self.token_id(self.eos_token)
        self.pad_id = self.token_id(self.pad_token)
        self._spelling: dict[int, bytes] | None = None  # each token's bytes, once asked for

    @property
    def vocab_size(self) -> int:
        """Number of ids, special tokens included."""
        return self.backend.get_vocab_size(with_added_tokens=True)

    def token_id(self, token: str) -> int:
        """The id of one token given as a string, such as "<|im_end|>"."""
        index: int | None = self.backend.token_to_id(token)
        if index is None:
            raise ValueError(f"token {token!r} is not in the vocabulary of {self.vocab_size}")
        return index

    @property
    def special_ids(self) -> frozenset[int]:
        """Ids of the special tokens, which stand for no text."""
        added = self.backend.get_added_tokens_decoder()
        return frozenset(index for index, token in added.items() if token.special)

    def token_bytes(self, index: int) -> bytes:
        """The UTF-8 bytes that a token stands for; often no whole number of characters.

        Concatenated over ids without special tokens, these are the bytes of `decode`'s text. For a
        special token, the bytes of its name.

        Args:
            index: A token id.

        Raises:
            ValueError: The id is not in the vocabulary, or the tokenizer is not byte-level.
        """
        if self._spelling is None:
            self._spelling = _token_bytes(self.backend)
        if index not in self._spelling:
            raise ValueError(f"token id {index} is not in the vocabulary of {self.vocab_size}")
        return self._spelling[index]

    def encode(self, text: str, *, add_special: bool = False) -> list[int]:
        """Token ids of `text`; special tokens written out in it become their single ids.

        Args:
            text: what to encode.
            add_special: let the backend's post-processor add its tokens (a BOS, for models that
                have one).
        """
        return list(self.backend.encode(text, add_special_tokens=add_special).ids)

    def decode(self, ids: list[int], *, skip_special: bool = True) -> str:
        """Text of token ids; bytes that are no whole character come out as U+FFFD."""
        return self.backend.decode(ids, skip_special_tokens=skip_special)

    def apply_chat(
        self, messages: list[dict[str, str]], *, add_generation_prompt: bool = True
    ) -> str:
        """The conversation as the text the model was trained on.

        Args:
            messages: each with "role" ("system", "user", "assistant") and "content".
            add_generation_prompt: open the assistant's turn at the end.

        Raises:
            ValueError: there is no template, or it refuses these messages.
        """
        if self.chat_template is None:
            raise ValueError("this tokenizer has no chat template: use encode on plain text")
        for number, message in enumerate(messages):
            if missing := {"role", "content"} - set(message):
                raise ValueError(f"message {number} lacks {sorted(missing)}: {message}")
        names = {"bos_token": self.bos_token or "", "eos_token": self.eos_token}
        try:
            template = _compiled(self.chat_template)
            return template.render(
                messages=messages, add_generation_prompt=add_generation_prompt, **names
            )
        except TemplateError as error:
            raise ValueError(f"the chat template refuses these messages: {error}") from error

    def save(self, folder: Path | str) -> None:
        """Writes tokenizer.json and tokenizer_config.json, as transformers reads them."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        settings: dict[str, Any] = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            "chat_template": self.chat_template,
            **{name: getattr(self, name) for name in _SPECIALS},
        }
        settings = {name: value for name, value in settings.items() if value is not None}
        with atomic_path(folder / "tokenizer.json") as path:
            self.backend.save(str(path))
        with atomic_path(folder / "tokenizer_config.json") as path:
            path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path | str) -> "Tokenizer":
        """Reads the tokenizer of a Hugging Face folder.

        Raises:
            FileNotFoundError: the folder has no tokenizer.json.
            CorruptFileError: a file of it cannot be read.
            ValueError: no end-of-text token is named.
        """
        folder = Path(folder)
        backend = _read_backend(folder / "tokenizer.json")
        settings = _read_json(folder / "tokenizer_config.json")
        specials = {name: _token_text(settings.get(name)) for name in _SPECIALS}
        eos_token = specials.pop("eos_token")
        if eos_token is None:
            raise ValueError(f"{folder / 'tokenizer_config.json'} names no eos_token")
        template = settings.get("chat_template")
        apart = folder / "chat_template.jinja"
        if apart.is_file():
            template = apart.read_text(encoding="utf-8")
        return cls(backend, eos_token=eos_token, chat_template=template, **specials)


def _token_bytes(backend: tokenizers.Tokenizer) -> dict[int, bytes]:
    """Byte-level vocabularies write each byte as a letter: itself if printable, else 256, 257, …"""
    if not isinstance(backend.decoder, tokenizers.decoders.ByteLevel):
        raise ValueError(
            f"only byte-level tokenizers spell their tokens in bytes: this one's decoder is "
            f"{backend.decoder}"
        )
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {chr(byte): byte for byte in printable}
    letters |= {chr(256 + index): byte for index, byte in enumerate(others)}
    added = {index: token.content for index, token in backend.get_added_tokens_decoder().items()}
    spelt = backend.get_vocab(with_added_tokens=False).items()
    learned = {index: bytes(map(letters.__getitem__, token)) for token, index in spelt}
    return learned | {index: content.encode() for index, content in added.items()}


@lru_cache(maxsize=8)
def _compiled(chat_template: str) -> Template:
    """A template comes with a download: it may format text, and nothing else."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = _raise_template_error
    return environment.from_string(chat_template)


def _raise_template_error(message: str) -> NoReturn:
    raise TemplateError(message)


def _read_backend(path: Path) -> tokenizers.Tokenizer:
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: the folder has no tokenizer")
    try:
        return tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise CorruptFileError(f"{path} is no readable tokenizer: {error}") from error


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CorruptFileError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise CorruptFileError(f"{path} holds {type(content).__name__}, not an object")
    return content


def _token_text(token: Any) -> str | None:
    """transformers writes a special token as its text, or as an object with its "content"."""
    text: str | None = token["content"] if isinstance(token, dict) else token
    return text
