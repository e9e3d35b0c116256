"""How each exercise of lab 09 is called. Runs beside the student's code: numpy and torch only."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

Arrays = dict[str, Any]
GARBAGE = 50.0


def next_token_distribution(impl: Callable[..., Tensor], inputs: Arrays) -> Arrays:
    """Call with each setting; ties are reported as sorted probabilities, since either may stay."""
    logits = inputs["logits"].clone()
    results: Arrays = {}
    for case in inputs["cases"]:
        results[case["name"]] = impl(logits, case["temperature"], case["top_k"], case["top_p"])
    results = {"logits left unchanged": torch.equal(logits, inputs["logits"]), **results}
    greedy = impl(inputs["two_largest"].clone(), 0.0, 3, 0.9)
    results["temperature 0, two largest logits"] = greedy
    results["top-k with equal logits"] = impl(inputs["rounded"].clone(), 1.0, inputs["k"], None)
    equal = impl(inputs["equal"].clone(), 1.0, None, 0.5)
    results["top-p 0.5 of equal tokens, sorted"] = equal.sort(-1).values
    low = impl(inputs["logits"].bfloat16(), 0.7, None, None)
    results["bfloat16 logits give float32"] = str(low.dtype) == "torch.float32"
    return results


def draw(impl: Callable[..., Tensor], inputs: Arrays) -> Arrays:
    """Draw from random rows and from rows made to hit each edge."""
    return {
        case["name"]: impl(case["probs"].clone(), case["u"].clone()) for case in inputs["cases"]
    }


@dataclass
class Cache:
    """One layer's keys and values (B, G, S_max, K); the first `length` rows are filled."""

    keys: Tensor
    values: Tensor
    length: int = 0


def empty_cache(B: int, G: int, S_max: int, K: int) -> Cache:
    """A buffer whose unused rows hold numbers that must never be seen."""
    return Cache(torch.full((B, G, S_max, K), GARBAGE), torch.full((B, G, S_max, K), -GARBAGE))


def attend(impl: Callable[..., Tensor], inputs: Arrays) -> Arrays:
    """Feed chunks of several lengths, then one too many."""
    chunks = inputs["chunks"]
    B, G, _, K = chunks[0]["k"].shape
    cache = empty_cache(B, G, inputs["max_length"], K)
    results: Arrays = {}
    past = 0
    for index, chunk in enumerate(chunks):
        q, k, v = (chunk[name].clone() for name in "qkv")
        name = f"chunk {index + 1}, T={q.shape[2]} after {past} tokens"
        output = impl(q, k, v, cache)
        past += q.shape[2]
        same = all(torch.equal(a, chunk[b]) for a, b in zip((q, k, v), "qkv", strict=True))
        results[f"{name}: q, k and v left unchanged"] = same
        results[f"{name}: length afterwards"] = int(cache.length)
        results[f"{name}: output"] = output.detach()
        results[f"{name}: keys in the cache"] = cache.keys.clone()
        results[f"{name}: values in the cache"] = cache.values.clone()
    results.update(_refused(impl, chunks[0], cache))
    return results


def _refused(impl: Callable[..., Tensor], chunk: Arrays, cache: Cache) -> Arrays:
    keys, length, refused = cache.keys.clone(), cache.length, False
    try:
        impl(chunk["q"], chunk["k"], chunk["v"], cache)
    except ValueError:
        refused = True
    unchanged = torch.equal(keys, cache.keys) and cache.length == length
    return {"no room raises ValueError": refused, "a refused chunk changes nothing": unchanged}


def until_stop(impl: Callable[..., Iterable[str]], inputs: Arrays) -> Arrays:
    """Consume the stream and note what had been shown each time another piece was asked for."""
    results: Arrays = {}
    for index, case in enumerate(inputs["cases"]):
        shown: list[str] = []
        moments: list[str] = []
        stops = tuple(case["stops"])
        for text in impl(_watched(case["pieces"], shown, moments), stops):
            shown.append(text)
        name = f"stream {index + 1} {case['pieces']} with stops {list(stops)}"
        results[f"{name}: whole text"] = "".join(shown)
        results[f"{name}: pieces taken"] = len(moments)
        results[f"{name}: text shown before each next piece"] = moments
    return results


def _watched(pieces: list[str], shown: list[str], moments: list[str]) -> Iterator[str]:
    for piece in pieces:
        moments.append("".join(shown))
        yield piece


class Decoder:
    """A one-layer model that can read all tokens at once or decode them in chunks."""

    def __init__(
        self,
        vocab_size: int,
        full: Callable[[Tensor], Tensor],
        cached: Callable[[list[Tensor]], Tensor],
    ) -> None:
        self.vocab_size = vocab_size
        self.full = full
        self.cached = cached


def make_decoder(case: Arrays) -> Decoder:
    """The decoder of one case, with the fault it names in `cached` and none in `full`."""
    full = {**case, "fault": "healthy"}
    return Decoder(
        case["embedding"].shape[0],
        lambda ids: _decode(full, [ids]),
        lambda chunks: _decode(case, chunks),
    )


def _decode(case: Arrays, chunks: list[Tensor]) -> Tensor:
    G, fault = case["num_kv_heads"], case["fault"]
    H, K = case["num_heads"], case["head_width"]
    keys, values = torch.zeros(G, 0, K), torch.zeros(G, 0, K)
    logits, past = [], 0
    for ids in chunks:
        T = len(ids)
        x = case["embedding"][ids]
        start = 0 if fault == "positions" else past
        positions = torch.arange(start, start + T)
        q, k, v = (_heads(x, case[name], K) for name in ("q_proj", "k_proj", "v_proj"))
        q, k = _rotate(q, positions), _rotate(k, positions)
        if fault == "forgets":
            keys, values = keys[:, :0], values[:, :0]
        keys, values = torch.cat([keys, k], dim=1), torch.cat([values, v], dim=1)
        y = _attention(q, keys, values, H // G, fault)
        logits.append((x + y.transpose(0, 1).reshape(T, H * K) @ case["o_proj"].T) @ case["head"].T)
        past += T
    return torch.cat(logits)


def _heads(x: Tensor, weight: Tensor, K: int) -> Tensor:
    return (x @ weight.T).view(len(x), -1, K).transpose(0, 1)


def _rotate(x: Tensor, positions: Tensor) -> Tensor:
    K = x.shape[-1]
    angles = positions[:, None] / 100.0 ** (torch.arange(0, K, 2) / K)
    first, second = x.chunk(2, dim=-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def _attention(q: Tensor, keys: Tensor, values: Tensor, group: int, fault: str) -> Tensor:
    T, S = q.shape[1], keys.shape[1]
    if fault == "heads":
        k, v = keys.repeat(group, 1, 1), values.repeat(group, 1, 1)
    else:
        k, v = keys.repeat_interleave(group, dim=0), values.repeat_interleave(group, dim=0)
    scores = q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])
    if T > 1:
        seen = torch.ones(T, S).tril(0 if fault == "mask" else S - T).bool()
        scores = scores.masked_fill(~seen, -math.inf)
    return scores.softmax(-1) @ v


def diagnose(impl: Callable[..., Any], inputs: Arrays) -> Arrays:
    """Ask for the diagnosis of several decoders."""
    return {f"decoder {i + 1}": impl(make_decoder(c)) for i, c in enumerate(inputs["cases"])}


def predict_decoding(impl: Callable[..., Any], inputs: Arrays) -> Arrays:
    """Predict for several models."""
    results: Arrays = {}
    for case in inputs["cases"]:
        config = SimpleNamespace(**case["config"])
        numbers = case["bytes_per_number"], case["context"], case["batch_size"], case["bandwidth"]
        kv_bytes, step_bytes, tokens_per_s = impl(config, *numbers)
        results[f"{case['name']}: KV bytes of a token"] = kv_bytes
        results[f"{case['name']}: bytes read in a step"] = step_bytes
        results[f"{case['name']}: tokens a second"] = tokens_per_s
    return results


DRIVES: dict[str, Callable[[Any, Arrays], Arrays]] = {
    "next_token_distribution": next_token_distribution,
    "draw": draw,
    "attend": attend,
    "until_stop": until_stop,
    "diagnose": diagnose,
    "predict_decoding": predict_decoding,
}
