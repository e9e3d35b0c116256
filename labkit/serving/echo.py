"""`echo`: the prompt before the text, with its own log-probabilities."""

from dataclasses import dataclass, field
from typing import Any

from labkit.inference.chooser import Choice, TokenChooser, choose
from labkit.inference.rows import Row
from labkit.inference.text import TextAssembler
from labkit.model.tokenizer import Tokenizer
from labkit.serving.schemas.generation import CompletionRequest
from labkit.serving.scoring import Scored
from labkit.serving.texts import Text
from labkit.serving.ticket import Job


@dataclass(slots=True)
class Echo:
    """A prompt as it is given back.

    Attributes:
        text: As it came, or decoded.
        choices: Its tokens, if log-probabilities were asked for.
        following: What is generated after it, if that was found on the way.
    """

    text: str
    choices: list[Choice] = field(default_factory=list)
    following: Text | None = None


def prompt_texts(
    request: CompletionRequest, prompts: list[list[int]], tokenizer: Tokenizer
) -> list[str]:
    """The prompts as texts: those given as ids are decoded, with all that is in them."""
    given: list[Any] = request.prompt if isinstance(request.prompt, list) else [request.prompt]
    if len(given) != len(prompts):  # one list of ids
        given = [given]
    return [
        text if isinstance(text, str) else tokenizer.decode(ids, skip_special=False)
        for text, ids in zip(given, prompts, strict=True)
    ]


def next_token(scored: Scored, job: Job, tokenizer: Tokenizer) -> Text:
    """The one token after a prompt that was scored, by the job's rules: no second reading."""
    eos_id = None if job.config.ignore_eos else tokenizer.eos_id
    row = Row(
        job.prompt,
        budget=1,
        chooser=TokenChooser(job.config, job.prompt, eos_id=eos_id),
        eos_id=eos_id,
        assembler=TextAssembler(tokenizer, job.config.stop),
    )
    choices = choose(scored.last[None], [row.chooser])
    text = row.accept(choices[0])
    return Text(pieces=[text], choices=choices, finish_reason=row.finish_reason)


def nothing() -> Text:
    """What `max_tokens=0` generates."""
    return Text(finish_reason="length")
