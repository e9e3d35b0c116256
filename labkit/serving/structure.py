"""`response_format` and `structured_outputs` as constraints on tokens."""

from collections.abc import Callable
from functools import partial
from typing import Any

from labkit.inference.constraint import Constraint
from labkit.inference.structured.constraints import Backend as Maker
from labkit.inference.structured.constraints import (
    json_constraint,
    json_object_constraint,
    regex_constraint,
)
from labkit.model.tokenizer import Tokenizer
from labkit.serving.schemas.formats import JsonObjectFormat, JsonSchemaFormat
from labkit.serving.schemas.generation import GenerationRequest


def maker(
    request: GenerationRequest,
    tokenizer: Tokenizer,
    *,
    vocab_size: int,
    budget: int,
    by: Maker,
) -> Callable[[], Constraint] | None:
    """What makes a request's constraint; None if it asks for no form.

    By hand, the text is completed within its budget, so that it is valid also where `max_tokens`
    ends it; llguidance cannot promise that, and its text may be cut.

    Args:
        request: Whose form.
        tokenizer: Of the model.
        vocab_size: V.
        budget: Most tokens of the text.
        by: Who compiles the grammar.
    """
    options: dict[str, Any] = {"backend": by, "vocab_size": vocab_size}
    if by == "hand":
        options["close_within"] = budget
    form, wanted = request.response_format, request.structured_outputs
    if isinstance(form, JsonObjectFormat):
        return partial(json_object_constraint, tokenizer, **options)
    if isinstance(form, JsonSchemaFormat):
        return partial(json_constraint, tokenizer, form.json_schema.fields, **options)
    if wanted is None:
        return None
    if wanted.regex is not None:
        return partial(regex_constraint, tokenizer, wanted.regex, **options)
    return partial(json_constraint, tokenizer, wanted.fields, **options)
