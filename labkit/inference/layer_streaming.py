"""Models larger than memory: blocks that lie elsewhere are read one after the other as they run."""

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.func import functional_call

from labkit.inference.weight_sources import WeightSource
from labkit.model.cache import AttentionCache
from labkit.model.layers import Rope
from labkit.model.minillm import MiniLLM

BUFFERS = 2  # one computes, the other is read


@dataclass(slots=True)
class StreamCounts:
    """What has been read, and for how long computation had to wait for it."""

    read_bytes: int = 0
    read_seconds: float = 0.0
    wait_seconds: float = 0.0

    @property
    def bandwidth(self) -> float:
        """Bytes a second of reading, as measured so far."""
        return self.read_bytes / self.read_seconds if self.read_bytes else 0.0


class LayerStream:
    """Two buffers of one block each, and a thread that fills the one that is not in use.

    After the last layer the first one is read again, ahead of the next forward. One forward at a
    time: a layer's weights are overwritten once another has been asked for.

    Args:
        source: of the weights.
        layers: their numbers, in the order in which they will be wanted.
        block: one of them, for names, shapes and types.
        device: where the buffers lie.
    """

    def __init__(
        self, source: WeightSource, layers: Sequence[int], block: nn.Module, device: torch.device
    ) -> None:
        self._source, self._layers = source, list(layers)
        self.buffers = [
            {n: torch.empty_like(t, device=device) for n, t in block.state_dict().items()}
            for _ in range(BUFFERS)
        ]
        self.counts = StreamCounts()
        self._copies = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="layer-reader")
        self._turn = 0  # the buffer that is read ahead into
        self._ahead: tuple[int, Future[None]] | None = None

    @property
    def layer_bytes(self) -> int:
        """Of one block's weights."""
        return sum(tensor.nbytes for tensor in self.buffers[0].values())

    def weights(self, layer: int) -> dict[str, Tensor]:
        """A layer's weights, until the next call; reading of the following one begins.

        Raises:
            CorruptFileError: the file is no longer whole.
        """
        reading = self._reading(layer)
        self._ahead = None
        began = time.perf_counter()
        reading.result()
        self.counts.wait_seconds += time.perf_counter() - began
        ready, self._turn = self.buffers[self._turn], 1 - self._turn
        if self._copies is not None:  # the layer before may still run on the other buffer
            torch.cuda.current_stream(self._copies.device).synchronize()
        following = self._layers[(self._layers.index(layer) + 1) % len(self._layers)]
        self._ahead = following, self._reader.submit(self._fill, following, self._turn)
        return ready

    def _reading(self, layer: int) -> Future[None]:
        if self._ahead is not None and self._ahead[0] == layer:
            return self._ahead[1]
        if self._ahead is not None:
            self._ahead[1].exception()  # waits for what nobody wants now, failed or not
        return self._reader.submit(self._fill, layer, self._turn)

    def _fill(self, layer: int, turn: int) -> None:
        began = time.perf_counter()
        with torch.cuda.stream(self._copies):  # nothing without a GPU
            self._source.read(_full_names(layer, self.buffers[turn]))
        if self._copies is not None:
            self._copies.synchronize()
        self.counts.read_seconds += time.perf_counter() - began
        self.counts.read_bytes += self.layer_bytes


class StreamedBlock(nn.Module):
    """A block without weights of its own: each call computes with those that the stream has.

    The block's parts go by the same names as before, so that adapters find their layers.

    Args:
        block: the layer, its weights on the meta device.
        layer: its number.
        stream: from which its weights come.
    """

    def __init__(self, block: nn.Module, layer: int, stream: LayerStream) -> None:
        super().__init__()
        self.block, self._layer, self._stream = block, layer, stream

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        rope: Rope,
        mask: Bool[Tensor, "B 1 T S"] | None = None,
        cache: AttentionCache | None = None,
    ) -> Float[Tensor, "B T D"]:
        if x.requires_grad:
            raise ValueError("weights that are overwritten have no gradients: use torch.no_grad()")
        weights = self._stream.weights(self._layer)
        y: Tensor = functional_call(self.block, weights, (x, rope, mask, cache))
        return y

    def __getattr__(self, name: str) -> Tensor | nn.Module:
        if name != "block" and name in self.block._modules:
            return cast(nn.Module, getattr(self.block, name))
        return super().__getattr__(name)


def stream_layers(
    model: MiniLLM,
    source: WeightSource,
    *,
    resident: int,
    device: torch.device | str = "cpu",
) -> LayerStream:
    """Keep the first blocks of a model in memory and read the others at every forward, in place.

    The blocks then take (resident + 2) times one block's bytes, whatever their number. Logits are
    the same bit for bit. Weights of the rest that lie on the meta device are read once, so that a
    model larger than memory is made under `torch.device("meta")` and never exists as a whole.

    Args:
        model: any MiniLLM whose streamed blocks are alike; in eval mode afterwards.
        source: of all weights that are not in memory.
        resident: blocks that stay.
        device: where the model runs.

    Returns:
        The stream, for its counts.

    Raises:
        ValueError: `resident` leaves no block to stream, blocks differ, or the source lacks one.
    """
    device, L = torch.device(device), model.config.num_layers
    if not 0 <= resident < L:
        raise ValueError(f"resident={resident} must lie in [0, {L - 1}] for {L} blocks")
    decoder = model.model
    blocks = list(decoder.layers)
    for layer in range(resident, L):
        _check_alike(blocks[resident], blocks[layer], layer)
        source.check(_full_names(layer, blocks[layer].state_dict()))
    rest = {f"model.layers.{i}.": blocks[i] for i in range(resident)}
    rest |= {"model.embed_tokens.": decoder.embed_tokens, "model.norm.": decoder.norm}
    if not model.config.tie_embeddings:
        rest["lm_head."] = model.lm_head
    for prefix, module in rest.items():
        _bring(module, prefix, source, device)
    model.tie()
    stream = LayerStream(source, range(resident, L), blocks[resident], device)
    for layer in range(resident, L):
        decoder.layers[layer] = StreamedBlock(blocks[layer].to("meta"), layer, stream)
    model.eval()
    return stream


def blocks_bytes(layer_bytes: int, *, resident: int) -> int:
    """(resident + 2) layer_bytes: what the blocks of a streamed model take in memory."""
    return (resident + BUFFERS) * layer_bytes


def step_seconds(*, streamed_bytes: int, bandwidth_bytes_s: float, compute_seconds: float) -> float:
    """max(bytes / bandwidth, compute): reading and computing run side by side.

    Args:
        streamed_bytes: that one forward reads.
        bandwidth_bytes_s: of the source, such as `StreamCounts.bandwidth`.
        compute_seconds: of a forward with all weights in memory.
    """
    return max(streamed_bytes / bandwidth_bytes_s, compute_seconds)


def _full_names(layer: int, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"model.layers.{layer}.{name}": tensor for name, tensor in weights.items()}


def _check_alike(first: nn.Module, block: nn.Module, layer: int) -> None:
    specs = [
        {name: (t.dtype, t.shape) for name, t in module.state_dict().items()}
        for module in (first, block)
    ]
    if specs[0] != specs[1]:
        names = sorted(name for name, _ in set(specs[0].items()) ^ set(specs[1].items()))
        raise ValueError(f"layer {layer} differs from the streamed layers before in {names[0]}")


def _bring(module: nn.Module, prefix: str, source: WeightSource, device: torch.device) -> None:
    """Put a module's weights on the device, reading them if they are nowhere yet."""
    if not any(cast(Tensor, t).is_meta for t in module.state_dict().values()):
        module.to(device)
        return
    module.to_empty(device=device)
    weights = {prefix + name: tensor for name, tensor in module.state_dict().items()}
    source.check(weights)
    source.read(weights)
