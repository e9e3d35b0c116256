"""The shape of one method's part in PEFT's files."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

PREFIX = "base_model.model."
PROMPT_NAME = "prompt_embeddings"

Fields = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Format:
    """One method's part of the file format.

    Args:
        peft_type: the method's name in the file.
        config: class of its options.
        apply: puts the method on a model.
        remove: takes it off.
        tensors: what a file holds, by key; parameters themselves where the method trains them so.
        to_fields: options in PEFT's words; raises ValueError where the model was not made by them.
        from_fields: the converse; takes what it knows out of the fields.
    """

    peft_type: str
    config: type
    apply: Callable[[nn.Module, Any], nn.Module]
    remove: Callable[[nn.Module], nn.Module]
    tensors: Callable[[nn.Module, Any], dict[str, Tensor]]
    to_fields: Callable[[nn.Module, Any], Fields]
    from_fields: Callable[[Fields], Any]
