"""How each exercise of lab 11 is called. Runs beside the student's code: numpy and torch only."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from grader.checks.explain import ContractError

Arrays = dict[str, Any]


def _tuple(result: Any, *names: str) -> tuple[Any, ...]:
    """The parts of a returned tuple; a sentence instead of an unpacking error."""
    if type(result) is not tuple or len(result) != len(names):
        expected = ", ".join(names)
        raise ContractError(
            f"expected a tuple ({expected}), got an object of type {type(result).__name__}"
        )
    return result


def _tokens(result: Any, name: str) -> Tensor:
    """A returned list of tokens as a tensor."""
    if type(result) is not list or any(type(token) is not int for token in result):
        raise ContractError(f"{name}: expected a list of int, got {type(result).__name__}")
    return torch.tensor(result, dtype=torch.long)


LAWS = ("proposed", "p", "q", "lengths", "u")


def verify(impl: Callable[..., Any], inputs: Arrays) -> Arrays:
    """Verify batches of proposals, each with its own uniform numbers."""
    results: Arrays = {}
    for case in inputs["cases"]:
        given = [None if case[name] is None else case[name].clone() for name in LAWS]
        accepted, tokens = _tuple(impl(*given), "accepted", "tokens")
        name = case["name"]
        results[f"{name}: arguments left unchanged"] = given
        results[f"{name}: how many are accepted"] = accepted
        results[f"{name}: the token after them"] = tokens
    return results


PLAN = ("start", "temperature", "top_p", "pass_cost", "draft_cost")


def plan_speculation(impl: Callable[..., Any], inputs: Arrays) -> Arrays:
    """Plan for several pairs of models and machines."""
    results: Arrays = {}
    for case in inputs["cases"]:
        logits = [case[name].clone() for name in ("target_logits", "draft_logits")]
        found = impl(*logits, *(case[name] for name in PLAN))
        expected, best, speedup = _tuple(found, "expected", "best", "speedup")
        name = case["name"]
        results[f"{name}: logits left unchanged"] = logits
        results[f"{name}: expected tokens of a pass"] = expected
        results[f"{name}: best number of proposals"] = best
        results[f"{name}: speedup there"] = speedup
    return results


def guess_by_vote(impl: Callable[..., Any], inputs: Arrays) -> Arrays:
    """Guess how several texts go on."""
    results: Arrays = {}
    for index, case in enumerate(inputs["cases"]):
        ids = list(case["ids"])
        guesses = _tokens(impl(ids, case["k"], case["longest"]), "the guesses")
        name = f"text {index + 1} of {len(ids)} tokens, k={case['k']}, longest={case['longest']}"
        results[f"{name}: ids left unchanged"] = ids
        results[f"{name}: guesses"] = guesses
    return results


class Model:
    """A recurrent model whose cache, one state a token, can forget its end.

    Args:
        weights: embedding (V, D), recurrent (D, D) and head (V, D), float64.
        capacity: Most tokens in the cache.
    """

    def __init__(self, weights: Arrays, capacity: int) -> None:
        self._embedding, self._recurrent = weights["embedding"], weights["recurrent"]
        self._head, self._capacity = weights["head"], capacity
        self._states: list[Tensor] = []
        self.read_so_far: list[tuple[int, list[int]]] = []

    @property
    def length(self) -> int:
        """Tokens in the cache."""
        return len(self._states)

    def read(self, tokens: Sequence[int]) -> Tensor:
        """Logits (T, V) after each of T new tokens, which stay in the cache.

        Raises:
            ValueError: There is no token, or no room for so many.
        """
        past, V = self.length, len(self._embedding)
        if not 0 < len(tokens) <= self._capacity - past:
            raise ValueError(
                f"{len(tokens)} new tokens after {past}: the cache has room for {self._capacity}, "
                "which is as much as the budget needs"
            )
        if not all(type(token) is int and 0 <= token < V for token in tokens):
            raise ValueError(f"tokens must be of type int, from 0 to {V - 1}")
        self.read_so_far.append((past, list(tokens)))
        for token in tokens:
            before = self._states[-1] if self._states else torch.zeros(self._head.shape[1]).double()
            self._states.append(torch.tanh(self._recurrent @ before + self._embedding[token]))
        logits: Tensor = torch.stack(self._states[past:]) @ self._head.T
        return logits

    def truncate(self, length: int) -> None:
        """Forget every token from position `length` on."""
        del self._states[max(0, length) :]


def speculate(impl: Callable[..., Any], inputs: Arrays) -> Arrays:
    """Speculate with drafts that are partly right; note what each pass found and read."""
    results: Arrays = {}
    for case in inputs["cases"]:
        prompt, budget = list(case["prompt"]), case["budget"]
        model = Model(inputs["weights"], len(prompt) + budget - 1)
        asked: list[list[int]] = []
        text = _tokens(
            impl(model, _draft(case, asked), prompt, case["k"], budget, case["eos"]), "the text"
        )
        name = case["name"]
        results[f"{name}: prompt left unchanged"] = prompt
        results[f"{name}: text"] = text
        results[f"{name}: what the draft was asked (tokens so far, most guesses)"] = asked
        past, reads = zip(*model.read_so_far, strict=True) if model.read_so_far else ((), ())
        results[f"{name}: tokens in the cache before each pass"] = list(past)
        results[f"{name}: tokens that each pass read"] = list(reads)
        results[f"{name}: tokens in the cache at the end"] = model.length
    return results


def _draft(case: Arrays, asked: list[list[int]]) -> Callable[[list[int], int], list[int]]:
    start = len(case["prompt"])

    def draft(ids: list[int], k: int) -> list[int]:
        """What is noted for a text of this length, cut to k tokens."""
        asked.append([len(ids), int(k)])
        if k < 1:
            raise ValueError(f"the draft was asked for {k} tokens: ask for one or more")
        place = len(ids) - start
        return list(case["drafts"][place][:k]) if place < len(case["drafts"]) else []

    return draft


def token_masks(impl: Callable[..., Any], inputs: Arrays) -> Arrays:
    """Masks of several automata, each with a vocabulary of its own."""
    results: Arrays = {}
    for index, case in enumerate(inputs["cases"]):
        step, accepting = case["step"].clone(), case["accepting"].clone()
        tokens = [bytes(token) for token in case["tokens"]]
        found = impl(step, accepting, tokens, case["eos_id"])
        ends, allowed = _tuple(found, "ends", "allowed")
        name = f"automaton {index + 1} of {len(accepting)} states"
        results[f"{name}: step and accepting left unchanged"] = [step, accepting]
        results[f"{name}: the state after each token"] = ends
        results[f"{name}: allowed tokens"] = allowed
    return results


def laws_in_time(impl: Callable[..., Any], inputs: Arrays) -> Arrays:
    """The laws at several budgets."""
    results: Arrays = {}
    for budget in inputs["budgets"]:
        given = [inputs[name].clone() for name in ("ends", "accepting", "probs")]
        found = impl(*given, inputs["eos_id"], budget)
        finish, masked, conditional = _tuple(found, "finish", "masked", "conditional")
        name = f"budget {budget}"
        results[f"{name}: arguments left unchanged"] = given
        results[f"{name}: probability to finish"] = finish
        results[f"{name}: law under the mask"] = masked
        results[f"{name}: law given that the text finishes"] = conditional
    return results


def diagnose(impl: Callable[..., Any], inputs: Arrays) -> Arrays:
    """Ask for the diagnosis of several verifiers, which are called where they are."""
    return {
        f"verifier {i + 1}": impl(case["verifier"], case["vocab_size"])
        for i, case in enumerate(inputs["cases"])
    }


DRIVES: dict[str, Callable[[Any, Arrays], Arrays]] = {
    "verify": verify,
    "plan_speculation": plan_speculation,
    "guess_by_vote": guess_by_vote,
    "speculate": speculate,
    "token_masks": token_masks,
    "laws_in_time": laws_in_time,
    "diagnose": diagnose,
}
