"""Hints of lab 06, one a kind of finding: the first whose words are in its name is shown."""

UNCHANGED = "an operation that ends in _, or writes through a view, changes its argument."

HINTS: dict[str, dict[str, str]] = {
    "ring_all_reduce": {
        "unchanged": UNCHANGED,
        "own": "which chunk is finished on rank r after n - 1 messages? The one it received last.",
        "total": "in the second round finished chunks travel, and nothing is added any more.",
        "bits": "each chunk is summed along one way round, once, and then copied.",
        "to whom": "this ring has one direction: down.",
        "messages": "n - 1 for the reduce-scatter, n - 1 for the all-gather.",
        "bytes": "one chunk a message, not the whole tensor.",
    },
    "bucket_timeline": {
        "unchanged": UNCHANGED,
        "buckets": "from the last parameter to the first; a bucket may be exactly full.",
        "start": "a bucket needs all of its gradients, and the network, which sends in order.",
    },
    "zero_bill": {
        "parameters": "2 bytes each; only stage 3 divides them, and never the frozen ones.",
        "gradients": "2 bytes each trainable one; from stage 2 on a rank keeps its part alone.",
        "optimizer": "12 bytes each trainable one, divided from stage 1 on.",
        "sent": "count the halves of all-reduces: which of them happen once a step, which once a "
        "micro-batch?",
    },
    "parallel_ffn": {
        "unchanged": UNCHANGED,
        "gate_up": "a gate and the up that it multiplies must lie on the same rank.",
        "down": "`down` meets the hidden units of this rank: columns, not rows.",
        "keep alive": "a view keeps the whole matrix in memory; a clone does not.",
        "output": "sum the partial products over ranks, then add the bias once.",
        "summed forward": "one sum of (B, T, D) numbers.",
        "summed backward": "one sum of (B, T, D) numbers, where x entered.",
        "gradient of x": "x went into every rank, so its gradient is the sum of what they return.",
        "bias": "every rank has the whole bias, so it gets the whole gradient, once.",
    },
    "parallel_cross_entropy": {
        "unchanged": UNCHANGED,
        "losses": "the maximum must be everybody's before anybody takes an exponential.",
        "gradient": "softmax less one-hot; no part of it for padding and for ignored tokens.",
        "numbers": "three a token are enough.",
    },
    "pipeline_schedule": {
        "actions": "the rule says it: forward while it may, else the oldest backward.",
        "held": "count up at a forward, down at a backward, and keep the largest.",
        "idle": "a stage is busy for m slots out of how many?",
    },
    "diagnose": {},
}
