"""Virtual tokens before every sequence: how they enter a MiniLLM or a transformers decoder.

Hooks on the model rewrite its calls, so neither the model nor its callers change: logits come back
for the real tokens only, and what follows a prefill goes on from its cache. Code that goes around
the model's own `forward`, as a serving engine may, does not see the virtual tokens. No merge
exists: virtual tokens are inputs, not weights.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from labkit.model.minillm import MiniLLM
from labkit.tuning.adapted import Addition

NAME = "soft_prompt"
IGNORED_LABEL = -100
Kwargs = dict[str, Any]
Prompt = TypeVar("Prompt", bound="SoftPrompt")


@dataclass(frozen=True, slots=True)
class CallNames:
    """What a model's forward calls its arguments."""

    ids: str
    mask: str
    positions: str
    cache: str


_MINILLM = CallNames("ids", "padding_mask", "positions", "cache")
_TRANSFORMERS = CallNames("input_ids", "attention_mask", "position_ids", "past_key_values")


class SoftPrompt(Addition, ABC):
    """P virtual tokens of a model, registered in it as `soft_prompt`.

    Args:
        model: a MiniLLM or a transformers decoder; not registered here.
        num_virtual_tokens: P.
    """

    def __init__(self, model: nn.Module, num_virtual_tokens: int) -> None:
        super().__init__()
        self.num_virtual_tokens = num_virtual_tokens
        self.names = _MINILLM if isinstance(model, MiniLLM) else _TRANSFORMERS
        self._handles: list[RemovableHandle] = []

    def install(self, model: nn.Module) -> None:
        """Register this module in the model, and its hooks on it."""
        model.add_module(NAME, self)
        self._handles = [model.register_forward_pre_hook(self.before, with_kwargs=True)]

    def uninstall(self, model: nn.Module) -> None:
        """Undo `install`."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        delattr(model, NAME)

    def before(self, model: nn.Module, args: tuple[Any, ...], kwargs: Kwargs) -> tuple[Any, Kwargs]:
        """Rewrite a call: all arguments by name, mask and positions with room for P tokens.

        Raises:
            ValueError: rows are packed, or the tokens come as embeddings.
        """
        names, P = self.names, self.num_virtual_tokens
        if len(args) > 1:
            raise ValueError(f"pass all but {names.ids} by name under a soft prompt")
        kwargs = {names.ids: args[0], **kwargs} if args else dict(kwargs)
        if kwargs.get("document_ids") is not None:
            raise ValueError("a soft prompt stands before one document: do not pack rows under it")
        if kwargs.get(names.ids) is None:
            raise ValueError(f"under a soft prompt the model takes {names.ids}, no embeddings")
        ids: Tensor = kwargs[names.ids]
        if (mask := kwargs.get(names.mask)) is not None:
            kwargs[names.mask] = torch.cat((mask.new_ones(len(ids), P), mask), dim=1)
        if (positions := kwargs.get(names.positions)) is not None:
            kwargs[names.positions] = positions + P
        self.enter(model, kwargs)
        return (), kwargs

    @abstractmethod
    def enter(self, model: nn.Module, kwargs: Kwargs) -> None:
        """Bring in the virtual tokens unless the cache holds them already."""

    def cached(self, kwargs: Kwargs) -> int:
        """Tokens in the call's cache."""
        cache = kwargs.get(self.names.cache)
        if cache is None:
            return 0
        return int(cache.length if self.names is _MINILLM else cache.get_seq_length())


class VirtualEmbeddings(SoftPrompt):
    """Virtual tokens as P rows (P, D) before the token embeddings.

    The call is given P placeholder ids more, whose embeddings a hook replaces: positions, masks and
    caches then need no special care.
    """

    def __init__(self, model: nn.Module, num_virtual_tokens: int) -> None:
        super().__init__(model, num_virtual_tokens)
        self._entering = False
        self._length = 0

    @abstractmethod
    def vectors(self) -> Tensor:
        """The virtual tokens, (P, D)."""

    def install(self, model: nn.Module) -> None:
        super().install(model)
        self._handles += [
            embedding(model).register_forward_hook(self.embed),
            model.register_forward_hook(self.after),
        ]

    def enter(self, model: nn.Module, kwargs: Kwargs) -> None:
        names, P = self.names, self.num_virtual_tokens
        ids: Tensor = kwargs[names.ids]
        self._entering = self.cached(kwargs) == 0
        if not self._entering:
            return
        B = len(ids)
        kwargs[names.ids] = torch.cat((ids.new_zeros(B, P), ids), dim=1)
        self._length = P + ids.shape[1]
        if (positions := kwargs.get(names.positions)) is not None:
            first = torch.arange(P, device=ids.device).expand(len(positions), P)
            kwargs[names.positions] = torch.cat((first, positions), dim=1)
        if (labels := kwargs.get("labels")) is not None:
            ignored = labels.new_full((B, P), IGNORED_LABEL)
            kwargs["labels"] = torch.cat((ignored, labels), dim=1)

    def embed(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        """Put the virtual tokens in the placeholders' place."""
        if not self._entering:
            return output
        P = self.num_virtual_tokens
        rows = self.vectors().to(output.dtype).expand(len(output), -1, -1)
        return torch.cat((rows, output[:, P:]), dim=1)

    def after(self, model: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """Leave out the virtual tokens' logits."""
        if not self._entering:
            return output
        self._entering = False
        logits = output if isinstance(output, Tensor) else output.logits
        if logits.shape[1] == self._length:
            logits = logits[:, self.num_virtual_tokens :]
        if isinstance(output, Tensor):
            return logits
        output.logits = logits
        return output


def embedding(model: nn.Module) -> nn.Embedding:
    """The model's token embedding.

    Raises:
        ValueError: it is neither a MiniLLM nor a transformers model.
    """
    if isinstance(model, MiniLLM):
        return model.model.embed_tokens
    if (find := getattr(model, "get_input_embeddings", None)) is None:
        raise ValueError(
            f"soft prompts know MiniLLM and transformers decoders, not a {type(model).__name__}"
        )
    return cast(nn.Embedding, find())


def virtual_tokens(model: nn.Module) -> int:
    """How many tokens of the context a model's soft prompt takes; 0 without one."""
    prompt = getattr(model, NAME, None)
    return 0 if prompt is None else int(prompt.num_virtual_tokens)


def of(model: nn.Module, kind: type[Prompt]) -> Prompt:
    """The model's soft prompt.

    Raises:
        ValueError: it has none of that kind.
    """
    prompt = getattr(model, NAME, None)
    if not isinstance(prompt, kind):
        raise ValueError(f"the model has no {kind.method} prompt; call apply first")
    return prompt


def check_tokens(num_virtual_tokens: int, init_ids: tuple[int, ...] | None = None) -> None:
    """Refuse options that contradict each other.

    Raises:
        ValueError: with the values.
    """
    if num_virtual_tokens < 1:
        raise ValueError(f"num_virtual_tokens={num_virtual_tokens} must be at least 1; 20 is usual")
    if init_ids is not None and len(init_ids) != num_virtual_tokens:
        raise ValueError(
            f"init_ids has {len(init_ids)} tokens for num_virtual_tokens={num_virtual_tokens}: "
            "give one for each"
        )


@contextmanager
def drawing(generator: torch.Generator | None) -> Iterator[None]:
    """Within the context torch's own initialisers draw what the generator says.

    The global generator is put back afterwards. Without a generator the seed is 0.
    """
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    seed = int(torch.randint(2**62, (1,), generator=generator))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
