"""Wrong implementations of lab 09 that a check must tell from a right one."""

import math
from collections.abc import Iterable, Iterator
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from grader.labs.lab09_generation import reference


def _nucleus(probs: Tensor, p: float | None, *, crossing: bool = True) -> Tensor:
    if p is None:
        return probs
    ordered, order = probs.sort(-1, descending=True)
    reached = ordered.cumsum(-1) - (ordered if crossing else 0)
    stays = reached < p
    stays[:, 0] = True
    return probs * torch.zeros_like(stays).scatter(-1, order, stays)


def _normal(weights: Tensor) -> Tensor:
    return weights / weights.sum(-1, keepdim=True)


def _temperature_last(z: Tensor, t: float, k: int | None = None, p: float | None = None) -> Tensor:
    if t == 0:
        return reference.next_token_distribution(z, t, k, p)
    cut = reference.next_token_distribution(z, 1.0, k, p)
    return (cut.log() / t).softmax(-1)


def _top_p_first(z: Tensor, t: float, k: int | None = None, p: float | None = None) -> Tensor:
    if t == 0 or k is None or p is None:
        return reference.next_token_distribution(z, t, k, p)
    cut = reference.next_token_distribution(z, t, None, p).log()
    return reference.next_token_distribution(cut, 1.0, k)


def _not_crossing(z: Tensor, t: float, k: int | None = None, p: float | None = None) -> Tensor:
    return _normal(_nucleus(reference.next_token_distribution(z, t, k), p, crossing=False))


def _not_renormalised(z: Tensor, t: float, k: int | None = None, p: float | None = None) -> Tensor:
    return _nucleus(reference.next_token_distribution(z, t, k), p)


def _exactly_k(z: Tensor, t: float, k: int | None = None, p: float | None = None) -> Tensor:
    if k is not None:
        largest = z.topk(min(k, z.shape[-1]), dim=-1)
        z = torch.full_like(z, -math.inf).scatter(-1, largest.indices, largest.values)
    return reference.next_token_distribution(z, t, None, p)


def _in_place(z: Tensor, t: float, k: int | None = None, p: float | None = None) -> Tensor:
    probs = reference.next_token_distribution(z, t, k, p)
    z[probs == 0] = -math.inf
    return probs


def _search(probs: Tensor, u: Tensor, *, right: bool = True, total: bool = True) -> Tensor:
    cumulative = probs.double().cumsum(-1)
    if total:
        cumulative = cumulative / cumulative[:, -1:]
    found = torch.searchsorted(cumulative, u[:, None], right=right)[:, 0]
    return found.clamp(max=probs.shape[1] - 1)


def _draw_float32(probs: Tensor, u: Tensor) -> Tensor:
    cumulative = probs.float().cumsum(-1)
    cumulative = cumulative / cumulative[:, -1:]
    return torch.searchsorted(cumulative, u.float()[:, None], right=True)[:, 0]


def _broken_attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cache: Any,
    *,
    slot: bool = True,
    offset: bool = True,
    mask: bool = True,
    interleave: bool = True,
    scaled: bool = True,
    advances: bool = True,
) -> Tensor:
    H, T, K = q.shape[1:]
    G, start = k.shape[1], cache.length
    end = start + T
    if end > cache.keys.shape[2]:
        raise ValueError("full")
    at = start if slot else 0
    cache.keys[:, :, at : at + T], cache.values[:, :, at : at + T] = k, v
    keys, values = cache.keys[:, :, :end], cache.values[:, :, :end]
    if interleave:
        keys, values = (x.repeat_interleave(H // G, dim=1) for x in (keys, values))
    else:
        keys, values = (x.repeat(1, H // G, 1, 1) for x in (keys, values))
    scores = q @ keys.transpose(2, 3) / (math.sqrt(K) if scaled else 1.0)
    if mask:
        seen = torch.ones(T, end).tril(start if offset else 0).bool()
        scores = scores.masked_fill(~seen, -math.inf)
    cache.length = end if advances else start
    output: Tensor = scores.softmax(-1) @ values
    return output


def _attend(**fault: bool) -> Any:
    return lambda q, k, v, cache: _broken_attend(q, k, v, cache, **fault)


def _within_a_piece(pieces: Iterable[str], stops: tuple[str, ...]) -> Iterator[str]:
    for piece in pieces:
        cuts = [piece.find(stop) for stop in stops if stop in piece]
        if cuts:
            yield piece[: min(cuts)]
            return
        yield piece


def _stop(
    *, hold: bool = True, flush: bool = True, earliest: bool = True, hide: bool = True
) -> Any:
    """Make a stream with one of four faults."""

    def until_stop(pieces: Iterable[str], stops: tuple[str, ...]) -> Iterator[str]:
        text, shown = "", 0
        for piece in pieces:
            text += piece
            found = [stop for stop in stops if stop in text]
            if found:
                stop = min(found, key=text.find) if earliest else found[0]
                end = text.find(stop) + (0 if hide else len(stop))
                yield text[shown:end]
                return
            fits = [n for stop in stops for n in range(len(stop)) if text.endswith(stop[:n])]
            end = len(text) - (max(fits, default=0) if hold else 0)
            yield text[shown:end]
            shown = max(shown, end)
        if flush:
            yield text[shown:]

    return until_stop


def _shows_late(pieces: Iterable[str], stops: tuple[str, ...]) -> Iterator[str]:
    yield "".join(reference.until_stop(pieces, stops))


def _single_tokens_only(decoder: Any) -> str:
    answer = reference.diagnose(decoder)
    return "healthy" if answer == "mask" else answer


def _trusts_one_chunk(decoder: Any) -> str:
    return "heads" if reference.diagnose(decoder) == "heads" else "healthy"


def _takes_forgetting_for_positions(decoder: Any) -> str:
    answer = reference.diagnose(decoder)
    return "positions" if answer == "forgets" else answer


def _predict(fault: str) -> Any:
    def predict(config: Any, size: int, context: int, batch: int, speed: float) -> Any:
        changed = dict(vars(config))
        if fault == "query heads":
            changed["num_kv_heads"] = changed["num_heads"]
        kv, step, rate = reference.predict_decoding(
            SimpleNamespace(**changed), size, 0 if fault == "context" else context, batch, speed
        )
        if fault == "keys only":
            step -= batch * context * kv // 2
            kv //= 2
        if fault == "table" and not config.tie_embeddings:
            step += size * config.vocab_size * config.width
        if fault == "one text":
            return kv, step, rate / batch
        return kv, step, batch * speed / step

    return predict


MUTANTS: dict[str, dict[str, Any]] = {
    "next_token_distribution": {
        "temperature last": _temperature_last,
        "top-p before top-k": _top_p_first,
        "drops the token that crosses": _not_crossing,
        "does not renormalise": _not_renormalised,
        "breaks ties at the k-th": _exactly_k,
        "changes the logits": _in_place,
    },
    "draw": {
        "at least u": lambda probs, u: _search(probs, u, right=False),
        "takes sums for 1": lambda probs, u: _search(probs, u, total=False),
        "one uniform for all rows": lambda probs, u: _search(probs, u[:1].expand_as(u).clone()),
        "float32 sums": _draw_float32,
    },
    "attend": {
        "writes at slot 0": _attend(slot=False),
        "mask without offset": _attend(offset=False),
        "no mask": _attend(mask=False),
        "repeat for repeat_interleave": _attend(interleave=False),
        "not scaled": _attend(scaled=False),
        "never advances": _attend(advances=False),
    },
    "until_stop": {
        "looks within a piece": _within_a_piece,
        "holds nothing back": _stop(hold=False),
        "loses the held end": _stop(flush=False),
        "shows the stop string": _stop(hide=False),
        "cuts at the first listed": _stop(earliest=False),
        "shows all at the end": _shows_late,
    },
    "diagnose": {
        "decodes single tokens only": _single_tokens_only,
        "one chunk only": _trusts_one_chunk,
        "takes forgetting for positions": _takes_forgetting_for_positions,
    },
    "predict_decoding": {
        "counts query heads": _predict("query heads"),
        "keys only": _predict("keys only"),
        "reads the embedding table": _predict("table"),
        "ignores the context": _predict("context"),
        "speed of one text": _predict("one text"),
    },
}
