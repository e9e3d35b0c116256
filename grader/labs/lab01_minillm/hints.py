"""Hints of lab 01, one a kind of finding: the first whose words are in its name is shown."""

from grader.checks.core import UNCHANGED

CHANGED = "an operation that ends in _, or writes through a slice, changes its argument."

HINTS: dict[str, dict[str, str]] = {
    "rms_norm": {
        UNCHANGED: CHANGED,
        "bfloat16": "go to float32 first, weight included, and come back once, at the very end.",
        "float16": "what is 900 squared in float16? Go to float32 before the squares.",
        "float32": "no mean is subtracted; eps keeps a row of zeros from becoming nan.",
    },
    "rope": {
        UNCHANGED: CHANGED,
        "first part": "pairs and frequencies follow from rotary_width, not from the head's width; "
        "what lies beyond it stays.",
        "bfloat16": "above 256 not every whole number exists in bfloat16: angles want float32.",
        "whole heads": "number i turns with number i + K/2, each row of the batch by its own "
        "positions.",
    },
    "grouped_attention": {
        UNCHANGED: CHANGED,
        "more sinks": "a sink is seen by later queries only: causality comes first.",
        "sinks": "sinks are seen in addition to the window, however far away they are.",
        "longer": "a window longer than the text hides nothing.",
        "window": "the window counts the query's own token.",
        "cache": "the queries are the last T of S tokens: at which position is the first of them?",
        "causal": "scale the scores, hide what comes later before the softmax, over the keys; "
        "neighbouring query heads share a key/value head.",
    },
    "block": {
        UNCHANGED: CHANGED,
        "pre-norm": "the sum takes the stream as it was before the norm; q and k turn, v does not; "
        "silu belongs to one of the two branches.",
        "post-norm": "here the norm comes after each sum, and nothing is normalised before.",
    },
    "predict_size": {
        "active": "of the experts a token meets only its own; router and norms it meets always.",
        "GFLOP": "two operations for each weight a token is multiplied with, the head among them; "
        "a table is looked up, not multiplied.",
        "untied": "an untied head is a second matrix of V times D.",
        "experts": "E networks and one router in each block.",
    },
    "dispatch": {
        UNCHANGED: CHANGED,
        "dropped": "count what every expert was asked for, then what it had to refuse.",
        "slots": "all first choices are placed before any second choice; empty places hold -1.",
        "gates": "a token's weights sum to 1 before anything is dropped, and stay as they are.",
        "gradient": "the router learns through the weights alone.",
    },
    "diagnose": {},
}
