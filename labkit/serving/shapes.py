"""Generated texts in the API's forms: choices, deltas, log-probabilities, usage."""

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from labkit.inference.chooser import Choice
from labkit.model.tokenizer import Tokenizer
from labkit.serving.token_text import token_bytes, token_text

Body = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """Where the two endpoints differ in what they send.

    Attributes:
        prefix: Of an answer's id.
        whole: The `object` of an answer.
        chunk: The `object` of an event.
        is_chat: Messages and deltas rather than texts.
    """

    prefix: str
    whole: str
    chunk: str
    is_chat: bool

    def head(self, model: str, *, stream: bool) -> Body:
        """What every answer and event begins with."""
        return {
            "id": f"{self.prefix}-{secrets.token_hex(12)}",
            "object": self.chunk if stream else self.whole,
            "created": int(time.time()),
            "model": model,
        }

    def choice(self, index: int, text: str, logprobs: Body | None, reason: str) -> Body:
        """One finished text."""
        content: Body = {"text": text}
        if self.is_chat:
            content = {"message": {"role": "assistant", "content": text}}
        return {"index": index, **content, "logprobs": logprobs, "finish_reason": reason}

    def delta(self, index: int, text: str, logprobs: Body | None, reason: str | None) -> Body:
        """One piece of a stream."""
        content: Body = {"text": text}
        if self.is_chat:
            content = {"delta": {"content": text} if text else {}}
        return {"index": index, **content, "logprobs": logprobs, "finish_reason": reason}

    def first(self, index: int) -> Body:
        """What a streamed chat begins with: whose turn it is."""
        delta = {"role": "assistant", "content": ""}
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}


COMPLETION = Shape(prefix="cmpl", whole="text_completion", chunk="text_completion", is_chat=False)
CHAT = Shape(
    prefix="chatcmpl", whole="chat.completion", chunk="chat.completion.chunk", is_chat=True
)


def usage(prompt_tokens: int, completion_tokens: int) -> Body:
    """Token counts."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


class Logprobs:
    """Log-probabilities in the endpoints' two forms.

    Args:
        tokenizer: Spells the tokens.
        shape: Whose form.
    """

    def __init__(self, tokenizer: Tokenizer, shape: Shape) -> None:
        self._tokenizer, self._shape = tokenizer, shape

    def body(self, choices: Sequence[Choice], offset: int = 0) -> Body:
        """Of tokens in order.

        Args:
            choices: The first token of a prompt has no log-probability.
            offset: In characters, of the first token in the text.
        """
        if self._shape.is_chat:
            return {"content": [self._entry(choice) for choice in choices], "refusal": None}
        texts = [token_text(self._tokenizer, choice.token) for choice in choices]
        offsets = []
        for text in texts:
            offsets.append(offset)
            offset += len(text)
        return {
            "tokens": texts,
            "token_logprobs": [choice.logprob for choice in choices],
            "top_logprobs": [self._top(choice) for choice in choices],
            "text_offset": offsets,
        }

    def _top(self, choice: Choice) -> dict[str, float] | None:
        if choice.logprob is None:
            return None
        listed = dict(choice.top) or {choice.token: choice.logprob}
        return {token_text(self._tokenizer, token): value for token, value in listed.items()}

    def _entry(self, choice: Choice) -> Body:
        assert choice.logprob is not None
        top = [self._token(token, value) for token, value in choice.top]
        return {**self._token(choice.token, choice.logprob), "top_logprobs": top}

    def _token(self, token: int, logprob: float) -> Body:
        return {
            "token": token_text(self._tokenizer, token),
            "logprob": logprob,
            "bytes": list(token_bytes(self._tokenizer, token)),
        }
