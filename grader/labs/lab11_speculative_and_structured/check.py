"""The checks of lab 11: data, expectations, points and hints. Runs outside the sandbox only."""

from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor

from grader.checks.core import Arrays, Lab
from grader.checks.exercise import every_kind, exercise, normal
from grader.checks.values import Tolerance
from grader.labs.lab11_speculative_and_structured import drive
from grader.labs.lab11_speculative_and_structured.hints import HINTS

FLOAT32 = Tolerance(rtol=1e-4, atol=1e-6, reason="float32 rounding of products of 6 numbers")
FLOAT64 = Tolerance(rtol=1e-9, atol=1e-13, reason="float64 rounding of sums of at most 30 terms")
FAULTS = (
    "healthy",
    "again_from_p",
    "absolute_residual",
    "accepts_if_larger",
    "bonus_from_draft",
)
BYTES = (0x22, 0x61, 0x62, 0xC3, 0xA9)


def _verify_case(
    rng: np.random.Generator, name: str, lengths: list[int], *, certain: bool = False
) -> Arrays:
    """Laws that are alike, proposals drawn from the draft's, rest of ragged rows left over."""
    B, k, V = len(lengths), max(lengths), int(rng.integers(11, 17))
    while True:
        scores = 2 * normal(rng, B, k + 1, V)
        p = scores.softmax(-1)
        q = (scores[:, :k] + normal(rng, B, k, V)).softmax(-1)
        drawn = torch.from_numpy(rng.random((B, k, 1))).double()
        proposed = (q.double().cumsum(-1) < drawn).sum(-1).clamp(max=V - 1)
        if certain:
            proposed = q.argmax(-1)
        u = torch.from_numpy(rng.random((B, k + 1)))
        case = {
            "name": name,
            "proposed": proposed,
            "p": p,
            "q": None if certain else q,
            "lengths": torch.tensor(lengths),
            "u": u,
        }
        if _clear(case) and _rich(case):
            return case


def _outcomes(case: Arrays) -> Iterator[tuple[int, float, Tensor, float]]:
    """Of each row: accepted, smallest distance of a test, cumulative law of the next token, u."""
    for row, length in enumerate(case["lengths"].tolist()):
        place, gap = 0, 1.0
        draft = torch.zeros_like(case["p"][row]).double()
        if case["q"] is None:
            draft[:-1].scatter_(1, case["proposed"][row, :, None], 1.0)
        else:
            draft[:-1] = case["q"][row]
        draft[length] = 0.0
        while place < length:
            x = case["proposed"][row, place]
            over = float(case["p"][row, place, x] - case["u"][row, place] * draft[place, x])
            gap = min(gap, abs(over))
            if over <= 0:
                break
            place += 1
        sums = (case["p"][row, place] - draft[place]).clamp(min=0).cumsum(0)
        yield place, gap, sums / sums[-1], float(case["u"][row, -1])


def _clear(case: Arrays) -> bool:
    """Whether rounding decides nothing."""
    return all(
        gap > 1e-5 and float((sums - u).abs().min()) > 1e-5 for _, gap, sums, u in _outcomes(case)
    )


def _rich(case: Arrays) -> bool:
    """Whether some row is rejected after an acceptance, some at once, some is accepted whole."""
    found = [
        (accepted, length)
        for (accepted, *_), length in zip(_outcomes(case), case["lengths"].tolist(), strict=True)
    ]
    return (
        any(0 < accepted < length for accepted, length in found)
        and any(accepted == 0 < length for accepted, length in found)
        and any(accepted == length > 1 for accepted, length in found)
    )


def _edge_case(rng: np.random.Generator) -> Arrays:
    """Dyadic laws, numbers on their borders: u = 0, u = p / q, and sums that u meets exactly."""
    p_row = torch.tensor([0, 0.25, 0.25, 0.5, 0, 0])
    q_row = torch.tensor([0.5, 0.25, 0, 0.125, 0.125, 0])
    bonus = torch.tensor([0, 0.5, 0, 0.25, 0.25, 0])
    order = torch.from_numpy(rng.permutation(6))
    place = {int(old): new for new, old in enumerate(order)}
    #        token, its u, u of the token after it
    rows = [
        (0, 0.0, 0.0), (0, 0.0, 0.4), (1, 0.999, 0.5), (3, 0.999, 0.75), (4, 0.0, 0.0),
        (0, 0.3, 0.999),
    ]  # fmt: skip
    return {
        "name": "u on a border",
        "proposed": torch.tensor([[place[token]] for token, *_ in rows]),
        "p": torch.stack([p_row[order], bonus[order]]).expand(len(rows), 2, 6).clone(),
        "q": q_row[order][None].expand(len(rows), 1, 6).clone(),
        "lengths": torch.ones(len(rows), dtype=torch.long),
        "u": torch.tensor([[first, after] for _, first, after in rows], dtype=torch.float64),
    }


def _verify_inputs(rng: np.random.Generator) -> Arrays:
    return {
        "cases": [
            _verify_case(rng, "three proposals a row", [3] * 9),
            _verify_case(rng, "ragged rows", [4, 1, 0, 4, 2, 3, 0, 4, 3, 2, 4, 1]),
            _verify_case(rng, "certain proposals", [3, 3, 1, 2, 3, 3, 0, 3, 3], certain=True),
            _edge_case(rng),
        ]
    }


def _far_from_sums(p: float, *logits: Tensor) -> bool:
    """Whether rounding cannot move a token across top_p."""
    sums = torch.cat(logits).double().softmax(-1).sort(-1, descending=True).values.cumsum(-1)
    return float((sums - p).abs().min()) > 3e-4


def _laws(logits: Tensor, temperature: float, top_p: float | None) -> Tensor:
    """The tempered distributions of the rows, cut to their nuclei."""
    if temperature == 0:
        return torch.nn.functional.one_hot(logits.argmax(-1), logits.shape[-1]).double()
    probs = (logits.double() / temperature).softmax(-1)
    ordered, tokens = probs.sort(-1, descending=True)
    kept = ordered.cumsum(-1) - ordered < (top_p or 1.0)
    probs = torch.zeros_like(probs).scatter(-1, tokens, ordered * kept)
    return probs / probs.sum(-1, keepdim=True)


def _best(case: Arrays) -> int | None:
    """The best number of proposals; None where rounding may decide between two."""
    settings = case["temperature"], case["top_p"]
    p, q = (_laws(case[name], *settings) for name in ("target_logits", "draft_logits"))
    at, speedups, expected = torch.zeros(len(p)).double(), [], 0.0
    at[case["start"]] = 1.0
    for k, cost in enumerate(case["pass_cost"]):
        expected += float(at.sum())
        speedups.append(expected / (cost + k * case["draft_cost"]))
        at = at @ torch.minimum(p, q)
    second, first = sorted(speedups)[-2:]
    return speedups.index(first) if first / second > 1 + 1e-3 else None


def _plan_case(
    rng: np.random.Generator,
    name: str,
    temperature: float,
    top_p: bool,
    costs: tuple[float, float],
    bests: tuple[int, ...] = (2, 3, 4),
) -> Arrays:
    """A draft that is good after some tokens and bad after others; one of the plans is best."""
    V, most = int(rng.integers(8, 12)), int(rng.integers(6, 9))
    slope, draft_cost = costs
    while True:
        target = 2 * normal(rng, V, V)
        worse = torch.from_numpy(rng.uniform(0.1, 2.0, (V, 1))).float()
        draft = target + worse * normal(rng, V, V)
        p = float(rng.uniform(0.6, 0.9)) if top_p else None
        heat = temperature or 1.0
        rises = slope * rng.uniform(0.5, 1.5, most)
        case = {
            "name": name,
            "target_logits": target,
            "draft_logits": draft,
            "start": int(rng.integers(V)),
            "temperature": temperature,
            "top_p": p,
            "pass_cost": [1.0, *(1 + np.cumsum(rises)).tolist()],
            "draft_cost": draft_cost * float(rng.uniform(0.8, 1.2)),
        }
        far = p is None or _far_from_sums(p, target / heat, draft / heat)
        if far and _best(case) in bests:
            return case


def _plan_inputs(rng: np.random.Generator) -> Arrays:
    warm = float(rng.uniform(0.6, 0.9))
    return {
        "cases": [
            _plan_case(rng, "temperature", warm, False, (0.05, 0.08)),
            _plan_case(rng, "temperature and top-p", 1.4, True, (0.05, 0.08)),
            _plan_case(rng, "steep passes", 1.0, False, (0.2, 0.01)),
            _plan_case(rng, "greedy", 0.0, True, (0.02, 0.05)),
            _plan_case(rng, "a dear draft", 1.0, True, (0.3, 0.9), bests=(0,)),
        ]
    }


def _guess_inputs(rng: np.random.Generator) -> Arrays:
    """Texts of few symbols with many repetitions; a vote with a tie; texts too short to guess."""
    cases = [{"ids": [5], "k": 3, "longest": 3}, {"ids": [1, 2, 3], "k": 2, "longest": 2}]
    a, b, c, d, e = (int(x) for x in rng.permutation(50)[:5])
    cases.append({"ids": [a, b, a, c, a, b, a, c, a, d, a], "k": 3, "longest": 1})  # b, c tie
    cases.append({"ids": [a, b, c, a, b, c, d, e, b, c, a, e, b, c], "k": 2, "longest": 3})
    for _ in range(12):
        size, symbols = int(rng.integers(4, 40)), int(rng.integers(2, 5))
        ids = rng.integers(10, 10 + symbols, size=size).tolist()
        cases.append({"ids": ids, "k": int(rng.integers(1, 7)), "longest": int(rng.integers(1, 5))})
    return {"cases": cases}


def _weights(rng: np.random.Generator, V: int, D: int) -> Arrays:
    return {
        "embedding": 1.5 * normal(rng, V, D).double(),
        "recurrent": 1.6 * normal(rng, D, D).double() / D**0.5,
        "head": normal(rng, V, D).double(),
    }


def _greedy(weights: Arrays, prompt: list[int], steps: int) -> list[int]:
    model, text, new = drive.Model(weights, len(prompt) + steps), [], list(prompt)
    for _ in range(steps):
        new = [int(model.read(new)[-1].argmax())]
        text += new
    return text


def _partly_right(
    rng: np.random.Generator, weights: Arrays, prompt: list[int], text: list[int]
) -> list[list[int]]:
    """For each length of the text some right guesses, a wrong one, and how the model goes on."""
    drafts, V = [], len(weights["embedding"])
    for place in range(len(text)):
        right = text[place : place + int(rng.integers(0, 5))]
        after = text[place + len(right)] if place + len(right) < len(text) else 0
        wrong = (after + int(rng.integers(1, V))) % V
        then = _greedy(weights, [*prompt, *text[:place], *right, wrong], 2)
        drafts.append([*right, wrong, *then] if rng.random() < 0.85 else [])
    return drafts


def _speculate_inputs(rng: np.random.Generator) -> Arrays:
    """One model; its text is worked out step by step, so that drafts can be right on purpose."""
    V, D, steps = 40, 14, 24
    while True:
        weights = _weights(rng, V, D)
        prompt = rng.integers(0, V, size=int(rng.integers(3, 7))).tolist()
        text = _greedy(weights, prompt, steps + 8)
        first = {token: place for place, token in reversed(list(enumerate(text)))}
        ends = [place for place in first.values() if place in (7, 8, 9, 12, 13)]
        absent = next(token for token in range(V) if token not in first)
        if len(set(text)) >= 14 and ends:
            break
    right = [text[place : place + 6] for place in range(len(text))]

    def case(name: str, k: int, budget: int, eos: int, drafts: list[list[int]]) -> Arrays:
        found = {"name": name, "prompt": prompt, "k": k, "budget": budget}
        return {**found, "eos": eos, "drafts": drafts}

    mixed, end = _partly_right(rng, weights, prompt, text), text[int(rng.choice(ends))]
    return {
        "weights": weights,
        "cases": [
            case("a draft with nothing to say", 3, 6, absent, []),
            case("drafts partly right", 4, steps, absent, mixed),
            case("drafts all right", 3, 16, absent, right),
            case("the end within an accepted run", 5, steps, end, right),
            case("the budget within an accepted run", 5, 9, absent, right),
            case("the first token is the end", 4, 8, text[0], right),
            case("a budget of one token", 4, 1, absent, right),
        ],
    }


def _automaton_case(rng: np.random.Generator) -> Arrays:
    """A random automaton and vocabulary on which every way to be careless shows."""
    while True:
        S, V = int(rng.integers(9, 13)), int(rng.integers(26, 33))
        step = torch.full((S, 256), -1)
        targets = torch.from_numpy(rng.integers(0, S, size=(S, len(BYTES))))
        edge = torch.from_numpy(rng.random((S, len(BYTES))) < 0.36)
        step[:, torch.tensor(BYTES)] = torch.where(edge, targets, -1)
        accepting = torch.zeros(S, dtype=torch.bool)
        accepting[torch.from_numpy(rng.choice(S, 2, replace=False))] = True
        words = {bytes(rng.choice(BYTES, int(rng.integers(1, 5))).tolist()) for _ in range(V)}
        singles = {bytes([byte]) for byte in rng.choice(BYTES, 2, replace=False).tolist()}
        longer = {word for word in words if len(word) > 1}
        tokens = [list(word) for word in sorted(longer | singles)] + [[], []]
        rng.shuffle(tokens)
        eos_id = [index for index, token in enumerate(tokens) if not token][int(rng.integers(2))]
        case = {"step": step, "accepting": accepting, "tokens": tokens, "eos_id": eos_id}
        if _telling(case):
            return case


def _telling(case: Arrays) -> bool:
    """Some token leads to a dead end; some to a state that only bytes which are no tokens leave."""
    step, accepting, eos = case["step"], case["accepting"], case["eos_id"]
    ends = torch.tensor(
        [[_read(step, state, token) for token in case["tokens"]] for state in range(len(step))]
    )
    by_tokens, by_bytes = _alive(ends, accepting), _alive(step, accepting)
    reached = ends[ends >= 0].unique()
    farther = _alive(ends, accepting, rounds=1)
    return bool(
        (~by_bytes[reached]).any()
        and (by_bytes[reached] & ~by_tokens[reached]).any()
        and (by_tokens[reached] & ~farther[reached]).any()
        and (ends[accepting] >= 0).any()
        and int(by_tokens.sum()) >= 4
        and eos >= 0
    )


def _read(step: Tensor, state: int, token: list[int]) -> int:
    if not token:
        return -1
    for byte in token:
        state = int(step[state, byte]) if state >= 0 else -1
    return state


def _alive(ends: Tensor, accepting: Tensor, rounds: int = 99) -> Tensor:
    """The states from which an accepting one can be reached."""
    alive = accepting.clone()
    for _ in range(min(rounds, len(accepting))):
        alive = accepting | ((ends >= 0) & alive[ends.clamp(min=0)]).any(1)
    return alive


def _mask_inputs(rng: np.random.Generator) -> Arrays:
    return {"cases": [_automaton_case(rng) for _ in range(3)]}


def _law_inputs(rng: np.random.Generator) -> Arrays:
    """States at several distances from the end, one of them without a way to it."""
    while True:
        S, V = int(rng.integers(6, 9)), int(rng.integers(9, 13))
        ends = torch.from_numpy(rng.integers(0, S, size=(S, V)))
        ends = torch.where(torch.from_numpy(rng.random((S, V)) < 0.3), ends, -1)
        eos_id = int(rng.integers(V))
        ends[:, eos_id] = -1
        accepting = torch.zeros(S, dtype=torch.bool)
        accepting[int(rng.integers(S))] = True
        alive = [int(_alive(ends, accepting, rounds).sum()) for rounds in (0, 1, 2, 99)]
        if alive[0] < alive[1] < alive[2] < S and alive[3] == S - 1:
            break
    return {
        "ends": ends,
        "accepting": accepting,
        "probs": (1.5 * normal(rng, S, V)).double().softmax(-1),
        "eos_id": eos_id,
        "budgets": [1, 2, 3, int(rng.integers(6, 11))],
    }


def _diagnose_inputs(rng: np.random.Generator) -> Arrays:
    faults = every_kind(rng, range(len(FAULTS)), more=4)
    return {"cases": [{"fault": f, "vocab_size": int(rng.integers(4, 9))} for f in faults]}


def _faults(inputs: Arrays) -> Arrays:
    """The faults that were planted."""
    return {f"verifier {i + 1}": FAULTS[case["fault"]] for i, case in enumerate(inputs["cases"])}


_check = partial(exercise, "lab11_speculative_and_structured", hints=HINTS)

LAB = Lab(
    name="lab11_speculative_and_structured",
    teaches=("labkit.inference.speculation", "labkit.inference.structured"),
    forbids=("transformers", "llguidance"),
    files=("envelope.json",),
    checks=(
        _check(
            "verify", 7, _verify_inputs,
            "which proposals were tested before the first rejection, and from which law at which "
            "place does the next token come?",
        ),
        _check(
            "plan_speculation", 5, _plan_inputs,
            "the i-th proposal is tested only where all before it were accepted: which tokens "
            "stand there, with what probability?",
            tolerance=FLOAT32,
        ),
        _check(
            "guess_by_vote", 3, _guess_inputs,
            "the longest suffix that was ever followed by something decides, by its commonest "
            "follower, the latest of equals.",
        ),
        _check(
            "speculate", 6, _speculate_inputs,
            "after every pass the cache holds the prompt and the text, but for the last token.",
        ),
        _check(
            "token_masks", 5, _mask_inputs,
            "a token may come if its bytes lead to a state from which tokens lead to the end.",
        ),
        _check(
            "laws_in_time", 5, _law_inputs,
            "with b tokens left, what must be possible once this token is written?",
            tolerance=FLOAT64,
        ),
        _check(
            "diagnose", 5, _diagnose_inputs,
            "choose p and q with zeros, so that a fault draws what a healthy verifier never can.",
            expect=_faults,
        ),
    ),
)  # fmt: skip
