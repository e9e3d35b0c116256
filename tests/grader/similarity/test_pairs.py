"""Only tokens that nobody gave count, and a few of them are none of a student's own."""

from dataclasses import replace

import pytest

from grader.similarity.own_code import Given, own_code
from grader.similarity.pairs import find_pairs
from grader.similarity.winnowing import NOISE

NOTHING = Given(released=frozenset(), reference=frozenset())


@pytest.mark.parametrize(("own", "counted"), [(NOISE - 1, 0), (NOISE, NOISE)])
def test_a_run_counts_from_as_many_own_tokens_as_a_fingerprint_has(own: int, counted: int) -> None:
    code = "\n".join(f"x.part{at}(a)[b]" for at in range(9))
    submissions = [
        replace(each, own=[0 <= at - each.starts[0] < own for at in range(len(each.tokens))])
        for each in own_code({"ada": {"f": code}, "ben": {"f": code}}, NOTHING, limit=10)
    ]
    ((pair,), skipped) = find_pairs(submissions, least=0)
    assert (pair.tokens, skipped) == (counted, 0)


def test_nobody_and_nothing_make_no_pair() -> None:
    assert find_pairs([], least=1) == ([], 0)
    alone = own_code({"ada": {"f": ""}, "ben": {}}, NOTHING, limit=10)
    assert find_pairs(alone, least=1) == ([], 0)
