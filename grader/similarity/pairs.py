"""Pairs of submissions that share code of their own, and where.

An index of fingerprints finds the pairs worth a look; only those are compared token by token.
"""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse import csr_matrix, triu

from grader.similarity.own_code import Submission
from grader.similarity.winnowing import GUARANTEE, NOISE, Run, shared_runs

MAX_COMPARED = 50_000
MAX_PLACED = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """A stretch of a solution cell, in characters and in lines counted from 1."""

    cell: str
    start: int
    end: int
    first_line: int
    last_line: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Match:
    """The same run of tokens in two submissions; `tokens` counts those nobody gave them."""

    first: Span
    second: Span
    tokens: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """Two submissions; `share` is of the own tokens of the one that has fewer.

    Attributes:
        matches: Where; left out of pairs far down the list.
    """

    students: tuple[str, str]
    tokens: int
    share: float
    matches: tuple[Match, ...]


def find_pairs(submissions: list[Submission], least: int) -> tuple[list[Pair], int]:
    """The pairs that share at least `least` tokens, most first, and how many were not compared.

    MAX_COMPARED bounds the work: pairs whose common fingerprints many others have come last.
    MAX_PLACED bounds the memory: pairs after it have no matches.
    """
    candidates = _candidates(submissions)
    found = []
    for one, two in candidates[:MAX_COMPARED]:
        pair = _pair(submissions[one], submissions[two])
        if pair.tokens >= least:
            found.append((replace(pair, matches=()), one, two))
    found.sort(key=lambda item: (-item[0].tokens, -item[0].share, item[0].students))
    placed = [_pair(submissions[one], submissions[two]) for _, one, two in found[:MAX_PLACED]]
    rest = [pair for pair, _, _ in found[MAX_PLACED:]]
    return placed + rest, max(0, len(candidates) - MAX_COMPARED)


def _candidates(submissions: list[Submission]) -> list[tuple[int, int]]:
    """Pairs with a common fingerprint, those with many rare ones first.

    A fingerprint that n submissions have weighs 1 / n.
    """
    columns: dict[int, int] = {}
    where = [
        (row, columns.setdefault(value, len(columns)))
        for row, submission in enumerate(submissions)
        for value in submission.fingerprinted.places
    ]
    rows, cols = np.array(where, dtype=np.int32).reshape(-1, 2).T
    weights = 1 / np.sqrt(np.bincount(cols)[cols])
    has = csr_matrix((weights, (rows, cols)), shape=(len(submissions), len(columns)))
    shared = triu(has @ has.T, k=1).tocoo()
    order = np.argsort(-shared.data, kind="stable")
    return list(zip(shared.row[order].tolist(), shared.col[order].tolist(), strict=True))


def _pair(first: Submission, second: Submission) -> Pair:
    matches = [
        match
        for run in shared_runs(first.fingerprinted, second.fingerprinted)
        for match in _matches(first, second, run)
    ]
    tokens = sum(match.tokens for match in matches)
    fewer = min(first.own_tokens, second.own_tokens)
    return Pair(
        students=(first.student, second.student),
        tokens=tokens,
        share=tokens / max(1, fewer),
        matches=tuple(matches),
    )


def _matches(first: Submission, second: Submission, run: Run) -> Iterator[Match]:
    """The parts of a run that are the students' own, parted where GUARANTEE tokens are not.

    Nothing if there are fewer than NOISE such tokens.
    """
    parts: list[list[int]] = []
    for offset in range(run.length):
        if first.own[run.first + offset] and second.own[run.second + offset]:
            if not parts or offset - parts[-1][-1] > GUARANTEE:
                parts.append([])
            parts[-1].append(offset)
    if sum(map(len, parts)) < NOISE:
        return
    for part in parts:
        yield Match(
            first=_span(first, run.first + part[0], run.first + part[-1]),
            second=_span(second, run.second + part[0], run.second + part[-1]),
            tokens=len(part),
        )


def _span(submission: Submission, begin: int, last: int) -> Span:
    cell = list(submission.cells)[bisect_right(submission.starts, begin) - 1]
    text = submission.cells[cell]
    start, end = submission.tokens[begin].start, submission.tokens[last].end
    first_line, last_line = text.count("\n", 0, start) + 1, text.count("\n", 0, end) + 1
    return Span(cell=cell, start=start, end=end, first_line=first_line, last_line=last_line)
