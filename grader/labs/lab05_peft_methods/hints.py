"""Hints of lab 05, one a kind of finding: the first whose words are in its name is shown."""

UNCHANGED = "an operation that ends in _, or writes through a slice, changes its argument."

HINTS: dict[str, dict[str, str]] = {
    "adapter": {
        "random state": "nn.Linear draws when it is made; torch.nn.utils.skip_init makes one "
        "without drawing.",
        "at the start": "which parameters must be zero for the adapter to add exactly nothing?",
        "learns from the first step": "with both projections zero, neither ever gets a gradient.",
        "bfloat16": "compute what the adapter adds in float32; the sum has the base's dtype.",
        "the gradient of up.bias": "the scaling multiplies all that the adapter adds.",
        "the gradient of x": "x reaches the output through the base and through the adapter.",
    },
    "prompted_loss": {
        "unchanged": UNCHANGED,
        "dtype": "the rows take the embeddings' dtype on their way in.",
        "mask": "virtual tokens are seen by everybody.",
        "positions": "a real token's place counts the virtual ones before it.",
        "logits": "cut the virtual tokens' logits off, which are the first ones.",
        "loss": "which logits predict the first real token, and how many labels count?",
    },
    "prefix_attention": {
        "spans": "work with scores of the prefix and scores of the text, each by itself.",
        "large scores": "exp(200) is infinite; the share needs only a difference of log-sum-exps.",
        "share": "a query sees the whole prefix, and of the text what is not after it.",
    },
    "ia3_linear": {
        "unchanged": UNCHANGED,
        "dtype": "factors are float32; what leaves the layer has the base's dtype.",
        "at the start": "a factor of 1 changes nothing.",
        "bfloat16": "multiply in float32, round once.",
        "merged bias": "does the bias pass through the factors?",
        "merged weight": "rows are outputs, columns are inputs.",
    },
    "dora_gradients": {
        "unchanged": UNCHANGED,
        "merged": "the length of a row: one number for each output.",
        "grad_magnitude": "the merged weight is linear in m: its slope is the direction.",
        "true gradient": "a direction's gradient has no part along the direction itself.",
    },
    "reallocate": {
        "unchanged": UNCHANGED,
        "sensitivity": "|w g|, smoothed: beta_1 times the old plus 1 - beta_1 times the new.",
        "uncertainty": "the distance of the new |w g| from the sensitivity that was just smoothed.",
        "keeps": "means over a triplet's row of A and column of B; one ranking for all layers.",
    },
    "trained_numbers": {
        "prefix": "keys and values, in every layer, of G heads.",
        "bitfit": "one bias for each output of the seven matrices.",
        "houlsby": "both layers of an adapter have a bias.",
        "ia3": "keys, values and what goes into the last feed-forward matrix.",
        "dora": "LoRA's two factors, and a length for each row.",
        "adalora": "LoRA's two factors, and a value for each triplet.",
    },
    "diagnose": {},
}
