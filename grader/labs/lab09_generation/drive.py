"""How each exercise of lab 09 is called. Runs beside the student's code: numpy and torch only."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

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
    results["logits left unchanged"] = logits
    greedy = impl(inputs["two_largest"].clone(), 0.0, 3, 0.9)
    results["temperature 0, two largest logits"] = greedy
    results["top-k with equal logits"] = impl(inputs["rounded"].clone(), 1.0, inputs["k"], None)
    equal = impl(inputs["equal"].clone(), 1.0, None, 0.5)
    results["top-p 0.5 of equal tokens, sorted"] = equal.sort(-1).values
    results["bfloat16 logits"] = impl(inputs["logits"].bfloat16(), 0.7, None, None)
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
        results[f"{name}: q, k and v left unchanged"] = [q, k, v]
        results[f"{name}: length afterwards"] = int(cache.length)
        results[f"{name}: output"] = output.detach()
        results[f"{name}: keys in the cache"] = cache.keys.clone()
        results[f"{name}: values in the cache"] = cache.values.clone()
    results.update(_refused(impl, chunks[0], cache))
    return results


def _refused(impl: Callable[..., Tensor], chunk: Arrays, cache: Cache) -> Arrays:
    refused = False
    try:
        impl(chunk["q"], chunk["k"], chunk["v"], cache)
    except ValueError:
        refused = True
    return {
        "no room raises ValueError": refused,
        "a refused chunk changes nothing: length": int(cache.length),
        "a refused chunk changes nothing: keys": cache.keys.clone(),
        "a refused chunk changes nothing: values": cache.values.clone(),
    }


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

    def __init__(self, case: Arrays) -> None:
        self.vocab_size = case["vocab_size"]
        self._full, self._cached = case["full"], case["cached"]

    def full(self, ids: Tensor) -> Tensor:
        """Logits (T, V) of all tokens at once."""
        return cast(Tensor, self._full(ids))

    def cached(self, chunks: Iterable[Tensor]) -> Tensor:
        """Logits (T, V) of tokens decoded chunk by chunk through a cache that is empty at first."""
        return cast(Tensor, self._cached(list(chunks)))


def diagnose(impl: Callable[..., Any], inputs: Arrays) -> Arrays:
    """Ask for the diagnosis of several decoders, whose functions are called where they are."""
    return {f"decoder {i + 1}": impl(Decoder(c)) for i, c in enumerate(inputs["cases"])}


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


class Continuations:
    """A model of few tokens, whose next one depends on the last and on the text's length."""

    def __init__(self, table: Tensor) -> None:
        self._table = table  # (max_new_tokens, V + 1, V); row V follows the prompt
        self.asked: list[list[list[int]]] = []

    def __call__(self, prefixes: Any) -> Tensor:
        """Log-probabilities (N, V), float64, of the token after each of N prefixes."""
        self.asked.append([[int(token) for token in prefix] for prefix in prefixes])
        length = {len(prefix) for prefix in self.asked[-1]}
        if len(length) != 1 or max(length) >= len(self._table):
            raise ValueError(
                f"expected prefixes of one length below {len(self._table)}, got {sorted(length)}"
            )
        last = [prefix[-1] if prefix else -1 for prefix in self.asked[-1]]
        return self._table[max(length), last]


def beam_search(impl: Callable[..., Any], inputs: Arrays) -> Arrays:
    """Search several models, and note which prefixes each was asked to go on from."""
    results: Arrays = {}
    for case in inputs["cases"]:
        model = Continuations(case["table"].clone())
        beams = list(impl(model, case["num_beams"], len(case["table"]), case["alpha"], case["eos"]))
        name = case["name"]
        results[f"{name}: best text"] = [int(token) for token in beams[0][0]]
        results[f"{name}: its score"] = float(beams[0][1])
        results[f"{name}: all texts"] = [[int(token) for token in ids] for ids, _ in beams]
        results[f"{name}: all scores"] = [float(score) for _, score in beams]
        results[f"{name}: prefixes asked for, sorted"] = [sorted(ask) for ask in model.asked]
    return results


DRIVES: dict[str, Callable[[Any, Arrays], Arrays]] = {
    "next_token_distribution": next_token_distribution,
    "draw": draw,
    "attend": attend,
    "until_stop": until_stop,
    "diagnose": diagnose,
    "predict_decoding": predict_decoding,
    "beam_search": beam_search,
}
