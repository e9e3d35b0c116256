"""Prompts as token ids: what may be asked, encoded off the event loop where it takes long."""

import asyncio
from functools import lru_cache

from labkit.inference.generate import encode_prompt
from labkit.model.tokenizer import Tokenizer
from labkit.serving.errors import ApiError
from labkit.serving.schemas.chat import Message

Prompt = str | list[str] | list[int] | list[list[int]]
SHORT = 4096  # characters that are encoded in well under a millisecond


class Prompts:
    """Encodes and checks prompts for one model.

    Args:
        tokenizer: Of the model.
        max_length: Of its context.
        vocab_size: V.
    """

    def __init__(self, tokenizer: Tokenizer, max_length: int, vocab_size: int) -> None:
        self.tokenizer, self.max_length, self.vocab_size = tokenizer, max_length, vocab_size

    async def encode(self, prompt: Prompt, *, param: str = "prompt") -> list[list[int]]:
        """One text, texts, one list of ids, or lists of ids, as lists of ids.

        Raises:
            ApiError: 400, a prompt is empty, too long, or holds tokens that the model has not.
        """
        if isinstance(prompt, str):
            return [await self._text(prompt, param)]
        if not prompt:
            raise ApiError(f"{param} is an empty list: give at least one", param=param)
        if isinstance(prompt[0], int):
            prompt = [prompt]
        return [
            await self._text(part, param) if isinstance(part, str) else self._ids(part, param)
            for part in prompt
        ]

    async def chat(self, messages: list[Message]) -> list[int]:
        """A conversation up to the assistant's next turn.

        Raises:
            ApiError: 400, it is too long, or the model's template refuses it.
        """
        turns = [{"role": message.role, "content": message.text} for message in messages]
        self._refuse_endless(sum(len(turn["content"]) for turn in turns), "messages")
        try:
            text = self.tokenizer.apply_chat(turns)
        except ValueError as error:
            raise ApiError(str(error), param="messages") from error
        return await self._text(text, "messages")

    def room(self, prompts: list[list[int]]) -> int:
        """Most tokens that can follow the longest prompt."""
        return max(self.max_length - max(map(len, prompts)) + 1, 1)

    async def _text(self, text: str, param: str) -> list[int]:
        self._refuse_endless(len(text), param)
        if len(text) <= SHORT:
            ids = encode_prompt(self.tokenizer, text)
        else:
            ids = await asyncio.to_thread(encode_prompt, self.tokenizer, text)
        return self._ids(ids, param)

    def _ids(self, ids: object, param: str) -> list[int]:
        if not isinstance(ids, list) or not ids:
            raise ApiError(f"{param} is empty: give at least one token", param=param)
        if len(ids) > self.max_length:
            raise _too_long(f"{len(ids)} tokens", self.max_length, param)
        for token in ids:
            if not 0 <= token < self.vocab_size:
                raise ApiError(
                    f"token {token} is outside the vocabulary of {self.vocab_size}", param=param
                )
        return ids

    def _refuse_endless(self, characters: int, param: str) -> None:
        """Without encoding it: no token is longer than the longest one."""
        if characters > self.max_length * _longest_token(self.tokenizer):
            raise _too_long(f"{characters} characters", self.max_length, param)


@lru_cache(maxsize=4)
def _longest_token(tokenizer: Tokenizer) -> int:
    """In characters; a token's written form has at least one for each byte it stands for."""
    return max(map(len, tokenizer.backend.get_vocab(with_added_tokens=True)))


def _too_long(length: str, max_length: int, param: str) -> ApiError:
    return ApiError(
        f"{param} has {length}, above max_length={max_length}: shorten it",
        code="context_length_exceeded",
        param=param,
    )
