"""The OpenAI API's requests as far as they are served; anything else is refused by name."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from labkit.inference.sampling import LARGEST_SEED, SamplingConfig

DEFAULT_COMPLETION_TOKENS = 16


class StreamOptions(BaseModel):
    """What a stream holds beside its text."""

    model_config = ConfigDict(extra="forbid")
    include_usage: bool = False


class GenerationRequest(BaseModel):
    """Fields that both endpoints share; `top_k` and `ignore_eos` are extensions that vLLM has too.

    Options with a single permitted value are those that clients send with their default.
    """

    model_config = ConfigDict(extra="forbid")
    model: str
    max_tokens: int | None = Field(default=None, ge=1)
    temperature: float = Field(default=1.0, ge=0, le=2, allow_inf_nan=False)
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=1)
    seed: int | None = Field(default=None, ge=0, le=LARGEST_SEED)
    stop: str | list[str] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    ignore_eos: bool = False
    user: str | None = None
    n: Literal[1] | None = None
    presence_penalty: Literal[0] | None = None
    frequency_penalty: Literal[0] | None = None

    def sampling(self, *, max_new_tokens: int, seed: int) -> SamplingConfig:
        """The request as a sampling configuration.

        Args:
            max_new_tokens: Where the request sets no limit.
            seed: Where the request has none.
        """
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return SamplingConfig(
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            max_new_tokens=self.max_tokens or max_new_tokens,
            stop=tuple(stop),
            seed=seed if self.seed is None else self.seed,
            ignore_eos=self.ignore_eos,
        )


class CompletionRequest(GenerationRequest):
    """POST /v1/completions: text on, from one prompt or several (a stream takes one)."""

    prompt: str | list[str] | list[int] | list[list[int]]
    echo: Literal[False] = False
    best_of: Literal[1] | None = None
    logprobs: None = None


class TextPart(BaseModel):
    """A part of a message's content; only text is understood."""

    type: Literal["text"]
    text: str


class Message(BaseModel):
    """A turn of a chat."""

    model_config = ConfigDict(extra="forbid")
    role: Literal["system", "user", "assistant"]
    content: str | list[TextPart]
    name: str | None = None

    @property
    def text(self) -> str:
        """The content, its parts joined."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content)


class ChatRequest(GenerationRequest):
    """POST /v1/chat/completions: the assistant's next turn."""

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    logprobs: Literal[False] | None = None
    response_format: Literal[None] = None

    def sampling(self, *, max_new_tokens: int, seed: int) -> SamplingConfig:
        """As for a completion; `max_completion_tokens` is the newer name of `max_tokens`."""
        limit = self.max_completion_tokens or max_new_tokens
        return super().sampling(max_new_tokens=limit, seed=seed)


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """Token counts in the API's form."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def error(message: str, *, kind: str, code: str | None, param: str | None = None) -> dict[str, Any]:
    """An error in the API's form."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}
