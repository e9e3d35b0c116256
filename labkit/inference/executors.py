"""One step of the model over a flattened batch: with any MiniLLM, or with packed weights."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from labkit.inference.adapters.bank import AdapterBank
from labkit.inference.adapters.places import Place, places
from labkit.inference.int8_cache import KVFormat, build_cache
from labkit.inference.paged_cache import PagedCache, paged_attention
from labkit.inference.step_batch import StepBatch
from labkit.model.cache import Attend
from labkit.model.layers import rope_table
from labkit.model.minillm import MiniLLM
from labkit.tuning import adapted, soft_prompt


@runtime_checkable
class Executor(Protocol):
    """Runs steps and owns the pages."""

    cache: PagedCache

    def run(self, batch: StepBatch) -> Float[Tensor, "Q V"]:
        """Logits after the batch's `last` tokens; keys and values of all go into the pages."""
        ...


class ModuleExecutor:
    """The model's own modules, whatever they are: quantized, experts, windows, merged adapters.

    Args:
        model: any MiniLLM without a soft prompt.
        num_pages: P.
        page_size: tokens a page holds.
        bank: adapters that tokens may name.
        kv: whether pages hold keys and values in the model's type or in 8 bits.
        compiled: whether TorchInductor compiles the blocks, all but attention over the pages; the
            first steps then take the compiler's time, about half a minute.

    Raises:
        ValueError: the model has a soft prompt, whose tokens have no place in the pages.
    """

    def __init__(
        self,
        model: MiniLLM,
        *,
        num_pages: int,
        page_size: int,
        bank: AdapterBank | None = None,
        kv: KVFormat = "model",
        compiled: bool = False,
    ) -> None:
        if soft_prompt.virtual_tokens(model):
            raise ValueError("a model with a soft prompt is not served here: use `generate`")
        if bank is not None:
            adapted.refuse_adapted(model)
        embedding = model.model.embed_tokens.weight
        self._model = model.eval()
        self._bank = bank
        self._blocks: list[Callable[..., Tensor]] = list(model.model.layers)
        self._compiling: Callable[[], AbstractContextManager[None]] = nullcontext
        self._step = _Step
        if compiled:
            from torch._dynamo import config

            self._blocks = [torch.compile(block, dynamic=True) for block in self._blocks]
            # A layer's number is a variable: one compiled graph serves all layers.
            self._compiling = partial(config.patch, allow_unspec_int_on_nn_module=True)
            self._step = _uncompiled_step()
        self.cache = build_cache(
            model.config,
            kv=kv,
            num_pages=num_pages,
            page_size=page_size,
            dtype=embedding.dtype,
            device=embedding.device,
        )

    @torch.inference_mode()
    def run(self, batch: StepBatch) -> Float[Tensor, "Q V"]:
        decoder, config = self._model.model, self._model.config
        x = decoder.embed_tokens(batch.ids)[None]  # (1, N, D)
        cos, sin = rope_table(batch.positions[None], config.head_width, config.rope_theta)
        rope = (cos.to(x.dtype), sin.to(x.dtype))
        step = self._step(self.cache, batch, config.sliding_window)
        with _shares(self._model, self._bank, batch.slots), self._compiling():
            for block in self._blocks:
                x = block(x, rope, None, step)
        logits: Tensor = self._model.lm_head(decoder.norm(x[0, batch.last]))
        return logits


@contextmanager
def _shares(model: MiniLLM, bank: AdapterBank | None, slots: Tensor | None) -> Iterator[None]:
    """Hooks behind the projections that add each token's adapter's share, for one step."""
    if bank is None or slots is None or not slots.any():
        yield
        return
    grouping = bank.group(slots)

    def add(place: Place, module: nn.Module, args: tuple[Tensor, ...], y: Tensor) -> None:
        rows = y.view(-1, y.shape[-1]), args[0].flatten(0, -2)
        bank.add_delta(*rows, place.layer, place.target, grouping)

    with ExitStack() as stack:
        for path, place in places(model.config).items():
            hook = model.get_submodule(path).register_forward_hook(partial(add, place))
            stack.callback(hook.remove)
        yield


class _Step:
    """The pages as the cache of one step's attention layers."""

    def __init__(self, cache: PagedCache, batch: StepBatch, window: int | None) -> None:
        self._cache, self._batch, self._window = cache, batch, window

    def attend(
        self,
        layer: int,
        q: Float[Tensor, "1 H N K"],
        k: Float[Tensor, "1 G N K"],
        v: Float[Tensor, "1 G N K"],
        mask: Bool[Tensor, "#1 1 N S"] | None,
        attend: Attend,
    ) -> Float[Tensor, "1 H N K"]:
        by_token = [x[0].transpose(0, 1) for x in (q, k, v)]  # (1, H, N, K) -> (N, H, K)
        self._cache.write(layer, self._batch.places, by_token[1], by_token[2])
        y = paged_attention(by_token[0], self._cache, layer, self._batch, self._window)
        return y.transpose(0, 1)[None]


def _uncompiled_step() -> type[_Step]:
    """A step whose attention the compiler leaves alone; naming it imports the compiler."""

    class UncompiledStep(_Step):
        attend = torch.compiler.disable(_Step.attend)

    return UncompiledStep
