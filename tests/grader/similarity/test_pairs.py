"""Who can make a pair at all."""

from grader.similarity.own_code import Given, own_code
from grader.similarity.pairs import find_pairs

NOTHING = Given(released=frozenset(), reference=frozenset())


def test_nobody_and_nothing_make_no_pair() -> None:
    assert find_pairs([], least=1) == ([], 0)
    alone = own_code({"ada": {"f": ""}, "ben": {}}, NOTHING, limit=10)
    assert find_pairs(alone, least=1) == ([], 0)
