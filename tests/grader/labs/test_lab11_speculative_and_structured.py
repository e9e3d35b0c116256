"""Lab 11: its expectations against brute force and labkit, other right ways pass, faults differ."""

import itertools
import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from grader.checks.core import HIDDEN_SEEDS, PUBLIC_SEED, load_lab, run_check, verdicts
from grader.course import Course
from grader.labs.lab11_speculative_and_structured import check, drive, outside, recipe, reference
from labkit.inference.speculation import rejection
from labkit.inference.structured.automaton import Automaton
from labkit.inference.structured.closing import Completions
from labkit.inference.structured.expression import Grammar
from labkit.inference.structured.masks import TokenMasks
from labkit.inference.structured.regex import parse_regex
from labkit.inference.structured.trie import TokenTrie

LAB = load_lab("lab11_speculative_and_structured")
SEEDS = (PUBLIC_SEED, *HIDDEN_SEEDS, *range(8))


def verify_row_by_row(
    proposed: Tensor, p: Tensor, q: Tensor | None, lengths: Tensor, u: Tensor
) -> tuple[Tensor, Tensor]:
    found = []
    for b in range(len(proposed)):
        law, i = p[b, 0].double(), 0
        while i < lengths[b]:
            x = int(proposed[b, i])
            drawn = torch.eye(p.shape[2])[x] if q is None else q[b, i]
            law = p[b, i + 1].double()
            if u[b, i] >= p[b, i, x].double() / drawn[x].double():
                law = torch.relu(p[b, i].double() - drawn.double())
                break
            i += 1
        sums = (law.cumsum(0) / law.sum()).numpy()
        found.append((i, int(np.searchsorted(sums, float(u[b, -1]), side="right"))))
    accepted, tokens = torch.tensor(found).T
    return accepted.clone(), tokens.clone()


def expected_by_paths(p: Tensor, q: Tensor, start: int, most: int) -> list[float]:
    """Every run of proposals: its probability to be drawn, times that of all to be accepted."""
    expected = [1.0]
    for k in range(1, most + 1):
        total = 0.0
        for path in itertools.product(range(len(p)), repeat=k):
            at, chance = start, 1.0
            for x in path:
                drawn = float(q[at, x])
                chance *= drawn * min(1.0, float(p[at, x]) / drawn) if drawn else 0.0
                at = x
            total += chance
        expected.append(expected[-1] + total)
    return expected


def votes_by_table(ids: list[int], k: int, longest: int) -> list[int]:
    text = list(ids)
    for _ in range(k):
        best: dict[int, tuple[int, int, int]] = {}
        for n in range(1, min(longest, len(text) - 1) + 1):
            for end in range(n, len(text)):
                if text[end - n : end] == text[-n:]:
                    seen = best.get(text[end], (0, 0, 0))
                    count = seen[1] + 1 if seen[0] == n else 1
                    best[text[end]] = (n, count, end)
        if not best:
            break
        top = max(n for n, *_ in best.values())
        text.append(max((rest, token) for token, (n, *rest) in best.items() if n == top)[1])
    return text[len(ids) :]


def masks_by_search(
    step: Tensor, accepting: Tensor, tokens: list[bytes], eos_id: int
) -> tuple[Tensor, Tensor]:
    """Each state walks forward by tokens until it meets an accepting state or nothing new."""
    S, V = len(step), len(tokens)
    ends = torch.full((S, V), -1)
    for s, v in itertools.product(range(S), range(V)):
        at = s
        for byte in tokens[v]:
            at = int(step[at, byte]) if at >= 0 else -1
        ends[s, v] = at if tokens[v] else -1

    def completes(state: int) -> bool:
        seen, todo = {state}, [state]
        while todo:
            at = todo.pop()
            if accepting[at]:
                return True
            fresh = {int(end) for end in ends[at] if end >= 0} - seen
            seen |= fresh
            todo += sorted(fresh)
        return False

    alive = [completes(s) for s in range(S)] + [False]
    allowed = torch.tensor([[alive[int(end)] for end in row] for row in ends])
    allowed[:, eos_id] = accepting
    return ends, allowed


@pytest.mark.parametrize(
    ("name", "impl"),
    [
        ("verify", verify_row_by_row),
        ("guess_by_vote", votes_by_table),
        ("token_masks", masks_by_search),
    ],
)
def test_other_right_ways_pass(name: str, impl: Callable[..., Any]) -> None:
    assert verdicts(LAB.check(name), impl, SEEDS).message == ""


@pytest.mark.parametrize("seed", SEEDS)
def test_verification_is_labkits_for_the_same_uniform_numbers(seed: int) -> None:
    for case in LAB.check("verify").inputs(np.random.default_rng(seed))["cases"]:
        given = [case[name] for name in ("proposed", "p", "q")]
        B, k = case["proposed"].shape
        gen, again = (torch.Generator().manual_seed(seed) for _ in range(2))
        found = rejection.verify(*given, gen, lengths=case["lengths"])
        tests = torch.rand(B, k, generator=again, dtype=torch.float64)
        draws = [torch.rand(1, generator=again, dtype=torch.float64) for _ in range(B)]
        u = torch.cat([tests, torch.stack(draws)], dim=1)
        accepted, tokens = reference.verify(*given, case["lengths"], u)
        assert torch.equal(accepted, found.accepted)
        assert torch.equal(tokens, found.next_token)


@pytest.mark.parametrize("seed", SEEDS)
def test_every_batch_has_each_outcome_and_rounding_decides_nothing(seed: int) -> None:
    cases = LAB.check("verify").inputs(np.random.default_rng(seed))["cases"]
    for case in cases[:3]:
        accepted, _ = reference.verify(*(case[name] for name in drive.LAWS))
        kept, lengths = accepted.tolist(), case["lengths"].tolist()
        pairs = list(zip(kept, lengths, strict=True))
        assert any(0 < a < n for a, n in pairs)
        assert any(a == n > 1 for a, n in pairs)
        near = {**case, "u": (case["u"] + 5e-6).clamp(max=1 - 1e-9)}
        moved, _ = reference.verify(*(near[name] for name in drive.LAWS))
        assert torch.equal(moved, accepted)
    assert 0 in cases[1]["lengths"].tolist()
    assert cases[2]["q"] is None


@pytest.mark.parametrize("seed", SEEDS)
def test_expected_tokens_are_those_of_all_paths(seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits = [torch.from_numpy(2 * rng.standard_normal((3, 3))).float() for _ in range(2)]
    found, _, _ = reference.plan_speculation(*logits, 1, 0.8, None, [1.0] * 5, 0.0)
    p, q = ((z.double() / 0.8).softmax(-1) for z in logits)
    assert found.tolist() == pytest.approx(expected_by_paths(p, q, 1, 4), rel=1e-5)


def test_equal_acceptance_everywhere_gives_the_lectures_formula() -> None:
    p, q = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.2, 0.2, 0.6])
    logits = [law.log().expand(3, 3) for law in (p, q)]
    costs = [1.0, 1.1, 1.2, 1.3, 1.4]
    found, best, speedup = reference.plan_speculation(*logits, 0, 1.0, None, costs, 0.1)
    a = float(rejection.acceptance_rate(p[None], q[None])[0])
    assert found.tolist() == pytest.approx([rejection.expected_tokens(a, k) for k in range(5)])
    rates = [rejection.speedup(a, k, cost=0.2) for k in range(5)]
    assert (best, speedup) == (rates.index(max(rates)), pytest.approx(max(rates)))


@pytest.mark.parametrize("seed", SEEDS)
def test_the_best_plan_is_clear_and_not_at_the_end_of_the_list(seed: int) -> None:
    for case in LAB.check("plan_speculation").inputs(np.random.default_rng(seed))["cases"]:
        logits = case["target_logits"], case["draft_logits"]
        found = reference.plan_speculation(*logits, *(case[name] for name in drive.PLAN))
        assert found[1] == check._best(case) < len(case["pass_cost"]) - 1
        assert (found[1] == 0) == (case["name"] == "a dear draft")


def plain(model: Any, draft: Any, prompt: list[int], k: int, budget: int, eos: int) -> list[int]:
    text = [int(model.read(prompt)[-1].argmax())]
    while len(text) < budget and text[-1] != eos:
        text.append(int(model.read(text[-1:])[-1].argmax()))
    return text


@pytest.mark.parametrize("seed", SEEDS)
def test_speculation_is_plain_decoding_and_takes_fewer_passes(seed: int) -> None:
    exercise = LAB.check("speculate")
    inputs = exercise.inputs(np.random.default_rng(seed))
    mine, slow = exercise.expected(inputs), drive.speculate(plain, inputs)
    texts = [key for key in mine if key.endswith(": text")]
    assert len(texts) == 7
    for key in texts:
        assert torch.equal(mine[key], slow[key])
    passes = [key for key in mine if key.endswith("each pass read")]
    fewer = [len(mine[key]) < len(slow[key]) for key in passes]
    assert fewer == [False, True, True, True, True, False, False]
    assert not run_check(exercise, plain, seed).ok


@pytest.mark.parametrize("seed", SEEDS)
def test_the_end_and_the_budget_come_within_a_run(seed: int) -> None:
    exercise = LAB.check("speculate")
    found = exercise.expected(exercise.inputs(np.random.default_rng(seed)))
    for name in ("the end within an accepted run", "the budget within an accepted run"):
        before = found[f"{name}: tokens in the cache before each pass"]
        read = found[f"{name}: tokens that each pass read"]
        left = found[f"{name}: tokens in the cache at the end"]
        assert left <= before[-1] + len(read[-1])
    assert found[f"{name}: what the draft was asked (tokens so far, most guesses)"][-1][1] < 5


@pytest.mark.parametrize("pattern", [r"\d+(\.\d\d)?", r"(naïve|façade)+", r"(a|b){2,4}c?"])
def test_masks_and_shortest_ends_are_labkits(pattern: str) -> None:
    """With every byte a token, dead ends of bytes and of tokens are the same.

    labkit's count of tokens to the end is a bound; within it, it allows nothing that is too late.
    """
    longer: list[bytes | None] = [b"12", b".5", b"ab", b"b.", "ç".encode(), "naï".encode(), b"cc"]
    tokens: list[bytes | None] = [*(bytes([b]) for b in range(256)), *longer, None]
    eos_id = len(tokens) - 1
    trie = TokenTrie(tokens)
    automaton = Automaton(Grammar({"text": parse_regex(pattern)}, "text"), trie.spellable)
    masks, state = TokenMasks(trie, automaton, eos_id), 1
    while state < len(automaton):
        automaton.row(state)
        state += 1
    S = len(automaton) - 1
    step = torch.from_numpy(automaton.table[1 : S + 1].astype(np.int64)) - 1
    accepting = torch.tensor([automaton.accepting(s + 1) for s in range(S)])
    given = step, accepting, [token or b"" for token in tokens], eos_id
    ends, allowed = reference.token_masks(*given)
    theirs = torch.stack([masks.allowed(s + 1) for s in range(S)])
    assert torch.equal(allowed, theirs)

    uniform = torch.full((S, len(tokens)), 1 / len(tokens), dtype=torch.float64)
    completions = Completions(masks)
    for budget in (1, 2, 3, 5, 9):
        finish, masked, _ = reference.laws_in_time(ends, accepting, uniform, eos_id, budget)
        for s in range(S):
            if completions.tokens(s + 1) + 1 <= budget:
                assert finish[s] > 0
                within = completions.allowed(s + 1, budget)
                assert not bool((within & (masked[s] == 0)).any())


@pytest.mark.parametrize("seed", SEEDS)
def test_laws_in_time_are_those_of_all_texts(seed: int) -> None:
    inputs = LAB.check("laws_in_time").inputs(np.random.default_rng(seed))
    ends, accepting, probs, eos = (inputs[n] for n in ("ends", "accepting", "probs", "eos_id"))
    S, V = ends.shape

    def valid(state: int, left: int) -> list[tuple[int, float]]:
        """First token and probability of each valid text of at most `left` tokens."""
        found = [(eos, float(probs[state, eos]))] if left and accepting[state] else []
        for v in range(V) if left > 1 else ():
            if ends[state, v] >= 0:
                rest = math.fsum(chance for _, chance in valid(int(ends[state, v]), left - 1))
                found += [(v, float(probs[state, v]) * rest)] if rest else []
        return found

    finish, masked, conditional = reference.laws_in_time(ends, accepting, probs, eos, 4)
    for s in range(S):
        texts = dict(valid(s, 4))
        total = math.fsum(texts.values())
        assert float(finish[s]) == pytest.approx(total)
        assert set(masked[s].nonzero().flatten().tolist()) == set(texts)
        for v, chance in texts.items():
            assert float(conditional[s, v]) == pytest.approx(chance / total)
    sums = torch.stack([masked.sum(1), conditional.sum(1)])
    torch.testing.assert_close(sums, (finish > 0).double().expand(2, S))


def verifiers(vocab_size: int) -> list[Callable[..., Tensor]]:
    """The verifiers of all faults, in their order."""
    cases = [{"fault": fault, "vocab_size": vocab_size} for fault in range(5)]
    return [case["verifier"] for case in outside.verifiers({"cases": cases})["cases"]]


@pytest.mark.parametrize("vocab_size", [4, 6, 8])
def test_every_fault_can_be_told(vocab_size: int) -> None:
    names = [reference.diagnose(verifier, vocab_size) for verifier in verifiers(vocab_size)]
    assert names == list(check.FAULTS)


def test_only_the_healthy_verifier_writes_with_the_targets_law(gen: torch.Generator) -> None:
    """The first token, of 20,000 texts: a proposal or what replaced it, and the bonus after it."""
    V, rows = 4, 2_000
    p = torch.tensor([[0.4, 0.3, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4]])
    q = torch.tensor([[0.1, 0.4, 0.4, 0.1]])
    right = []
    for verifier in verifiers(V):
        seen, after = torch.zeros(V), torch.zeros(V)
        for seed in range(10):
            proposed = torch.multinomial(q[0], rows, True, generator=gen)[:, None]
            accepted, token = verifier(proposed, p, q, seed).unbind(1)
            first = torch.where(accepted == 1, proposed[:, 0], token)
            seen += torch.bincount(first, minlength=V)
            after += torch.bincount(token[accepted == 1], minlength=V)
        far = (seen / seen.sum() - p[0]).abs().max(), (after / after.sum() - p[1]).abs().max()
        right.append(bool(max(far) < 0.02))
    assert right == [True, False, False, False, False]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"p": torch.full((1, 4), 0.25)}, "expected shapes"),
        ({"p": torch.zeros(2, 4)}, "must be a distribution"),
        ({"proposed": torch.tensor([[4]])}, "from 0 to 3"),
        ({"q": torch.tensor([[0.0, 0.5, 0.5, 0.0]])}, "not drawn from it"),
        ({"p": torch.tensor([[1.5, -0.5, 0, 0], [1, 0, 0, 0.0]])}, "negative"),
        ({"seed": 1.5}, "seed must be an int"),
        ({"proposed": torch.tensor([0])}, "expected tensors"),
    ],
)
def test_a_verifier_says_what_it_cannot_take(change: dict[str, Any], message: str) -> None:
    given = {"proposed": torch.tensor([[0]]), "p": torch.full((2, 4), 0.25)}
    given |= {"q": torch.full((1, 4), 0.25), "seed": 0} | change
    with pytest.raises(ValueError, match=message):
        verifiers(4)[0](*given.values())


def test_bare_results_are_answered_with_their_names() -> None:
    verdict = run_check(LAB.check("verify"), lambda proposed, *_: proposed, PUBLIC_SEED)
    assert "(accepted, tokens)" in verdict.message
    verdict = run_check(LAB.check("guess_by_vote"), lambda *_: None, PUBLIC_SEED)
    assert "expected a list of int" in verdict.message


def test_a_replay_takes_the_passes_of_the_model_itself() -> None:
    inputs = LAB.check("speculate").inputs(np.random.default_rng(3))
    weights, case = inputs["weights"], inputs["cases"][1]
    prompt, budget = case["prompt"], case["budget"]
    drafts = [drive._draft(case, []) for _ in range(2)]
    model = drive.Model(weights, len(prompt) + budget)
    text = reference.speculate(model, drafts[0], prompt, 4, budget, -1)
    replay = recipe.Replay(prompt, text)
    assert reference.speculate(replay, drafts[1], prompt, 4, budget, -1) == text
    assert replay.passes == len(model.read_so_far) < budget
    assert replay.length == len(prompt) + budget - 1
    fixed = recipe.tokens_a_pass(reference.speculate, lambda ids, k: [], [(prompt, text)], 4)
    assert fixed == 1.0
    with pytest.raises(ValueError, match="is not the model's"):
        recipe.tokens_a_pass(lambda *_: [0], drafts[0], [(prompt, text)], 4)


def test_the_automaton_of_numbers_accepts_what_it_says() -> None:
    step, accepting = recipe.population()
    for text, right in {
        "7": True, "42": True, "545,000": True, "10,300,000": True, "1234": False, "0": False,
        "": False, "5,": False, "5,00": False, "5,0000": False, ",500": False,
    }.items():  # fmt: skip
        state = 0
        for byte in text.encode():
            state = int(step[state, byte]) if state >= 0 else -1
        assert (state >= 0 and bool(accepting[state])) == right, text


def test_the_envelope_is_the_recipes(real_course: Course) -> None:
    beside = real_course.source(LAB.name).with_name("envelope.json")
    envelope = json.loads(beside.read_text(encoding="utf-8"))
    assert tuple(envelope["guesses"]) == recipe.GUESSES
    assert set(envelope["texts"]) == set(envelope["runs"]) == set(recipe.TASKS)
    runs = {task: np.array(rows) for task, rows in envelope["runs"].items()}
    for task, rows in runs.items():
        assert rows.shape == (len(envelope["implementations"]), len(recipe.GUESSES))
        written = envelope["texts"][task]
        assert max(len(text) for _, text in written) <= recipe.NEW_TOKENS
        again = recipe.curve(
            reference.speculate, lambda ids, k: recipe.latest(2, ids, k), written, (1, 4)
        )
        places = [recipe.GUESSES.index(k) for k in (1, 4)]
        stored = rows[envelope["implementations"].index("latest, longest 2")][places]
        assert again == pytest.approx(stored.tolist(), abs=1e-3)
    assert (runs["copying"] > runs["writing"]).all()
