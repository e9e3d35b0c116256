"""Hints of lab 03, one a kind of finding: the first whose words are in its name is shown."""

UNCHANGED = "an operation that ends in _, or writes through a slice, changes its argument."

HINTS: dict[str, dict[str, str]] = {
    "lora_delta": {
        "unchanged": UNCHANGED,
        "rslora": "by what must a sum that grows like the root of R be divided?",
    },
    "lora_linear": {
        "the very base": "store the layer that was given, not a copy of it.",
        "global random state": "every random number must come from the generator you are given; "
        "making an nn.Linear draws from the global one.",
        "is random": "with both factors at zero no gradient reaches either.",
        "generator": "hand the given generator itself to the function that draws.",
        "at the start": "one factor starts at zero, so that the update does.",
        "unchanged": UNCHANGED,
        "another weight": "compute the base's part with the layer you were given, at every call.",
        "(O, I)": "take x through the narrow side first: (B, T, I) -> (B, T, R) -> (B, T, O).",
        "of the input": "layers before this one train too: x must get its gradient through the "
        "base and through the factors.",
        "without bias": "let the base compute its own part.",
    },
    "apply_lora": {
        "is wrapped": "compare the last part of a module's path with the targets, as a whole word, "
        "and its type with nn.Linear; a path without a dot has a last part too.",
        "same tensors": "hand the linear layer itself to make_layer.",
        "is frozen": "everything that was there before is frozen, adapted or not.",
        "added trains": "freeze before you add.",
        "counts[0]": "count after the change, numbers and not tensors, what requires a gradient.",
        "counts[1]": "the total has frozen parameters, and those that were added.",
        "match nothing": "look before you wrap: was anything found?",
        "every name": "put all of `targets` into the text, not only the first.",
    },
    "merge_weight": {
        "unchanged": UNCHANGED,
        "unmerged": "a negative scaling takes the update away again.",
        "merged float32": "weight plus scaling times the product; which factor stands left?",
    },
    "diagnose": {
        "values left": "whatever you set to try the layer out, set back, whatever you answer.",
        "requires_grad left": "a diagnosis freezes nothing and thaws nothing.",
        ".grad left": "torch.autograd.grad, or clearing .grad, leaves no gradient behind.",
        "base trains": "the base has two parameters, and either may train.",
        "lora_A zero, lora_B zero": "what is the gradient of a product of two zero factors?",
        "lora_A zero": "the update is zero: does the layer differ from its base? Does a gradient "
        "reach one of the factors?",
        "lora_A random, lora_B random": "compare the layer's output with its base's.",
        "lora_B zero": "compare outputs at the start; then, for a moment, with lora_B not zero.",
    },
    "train_step": {
        "loss of": "one mean over all counted tokens of all micro-batches, labels one step ahead.",
        "old gradients": "what was in .grad before is no part of this step: when is it cleared?",
        "clipped": "clip once, after all micro-batches, by the norm over every parameter of all "
        "groups together.",
        "plain step": "gradients of the micro-batches add up until the one optimizer step.",
        "at a time": "a batch is split because it does not fit: never put it together again.",
        "backward": "a forward pass keeps its memory until its backward.",
    },
}
