"""The engines' records that lecture inference/02 reads, and how tokens are compared."""

from benchmarks.landscape import BATCHES, agreement
from labkit.runtime.records import committed


def test_agreement_counts_the_tokens_before_the_first_that_differs() -> None:
    reference = [[1, 2, 3], [4, 5, 6]]
    assert agreement([[1, 2, 3], [4, 5, 6]], reference) == 3
    assert agreement([[1, 2, 9], [7, 5, 6]], reference) == 1  # (2 + 0) / 2


def test_each_rate_has_its_gate_and_version() -> None:
    rows = committed("inference_landscape")
    named = [(row.extra["engine"], row.extra["batch"]) for row in rows]
    assert len(set(named)) == len(named)
    for row in rows:
        assert row.value > 0
        assert row.extra["batch"] in BATCHES
        assert row.extra["version"]
        assert row.extra["kl_nats"] >= 0
        assert row.extra["passed"] == (row.extra["kl_nats"] <= 0.05)


def test_float32_says_what_the_reference_says() -> None:
    rows = {
        (r.extra["engine"], r.extra["batch"]): r.extra for r in committed("inference_landscape")
    }
    for batch in BATCHES:
        ours = rows["labkit float32", batch]
        assert ours["agreed_tokens"] == ours["new_tokens"]
        assert ours["kl_nats"] < 1e-5
