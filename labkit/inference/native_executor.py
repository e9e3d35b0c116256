"""The Llama decoder on the engine's own kernels: fused projections, packed weights."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from labkit.inference.adapters.bank import AdapterBank
from labkit.inference.adapters.grouped import Grouping
from labkit.inference.int8_cache import KVFormat, build_cache
from labkit.inference.native import ops
from labkit.inference.native.decoder import LayerWeights, NativeDecoder
from labkit.inference.native.ops import LANES, PackedLinear
from labkit.inference.step_batch import StepBatch
from labkit.model.blocks import Block
from labkit.model.config import ModelConfig
from labkit.model.layers import RMSNorm, SwiGLU, rope_table
from labkit.model.minillm import MiniLLM

# What stays in 16 bits where the rest has 8: of all matrices these cost the least time for the
# quality they save (benchmarks/inference.py has the figures).
KEPT = ("qkv",)
QKV, GATE_UP = ("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj")


def _packed(block: Block, bits: Mapping[str, int]) -> LayerWeights:
    attention, mlp = block.self_attn, block.mlp
    assert isinstance(mlp, SwiGLU)
    qkv = [attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight]
    gate_up = [mlp.gate_proj.weight, mlp.up_proj.weight]
    return LayerWeights(
        norm_attention=_gain(block.input_layernorm),
        norm_ffn=_gain(block.post_attention_layernorm),
        qkv=PackedLinear(torch.cat(qkv), bits=bits["qkv"]),
        o=PackedLinear(attention.o_proj.weight, bits=bits["o"]),
        gate_up=PackedLinear(torch.cat(gate_up), bits=bits["gate_up"]),
        down=PackedLinear(mlp.down_proj.weight, bits=bits["down"]),
    )


def _gain(norm: nn.Module) -> Tensor:
    assert isinstance(norm, RMSNorm)
    return norm.weight.detach().float().contiguous()


class NativeExecutor:
    """A dense Llama decoder with weights of 16 or 8 bits; activations and sums are float32.

    Args:
        model: its weights are copied, rounded and packed; it may be dropped afterwards.
        num_pages: P, of 16 tokens each.
        bits: 16 for bfloat16 weights, 8 for 8-bit ones.
        kept: matrices that stay in 16 bits, of "qkv", "o", "gate_up", "down" and "head".
        bank: adapters that tokens may name, in float32.
        kv: "model" for pages in bfloat16, or "int8".

    Raises:
        ValueError: the architecture is not one that the kernels know; `refusal` says which.
        NoKernelsError: the kernels cannot be built here.
    """

    def __init__(
        self,
        model: MiniLLM,
        *,
        num_pages: int,
        bits: int,
        kept: Sequence[str] = KEPT,
        bank: AdapterBank | None = None,
        kv: KVFormat = "model",
    ) -> None:
        if reason := refusal(model):
            raise ValueError(f"the native kernels do not run this model: {reason}")
        widths = dict.fromkeys(("qkv", "o", "gate_up", "down", "head"), bits)
        if unknown := set(kept) - set(widths):
            raise ValueError(f"kept={sorted(unknown)}: expected some of {', '.join(widths)}")
        widths.update(dict.fromkeys(kept, 16))
        config, self._bank = model.config, bank
        with torch.no_grad():
            self._layers = [_packed(cast(Block, block), widths) for block in model.model.layers]
            self._head = PackedLinear(model.lm_head.weight, bits=widths["head"])
            self._embedding = model.model.embed_tokens.weight.detach().bfloat16()
            self._norm = _gain(model.model.norm)
            positions = torch.arange(config.max_length)[None]
            cos, sin = rope_table(positions, config.head_width, config.rope_theta)
        self._cos, self._sin, self._eps = cos[0], sin[0], config.norm_eps
        self.cache = build_cache(
            config, kv=kv, num_pages=num_pages, page_size=LANES, dtype=torch.bfloat16
        )
        self._decoder = NativeDecoder(
            self._layers, self.cache, num_heads=config.num_heads, eps=config.norm_eps
        )

    @property
    def nbytes(self) -> int:
        """Of the weights that one step reads, without the embedding."""
        return sum(layer.nbytes for layer in self._layers) + self._head.nbytes

    @torch.inference_mode()
    def run(self, batch: StepBatch) -> Float[Tensor, "Q V"]:
        x = self._embedding[batch.ids].float()
        cos, sin = self._cos[batch.positions], self._sin[batch.positions]
        if self._bank is None or batch.slots is None or not batch.slots.any():
            self._decoder.run(x, cos, sin, batch)
        else:
            self._run_with_adapters(x, cos, sin, batch, self._bank.group(batch.slots))
        return self._head(ops.rms_norm(x[batch.last], self._norm, self._eps))

    def _run_with_adapters(
        self, x: Tensor, cos: Tensor, sin: Tensor, batch: StepBatch, grouping: Grouping
    ) -> None:
        """The same kernels one by one, each product followed by the adapters' shares."""
        assert self._bank is not None
        add = partial(self._bank.add_fused, grouping=grouping)
        for index, layer in enumerate(self._layers):
            *scales, keys, values = (part[index] for part in self.cache.parts)
            h = ops.rms_norm(x, layer.norm_attention, self._eps)
            qkv = layer.qkv(h)
            add(qkv, h, index, QKV)
            ops.rope_and_store(qkv, cos, sin, batch.places, keys, values, *scales)
            y = ops.paged_attention(
                qkv, keys, values, batch.tables, batch.rows, batch.positions, *scales
            )
            layer.o(y, into=x)
            add(x, y, index, ("o_proj",))
            h = ops.rms_norm(x, layer.norm_ffn, self._eps)
            gate_up = layer.gate_up(h)
            add(gate_up, h, index, GATE_UP)
            y = ops.silu_product(gate_up)
            layer.down(y, into=x)
            add(x, y, index, ("down_proj",))


def refusal(model: MiniLLM) -> str:
    """Why the kernels cannot run a model; empty if they can."""
    config = model.config
    plain = all(type(module) is nn.Linear for module in _projections(model))
    reasons = {
        "its linear layers are not plain ones (merge adapters, unpack weights)": not plain,
        "a sliding window": config.sliding_window is not None,
        "a mixture of experts": config.moe is not None,
        f"norm={config.norm!r}, norm_position={config.norm_position!r}": (
            (config.norm, config.norm_position) != ("rms", "pre")
        ),
        f"sizes that are no multiples of {LANES}": bool(_ragged(config)),
        "weights that are not in memory": any(p.is_meta for p in model.parameters()),
        "weights on a GPU": model.model.embed_tokens.weight.device.type != "cpu",
    }
    return "; ".join(reason for reason, holds in reasons.items() if holds)


def _ragged(config: ModelConfig) -> Sequence[int]:
    sizes = (config.width, config.ffn_width, config.head_width)
    return [size for size in sizes if size % LANES]


def _projections(model: MiniLLM) -> list[nn.Module]:
    names = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head")
    return [m for name, m in model.named_modules() if name.rpartition(".")[2] in names]
