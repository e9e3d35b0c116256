"""MiniLLM: a Llama-family decoder whose parameters carry Hugging Face's names."""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from labkit.model.blocks import build_block
from labkit.model.cache import KVCache
from labkit.model.config import ModelConfig
from labkit.model.layers import build_norm, rope_table

INIT_STD = 0.02


class Decoder(nn.Module):
    """Token embedding, L blocks, final norm (of pre-norm): everything below the head."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.width)
        self.layers = nn.ModuleList(build_block(config, i) for i in range(config.num_layers))
        self.norm = build_norm(config) if config.norm_position == "pre" else nn.Identity()


class MiniLLM(nn.Module):
    """Next-token logits of a decoder with RoPE, grouped-query attention and SwiGLU.

    Pre-norm with RMSNorm, unless the configuration says otherwise. Parameter names and layouts are
    those of Hugging Face's LlamaForCausalLM.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Decoder(config)
        self.lm_head = nn.Linear(config.width, config.vocab_size, bias=False)
        self.tie()

    def tie(self) -> None:
        """Makes the head share the embedding's memory, where the configuration says so."""
        if self.config.tie_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    def forward(
        self,
        ids: Int[Tensor, "B T"],
        *,
        cache: KVCache | None = None,
        positions: Int[Tensor, "B T"] | None = None,
        padding_mask: Bool[Tensor, "B S"] | None = None,
        document_ids: Int[Tensor, "B T"] | None = None,
        last_only: bool = False,
    ) -> Float[Tensor, "B Q V"]:
        """Logits of the token after each position.

        Args:
            ids: new tokens.
            cache: keys and values of the S - T tokens before; extended by the new ones.
            positions: of the new tokens; default: counted on from the cache, over real tokens.
            padding_mask: True at real tokens, over cached and new ones; for left-padded batches.
            document_ids: a token sees only tokens of its own document; for packed rows.
            last_only: compute the last position's logits alone (Q = 1 instead of T).

        Raises:
            ValueError: shapes disagree, or S exceeds the configuration's `max_length`.
        """
        x = self.hidden_states(
            ids,
            cache=cache,
            positions=positions,
            padding_mask=padding_mask,
            document_ids=document_ids,
        )
        if last_only:
            # A strided slice of several rows would make torch copy a frozen head once for each row.
            x = x[:, -1:].contiguous()
        logits: Tensor = self.lm_head(x)
        return logits

    def hidden_states(
        self,
        ids: Int[Tensor, "B T"],
        *,
        cache: KVCache | None = None,
        positions: Int[Tensor, "B T"] | None = None,
        padding_mask: Bool[Tensor, "B S"] | None = None,
        document_ids: Int[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "B T D"]:
        """What `forward` gives the head at each position, normalised; arguments as there."""
        T = ids.shape[1]
        past = 0 if cache is None else cache.length
        self._check(past + T, positions, padding_mask, document_ids, past)
        if positions is None:
            positions = default_positions(ids, past, padding_mask)
        mask = attention_mask(ids, past, padding_mask, document_ids, self.config.sliding_window)
        if cache is not None and mask is not None:
            mask = mask[..., cache.key_positions(T)]
        x = self.model.embed_tokens(ids)
        cos, sin = rope_table(positions, self.config.head_width, self.config.rope_theta)
        rope = (cos.to(x.dtype), sin.to(x.dtype))  # once for all layers
        for block in self.model.layers:
            x = block(x, rope, mask, cache)
        if cache is not None:
            cache.advance(T)
        y: Tensor = self.model.norm(x)
        return y

    def _check(
        self,
        S: int,
        positions: Tensor | None,
        padding_mask: Tensor | None,
        document_ids: Tensor | None,
        past: int,
    ) -> None:
        if positions is None and self.config.max_length < S:
            raise ValueError(
                f"{S} tokens exceed max_length={self.config.max_length}: "
                "shorten the input, or pass positions that stay below it"
            )
        if padding_mask is not None and padding_mask.shape[1] != S:
            raise ValueError(
                f"padding_mask covers {padding_mask.shape[1]} tokens, but cached and new ones "
                f"are {S}"
            )
        if document_ids is not None and past:
            raise ValueError(
                f"document_ids is for whole packed rows, but the cache already holds {past} tokens"
            )


def default_positions(
    ids: Int[Tensor, "B T"], past: int, padding_mask: Bool[Tensor, "B S"] | None
) -> Int[Tensor, "B T"]:
    """past, past + 1, ...; in a padded batch the count of real tokens before each one."""
    B, T = ids.shape
    if padding_mask is None:
        return torch.arange(past, past + T, device=ids.device).expand(B, T)
    return (padding_mask.cumsum(dim=1) - 1).clamp(min=0)[:, past:]


def attention_mask(
    ids: Int[Tensor, "B T"],
    past: int,
    padding_mask: Bool[Tensor, "B S"] | None,
    document_ids: Int[Tensor, "B T"] | None,
    window: int | None = None,
) -> Bool[Tensor, "B 1 T S"] | None:
    """True where a query may look; None for plain causal attention, which needs no matrix.

    A query sees the latest `window` tokens, itself included. One new token needs no matrix for
    that, since the cache holds no more than the window.
    """
    B, T = ids.shape
    if padding_mask is None and document_ids is None:
        beyond = window is not None and past + T > window
        if T == 1 or (past == 0 and not beyond):
            return None
    queries = torch.arange(past, past + T, device=ids.device)[:, None]
    keys = torch.arange(past + T, device=ids.device)
    mask = (keys <= queries).expand(B, T, -1)
    if window is not None:
        mask = mask & (keys > queries - window)
    if document_ids is not None:
        mask = mask & (document_ids[:, :, None] == document_ids[:, None, :])
    if padding_mask is not None:
        # A padding token still sees itself: over nothing, softmax is 0 / 0.
        mask = (mask & padding_mask[:, None, :]) | (keys == queries)
    return mask[:, None]


@torch.no_grad()
def initialise(model: MiniLLM, generator: torch.Generator) -> None:
    """Draws every matrix from N(0, 0.02^2), those that write to the residual stream smaller.

    The 2 L projections `o_proj` and `down_proj` add up in the stream; scaling each by 1 / sqrt(2 L)
    keeps its variance independent of depth (GPT-2, section 2.3). Norm weights become 1, biases 0.
    """
    residual_std = INIT_STD / math.sqrt(2 * model.config.num_layers)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)
        else:
            writes = name.endswith(("o_proj.weight", "down_proj.weight"))
            parameter.normal_(0.0, residual_std if writes else INIT_STD, generator=generator)
