"""The body of POST /v1/chat/completions."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from labkit.inference.sampling import SamplingConfig
from labkit.serving.schemas.generation import MAX_TOP_LOGPROBS, GenerationRequest


class TextPart(BaseModel):
    """A part of a message's content; only text is understood."""

    model_config = ConfigDict(extra="forbid")
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
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=MAX_TOP_LOGPROBS)

    @model_validator(mode="after")
    def _agree_too(self) -> "ChatRequest":
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs=true")
        return self

    @property
    def top_logprobs_count(self) -> int | None:
        """As `SamplingConfig.logprobs`."""
        return (self.top_logprobs or 0) if self.logprobs else None

    def sampling(self, *, max_new_tokens: int, seed: int) -> SamplingConfig:
        """As for a completion; `max_completion_tokens` is the newer name of `max_tokens`."""
        limit = self.max_completion_tokens or max_new_tokens
        return super().sampling(max_new_tokens=limit, seed=seed)
