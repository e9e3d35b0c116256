"""The checks of lab 09: data, expectations, points and hints. Runs outside the sandbox only."""

from functools import partial

import numpy as np
import torch
from torch import Tensor

from grader.checks.core import Arrays, Lab
from grader.checks.exercise import every_kind, exercise, normal
from grader.checks.values import Tolerance
from grader.labs.lab09_generation import hints

FLOAT32 = Tolerance(rtol=1e-4, atol=1e-6, reason="float32 rounding of sums of at most 60 terms")
FLOAT64 = Tolerance(rtol=1e-9, reason="float64 rounding")
FAULTS = ("healthy", "heads", "mask", "positions", "forgets")
STOPS = (("ab",), ("aab", "bba"), ("abab", "ba"), ("bb", "aabb"), ("baab",))


def _nucleus_sizes(probs: Tensor, p: float) -> Tensor:
    ordered = probs.sort(-1, descending=True).values
    return ((ordered.cumsum(-1) - ordered) < p).sum(-1)


def _clear_top_p(rng: np.random.Generator, probs: Tensor) -> float:
    """A top_p far from every row's cumulative sums, so that rounding cannot decide."""
    cumulative = probs.sort(-1, descending=True).values.cumsum(-1)
    while True:
        p = float(rng.uniform(0.4, 0.85))
        if (cumulative - p).abs().min() > 1e-3:
            return p


def _case(name: str, temperature: float, top_k: int | None, top_p: float | None) -> Arrays:
    return {"name": name, "temperature": temperature, "top_k": top_k, "top_p": top_p}


def _all_three(rng: np.random.Generator, logits: Tensor) -> Arrays:
    """Settings for which every other order of the three steps keeps other tokens."""
    while True:
        hot, k = float(rng.uniform(1.6, 2.4)), int(rng.integers(9, 14))
        tempered = (logits.double() / hot).softmax(-1)
        largest = tempered.topk(k).values
        cut = largest / largest.sum(-1, keepdim=True)
        p = _clear_top_p(rng, cut)
        right = _nucleus_sizes(cut, p)
        wrong = [_nucleus_sizes(tempered, p).clamp(max=k)]
        cold = logits.double().softmax(-1).topk(k).values
        wrong.append(_nucleus_sizes(cold / cold.sum(-1, keepdim=True), p))
        if all(bool((right != other).any()) for other in wrong):
            return _case("temperature, top-k and top-p together", hot, k, p)


def _distribution_inputs(rng: np.random.Generator) -> Arrays:
    V = int(rng.integers(37, 46))
    logits = normal(rng, 5, V) * 3
    hot = float(rng.uniform(1.3, 1.9))
    k, p = int(rng.integers(5, 9)), _clear_top_p(rng, logits.double().softmax(-1))
    two_largest, rounded = normal(rng, 3, V), (normal(rng, 3, V) * 1.5).round()
    for row in two_largest:
        row[torch.from_numpy(rng.choice(V, 2, replace=False))] = 9.0
    for row in rounded:  # three tokens share places k - 1 to k + 1
        ordered = torch.arange(V, 0, -1).float()
        ordered[k - 2 : k + 1] = ordered[k - 1].clone()
        row.copy_(ordered[torch.from_numpy(rng.permutation(V))] / 5)
    equal = torch.full((2, V), -torch.inf)
    for row in equal:
        row[torch.from_numpy(rng.choice(V, 8, replace=False))] = 1.5
    cases = [
        _case("temperature alone", hot, None, None),
        _case("top-k alone", 1.0, k, None),
        _case("top-k above the vocabulary's size", 1.0, V + 3, None),
        _case("top-p alone", 1.0, None, p),
        _case("a tiny top-p", 1.0, None, 1e-4),
        _all_three(rng, logits),
    ]
    arrays = {"logits": logits, "two_largest": two_largest, "rounded": rounded, "equal": equal}
    return {**arrays, "cases": cases, "k": k}


def _draw_case(name: str, probs: Tensor, u: list[float]) -> Arrays:
    return {"name": name, "probs": probs, "u": torch.tensor(u, dtype=torch.float64)}


def _draw_inputs(rng: np.random.Generator) -> Arrays:
    V = int(rng.integers(45, 59))
    probs = normal(rng, 7, V).mul(2).softmax(-1)
    weights = probs * torch.from_numpy(rng.uniform(0.2, 3.0, (7, 1)).astype(np.float32))
    edges = torch.zeros(3, V)
    edges[:, 4:7] = torch.tensor([0.25, 0.25, 0.5])
    tail = torch.full((2, 3001), 2.0**-26)
    tail[:, 0], tail[:, -1] = 0.5, 0.5 - 2999 * 2.0**-26
    deep = [0.5 + (int(rng.integers(9, 2900)) * 4 + 3) / 2 * 2.0**-27 for _ in range(2)]
    return {
        "cases": [
            _draw_case("random rows", probs, rng.uniform(size=7).tolist()),
            _draw_case("rows that do not sum to 1", weights, rng.uniform(size=7).tolist()),
            _draw_case("u = 0 before tokens of probability 0", edges, [0.0, 0.0, 0.0]),
            _draw_case("u on the border of two tokens", edges, [0.25, 0.5, 0.25]),
            _draw_case("u just below 1", edges, [1 - 2.0**-24] * 3),
            _draw_case("3001 tokens, most of them very unlikely", tail, deep),
        ]
    }


def _attend_inputs(rng: np.random.Generator) -> Arrays:
    B, G, K = 2, int(rng.integers(2, 4)), int(rng.choice([6, 10]))
    H = 3 * G if G == 2 else 2 * G
    lengths = [int(rng.integers(4, 7)), 1, 3, 1]
    chunks = [
        {
            "q": normal(rng, B, H, T, K),
            "k": normal(rng, B, G, T, K),
            "v": normal(rng, B, G, T, K),
        }
        for T in lengths
    ]
    return {"chunks": chunks, "max_length": sum(lengths) + 2}


def _pieces(rng: np.random.Generator, text: str) -> list[str]:
    pieces = []
    while text:
        n = int(rng.integers(0, 4))
        pieces.append(text[:n])
        text = text[n:]
    return pieces


def _stop_inputs(rng: np.random.Generator) -> Arrays:
    word = "".join(rng.choice(list("klm"), 4))
    cases: list[Arrays] = [
        {"pieces": [word, "<", "|e", "nd", "|>", word], "stops": ["<|end|>"]},
        {"pieces": [word, " <|e", "n", word], "stops": ["<|end|>"]},
        {"pieces": [word, "\n", "Q"], "stops": ["\n\nQ", "\nQ:"]},
        {"pieces": [word, ". Stop! And"], "stops": ["And", "Stop"]},
        {"pieces": [word, "", word], "stops": []},
    ]
    for _ in range(12):
        text = "".join(rng.choice(list("abc"), int(rng.integers(7, 19)), p=[0.45, 0.45, 0.1]))
        stops = list(STOPS[int(rng.integers(len(STOPS)))])
        cases.append({"pieces": _pieces(rng, text), "stops": stops})
    return {"cases": cases}


def _decoder_case(rng: np.random.Generator, fault: str) -> Arrays:
    V, D, G, K = int(rng.integers(19, 27)), int(rng.integers(13, 16)), 2, 6
    H = 3 * G
    scale = 1.5 / D**0.5
    return {
        "fault": fault,
        "num_heads": H,
        "num_kv_heads": G,
        "head_width": K,
        "embedding": normal(rng, V, D),
        "q_proj": scale * normal(rng, H * K, D),
        "k_proj": scale * normal(rng, G * K, D),
        "v_proj": scale * normal(rng, G * K, D),
        "o_proj": normal(rng, D, H * K) / 6,
        "head": normal(rng, V, D),
    }


def _diagnose_inputs(rng: np.random.Generator) -> Arrays:
    faults = every_kind(rng, FAULTS, more=4)
    return {"cases": [_decoder_case(rng, fault) for fault in faults]}


def _faults(inputs: Arrays) -> Arrays:
    """The faults that were planted."""
    return {f"decoder {i + 1}": case["fault"] for i, case in enumerate(inputs["cases"])}


def _predict_case(rng: np.random.Generator, name: str, tied: bool, batch_size: int) -> Arrays:
    G, K = int(rng.integers(2, 5)), 2 * int(rng.integers(20, 41))
    config = {
        "vocab_size": int(rng.integers(20_000, 60_000)),
        "width": int(rng.integers(300, 900)),
        "num_layers": int(rng.integers(11, 31)),
        "num_heads": 3 * G,
        "num_kv_heads": G,
        "head_width": K,
        "ffn_width": int(rng.integers(1000, 3000)),
        "tie_embeddings": tied,
    }
    return {
        "name": name,
        "config": config,
        "bytes_per_number": int(rng.choice([2, 4])),
        "context": int(rng.integers(300, 3000)),
        "batch_size": batch_size,
        "bandwidth": float(rng.uniform(5e9, 3e12)),
    }


def _predict_inputs(rng: np.random.Generator) -> Arrays:
    return {
        "cases": [
            _predict_case(rng, "one text, tied embedding", tied=True, batch_size=1),
            _predict_case(rng, "a batch, tied embedding", tied=True, batch_size=7),
            _predict_case(rng, "a batch, head apart from the embedding", tied=False, batch_size=3),
        ]
    }


def _beam_case(
    rng: np.random.Generator, name: str, num_beams: int, alpha: float, ends: float
) -> Arrays:
    """A model that ends a text with about the same odds, whatever it wrote; `ends` shifts them."""
    V, longest = int(rng.integers(7, 11)), int(rng.integers(6, 9))
    eos = int(rng.integers(V))
    logits = 1.5 * torch.from_numpy(rng.standard_normal((longest, V + 1, V)))
    logits[:, :, eos] += ends
    table = logits.log_softmax(-1)
    return {"name": name, "table": table, "num_beams": num_beams, "alpha": alpha, "eos": eos}


def _beam_inputs(rng: np.random.Generator) -> Arrays:
    return {
        "cases": [
            _beam_case(rng, "2 beams, the likeliest text", 2, 0.0, ends=0.0),
            _beam_case(rng, "3 beams, length_penalty 1", 3, 1.0, ends=0.5),
            _beam_case(rng, "4 beams, length_penalty 0.6", 4, 0.6, ends=1.0),
            _beam_case(rng, "2 beams, length_penalty 1.5", 2, 1.5, ends=2.0),
            _beam_case(rng, "3 beams, most texts are cut", 3, 0.8, ends=-3.0),
            _beam_case(rng, "5 beams, likely to end", 5, 0.3, ends=2.0),
        ]
    }


_check = partial(exercise, "lab09_generation", hints=hints.HINTS)

LAB = Lab(
    name="lab09_generation",
    teaches=("labkit.inference", "labkit.model.cache"),
    forbids=("transformers",),
    files=("envelope.json",),
    checks=(
        _check(
            "next_token_distribution", 7, _distribution_inputs,
            "each step works on what the one before it left; which token crosses top_p?",
            tolerance=FLOAT32,
        ),
        _check(
            "draw", 5, _draw_inputs,
            "the first token whose cumulative sum exceeds u, the sums in float64.",
        ),
        _check(
            "attend", 7, _attend_inputs,
            "query t of the chunk stands at position length + t; which keys come before it?",
            tolerance=FLOAT32,
        ),
        _check(
            "until_stop", 5, _stop_inputs,
            "text is final unless its end may still grow into a stop string.",
        ),
        _check(
            "diagnose", 6, _diagnose_inputs,
            "chunk the same tokens in several ways, and see what an earlier token still changes.",
            expect=_faults,
        ),
        _check(
            "predict_decoding", 5, _predict_inputs,
            "what is read once a step, and what once for each text of the batch?",
            tolerance=FLOAT64,
        ),
        _check(
            "beam_search", 5, _beam_inputs,
            "what goes on is ranked by its sum, what has ended by its score.",
            tolerance=FLOAT64,
        ),
    ),
)  # fmt: skip
