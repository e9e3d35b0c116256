"""Hints of lab 07, one a kind of finding: the first whose words are in its name is shown."""

UNCHANGED = "an operation that ends in _, or writes through a slice, changes its argument."

HINTS: dict[str, dict[str, str]] = {
    "merge_states": {
        "unchanged": UNCHANGED,
        "no key": "-inf - -inf is nan; nothing merged with nothing is -inf, 0 and 0.",
        "tree": "the merged maximum is the larger of the two, so that it can be merged again.",
    },
    "tiled_attention": {
        "unchanged": UNCHANGED,
        "tiles": "which is the latest key that the block's last query may see? No later tile.",
        "at a time": "what is left of a tile is its share of maximum, sum and weighted values.",
        "T < S": "query t stands at position t + S - T.",
        "log-sum-exp": "the maximum plus the logarithm of the sum, over all visible keys.",
    },
    "tile_gradients": {
        "unchanged": UNCHANGED,
        "dv": "P = exp(S - lse), 0 where hidden; the tile's rows of P do not add up to 1.",
        "dq": "delta is rowsum(dO * O): a row's sum over this tile's keys is not all of it.",
        "dk": "as for dq, with dS transposed; both have the factor 1 / sqrt(K).",
    },
    "checkpoint": {
        "after the forward": "the first run draws what it would draw without you, and no more.",
        "each run": "first with gradients off, so that nothing is kept; once more with them on.",
        "of the parameters": "restore the random state of the first run, and return the "
        "parameters' gradients from backward.",
        "of x": "the second run begins at a detached x that requires a gradient.",
        ".grad": "return gradients; y.backward() would write them into .grad.",
        "after the backward": "put the caller's random state back after the second run.",
    },
    "scaled_step": {
        "skipped": "a step is left out if any number of any gradient is not finite.",
        "first step": "the limit holds for the norm of all unscaled gradients together.",
        "weights": "a skipped step leaves weights and momentum alone.",
        "scale after": "half after an overflow, twice after growth_interval finite steps in a row.",
        "in a row": "the count begins again after an overflow and after a growth.",
        "cleared": "set .grad to None, after a skipped step too.",
        "2**127": "twice that is more than a float32 can be: the scale stays, the count restarts.",
    },
    "accumulate": {
        "unchanged": UNCHANGED,
        "passes": "one micro-batch at a time, forward then backward; none without a token.",
        "tokens": "the first column is predicted by nothing.",
        "summed": "the unscaled sum over this rank's tokens, in nats.",
        "ranks": "the ranks' gradients are averaged afterwards: that divides by their number.",
    },
    "chunked_loss": {
        "unchanged": UNCHANGED,
        "at a time": "autograd keeps each chunk's softmax until the backward pass: compute the "
        "gradients while a chunk is there, or the chunk again.",
        "gradient": "p - onehot, times the factor that arrives from above.",
        "as large": "ctx.needs_input_grad says which gradients are wanted.",
        "no target": "the sum of nothing is 0.",
    },
    "diagnose": {},
}
