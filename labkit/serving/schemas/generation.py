"""What completions and chats share, and the body of POST /v1/completions.

Fields beyond OpenAI's (`top_k`, `min_p`, `repetition_penalty`, `min_tokens`, `stop_token_ids`,
`ignore_eos`, `structured_outputs`, `continuous_usage_stats`) are those that vLLM has too. No field
is ignored: an unknown one is refused.
"""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from labkit.inference.sampling import LARGEST_SEED, SamplingConfig
from labkit.serving.schemas.formats import ResponseFormat, StructuredOutputs

DEFAULT_COMPLETION_TOKENS = 16
MAX_TOP_LOGPROBS = 20
MAX_CHOICES = 128
MAX_STOPS = 16

Bias = Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]
Penalty = Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)]


class StreamOptions(BaseModel):
    """What a stream holds beside its text: token counts at its end, and (as vLLM) in each event."""

    model_config = ConfigDict(extra="forbid")
    include_usage: bool = False
    continuous_usage_stats: bool = False


class GenerationRequest(BaseModel):
    """Fields of both endpoints."""

    model_config = ConfigDict(extra="forbid")
    model: str
    max_tokens: int | None = Field(default=None, ge=1)
    min_tokens: int = Field(default=0, ge=0)
    temperature: float = Field(default=1.0, ge=0, le=2, allow_inf_nan=False)
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=1)
    min_p: float | None = Field(default=None, ge=0, le=1)
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: float = Field(default=1.0, gt=0, le=100)
    logit_bias: dict[str, Bias] | None = Field(default=None, max_length=1024)
    seed: int | None = Field(default=None, ge=0, le=LARGEST_SEED)
    stop: str | list[str] | None = None
    stop_token_ids: list[int] = Field(default=[], max_length=MAX_STOPS)
    n: int | None = Field(default=None, ge=1, le=MAX_CHOICES)
    stream: bool = False
    stream_options: StreamOptions | None = None
    ignore_eos: bool = False
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    user: str | None = None

    @model_validator(mode="after")
    def _agree(self) -> "GenerationRequest":
        if isinstance(self.stop, list) and len(self.stop) > MAX_STOPS:
            raise ValueError(f"stop has {len(self.stop)} strings, more than {MAX_STOPS}")
        if self.stream_options and not self.stream:
            raise ValueError("stream_options need stream=true")
        if self.response_format and self.structured_outputs:
            raise ValueError("response_format and structured_outputs exclude each other")
        return self

    @property
    def choices(self) -> int:
        """n: texts for each prompt."""
        return self.n or 1

    @property
    def sequences(self) -> int:
        """Texts that this request puts into the engine."""
        return self.choices

    @property
    def top_logprobs_count(self) -> int | None:
        """As `SamplingConfig.logprobs`."""
        return None

    @property
    def wants_logprobs(self) -> bool:
        """Whether the answer lists them."""
        return self.top_logprobs_count is not None

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
            min_p=self.min_p,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            repetition_penalty=self.repetition_penalty,
            logit_bias=_token_ids(self.logit_bias or {}),
            logprobs=self.top_logprobs_count,
            max_new_tokens=self.max_tokens or max_new_tokens,
            min_new_tokens=self.min_tokens,
            stop=tuple(stop),
            stop_token_ids=tuple(self.stop_token_ids),
            seed=seed if self.seed is None else self.seed,
            ignore_eos=self.ignore_eos,
        )


class CompletionRequest(GenerationRequest):
    """POST /v1/completions: text on, from one prompt or several.

    `echo` repeats the prompt before the text, with its own log-probabilities if `logprobs` is set,
    the first of which is null; `max_tokens=0` then asks for nothing else.
    """

    prompt: str | list[str] | list[int] | list[list[int]]
    max_tokens: int | None = Field(default=None, ge=0)
    echo: bool = False
    best_of: int | None = Field(default=None, ge=1, le=MAX_CHOICES)
    logprobs: int | None = Field(default=None, ge=0, le=MAX_TOP_LOGPROBS)

    @model_validator(mode="after")
    def _agree_too(self) -> "CompletionRequest":
        if self.max_tokens == 0 and not self.echo:
            raise ValueError("max_tokens=0 needs echo=true")
        if self.best_of is not None and self.best_of < self.choices:
            raise ValueError(f"best_of={self.best_of} must be at least n={self.choices}")
        if self.stream and self.best_of not in (None, self.choices):
            raise ValueError("best_of cannot be streamed: the best is known at the end")
        if self.stream and self.echo:
            raise ValueError("echo cannot be streamed: the prompt is known to you")
        return self

    @property
    def num_prompts(self) -> int:
        """Prompts in the request."""
        many = isinstance(self.prompt, list) and self.prompt and not _is_int(self.prompt[0])
        return len(self.prompt) if many else 1

    @property
    def sequences(self) -> int:
        """Texts that this request puts into the engine."""
        return self.num_prompts * (self.best_of or self.choices)

    @property
    def top_logprobs_count(self) -> int | None:
        """As `SamplingConfig.logprobs`."""
        return 0 if self.logprobs is None and self.best_of is not None else self.logprobs

    @property
    def wants_logprobs(self) -> bool:
        """Whether the answer lists them; `best_of` needs them for itself."""
        return self.logprobs is not None


class GenerateRequest(BaseModel):
    """POST /generate: plain text on, from the adapter that the query names."""

    model_config = ConfigDict(extra="forbid")
    prompt: str
    max_new_tokens: int = Field(default=64, ge=1)
    temperature: float = Field(default=0.0, ge=0, le=2, allow_inf_nan=False)
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=1)
    num_return_sequences: int = Field(default=1, ge=1, le=MAX_CHOICES)
    seed: int | None = Field(default=None, ge=0, le=LARGEST_SEED)
    stop: list[str] = Field(default=[], max_length=MAX_STOPS)


def _token_ids(bias: dict[str, float]) -> dict[int, float]:
    try:
        return {int(token): value for token, value in bias.items()}
    except ValueError as error:
        raise ValueError(f"logit_bias: its keys must be token ids ({error})") from error


def _is_int(value: object) -> bool:
    return isinstance(value, int)
