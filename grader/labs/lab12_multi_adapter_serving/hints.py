"""Hints of lab 12, one a kind of finding: the first whose words are in its name is shown."""

UNCHANGED = "an operation that ends in _, or writes through a slice, changes its argument."

HINTS: dict[str, dict[str, str]] = {
    "adapter_costs": {
        "fit": "the base is there once; whatever is left is the adapters'.",
        "read_ratio": "a step reads the base once and every adapter of the batch once; merged "
        "copies share nothing.",
        "overhead": "a projection costs I O multiplications a token, its delta R (I + O).",
        "break_even": "the largest whole R with R sum(I + O) <= sum(I O).",
    },
    "adapter_manager": {
        "versions": "a version's number is never given twice, also after an unmount.",
        "reload": "who was acquired before keeps the old version; the name means the new one.",
        "drain": "what is unmounted takes no new request, and goes with its last one.",
        "alias": "an alias means one version, and goes with it.",
        "capacity": "whoever drains takes up memory too. A mount that fails changes nothing.",
    },
    "add_grouped": {
        "unchanged": UNCHANGED,
        "base rows": "a row times zero is nan where the row has inf, and -0.0 + 0.0 is 0.0.",
        "two products": "gather an adapter's rows first: one product with A, one with B.",
        "multiplications": "multiply the rows of an adapter, and no others.",
        "nothing larger": "factors copied for every row, or padded, take more room than the batch.",
        "another order": "each row is told by its own slot; rows of one adapter lie anywhere.",
    },
    "fuse_projections": {
        "unchanged": UNCHANGED,
        "blocks": "columns count ranks, rows count outputs; who has no adapter still has outputs.",
    },
}
