"""New tokens for a trained model: which ones, how text meets them, where their vectors start."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import tokenizers
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from labkit.model.minillm import INIT_STD, MiniLLM
from labkit.model.tokenizer import Tokenizer

INITS = ("pieces", "mean", "random")


def missing_tokens(
    tokenizer: Tokenizer, tokens: Iterable[bytes], *, most_characters: int = 4
) -> list[str]:
    """Those of another vocabulary's tokens that this tokenizer spells with several of its own.

    Kept are whole letters only: a part of a character is no text, and a token with a space or
    ASCII letters would change how the old languages are cut.

    Args:
        tokenizer: Of the model.
        tokens: Byte strings, such as `labkit.data.bpe.BPE.tokens`, in order of preference.
        most_characters: Longer tokens are left out: whole phrases make poor words.
    """
    found: dict[str, None] = {}
    for token in tokens:
        try:
            text = token.decode()
        except UnicodeDecodeError:
            continue
        foreign = text.isalpha() and not any(character.isascii() for character in text)
        taken = tokenizer.backend.token_to_id(text) is not None  # "é" is a byte's name there
        if not foreign or taken or len(text) > most_characters:
            continue
        if len(tokenizer.encode(text)) > 1:
            found[text] = None
    return list(found)


def extend_tokenizer(tokenizer: Tokenizer, tokens: Sequence[str]) -> Tokenizer:
    """A copy that knows the tokens too, with the ids after the old ones, in order.

    They are `tokenizers`' added tokens: cut out of the text before anything else, leftmost first,
    then longest. Text that holds none of them is encoded as before.

    Raises:
        ValueError: no token is given, one comes twice, or is empty or in the vocabulary.
    """
    known = [token for token in tokens if tokenizer.backend.token_to_id(token) is not None]
    if not tokens or "" in tokens or known or len(set(tokens)) != len(tokens):
        raise ValueError(
            f"{len(tokens)} tokens must be at least one, different, not empty and new; "
            f"in the vocabulary already: {known[:3]}"
        )
    backend = tokenizers.Tokenizer.from_str(tokenizer.backend.to_str())
    backend.add_tokens([tokenizers.AddedToken(token, normalized=False) for token in tokens])
    return Tokenizer(
        backend,
        eos_token=tokenizer.eos_token,
        pad_token=tokenizer.pad_token,
        bos_token=tokenizer.bos_token,
        unk_token=tokenizer.unk_token,
        chat_template=tokenizer.chat_template,
    )


@torch.no_grad()
def extend_embeddings(
    model: MiniLLM,
    pieces: Sequence[Sequence[int]],
    *,
    init: str = "pieces",
    generator: torch.Generator | None = None,
) -> MiniLLM:
    """Give the model a row for each new token, in place; the old rows keep their numbers.

    "pieces": the mean of the rows of the tokens that spelt it, in the embedding and, where it has
    its own matrix, in the head. A new token's logit is then the mean of its pieces' logits.
    "mean": the mean of all old rows. "random": N(0, 0.02^2), as for a model that starts anew.

    Args:
        model: MiniLLM without adapters.
        pieces: For each new token, old ids that spell it (`Tokenizer.encode` before extending).
        init: One of `INITS`.
        generator: Draws random rows; by default a fresh one with seed 0.

    Returns:
        The same model, its configuration's `vocab_size` raised.

    Raises:
        ValueError: no such init, no pieces, or one that is no old id.
    """
    if init not in INITS:
        raise ValueError(f"init={init!r} must be one of {', '.join(INITS)}")
    V = model.config.vocab_size
    if not pieces or not all(ids and all(0 <= i < V for i in ids) for ids in pieces):
        raise ValueError(f"every new token needs pieces with ids in [0, {V})")
    if type(model.lm_head) is not nn.Linear:
        raise ValueError("the head carries an adapter or is packed: extend the plain model first")
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    config = replace(model.config, vocab_size=V + len(pieces))
    embedding = _extended(model.model.embed_tokens.weight, pieces, init, generator)
    head = embedding
    if not config.tie_embeddings:
        head = _extended(model.lm_head.weight, pieces, init, generator)
    model.model.embed_tokens = nn.Embedding.from_pretrained(embedding, freeze=False)
    model.lm_head.out_features = config.vocab_size
    model.lm_head.weight = nn.Parameter(head)
    model.config = config
    model.tie()
    return model


def train_new_rows(model: MiniLLM, first: int) -> list[RemovableHandle]:
    """Let the vocabulary's matrices learn in the rows from `first` on, and in no other.

    The gradients of the rows before become 0: AdamW without weight decay then leaves them as they
    are. Whether other parameters learn is left as it is.

    Returns:
        Handles; `remove()` on each lets the old rows learn again.
    """
    weights = {model.model.embed_tokens.weight, model.lm_head.weight}  # one, if tied

    def only_new(gradient: Tensor) -> Tensor:
        kept = gradient.clone()
        kept[:first] = 0.0
        return kept

    return [weight.requires_grad_(True).register_hook(only_new) for weight in weights]


def _extended(
    weight: Tensor, pieces: Sequence[Sequence[int]], init: str, generator: torch.Generator
) -> Tensor:
    if init == "random":
        rows = INIT_STD * torch.randn(len(pieces), weight.shape[1], generator=generator)
    elif init == "mean":
        rows = weight.float().mean(0).expand(len(pieces), -1)
    else:
        rows = torch.stack([weight[list(ids)].float().mean(0) for ids in pieces])
    return torch.cat([weight, rows.to(weight)])
