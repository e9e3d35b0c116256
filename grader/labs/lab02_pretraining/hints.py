"""Hints of lab 02, one a kind of finding: the first whose words are in its name is shown."""

UNCHANGED = "an operation that ends in _, or writes into a list, changes its argument."

HINTS: dict[str, dict[str, str]] = {
    "merge_step": {
        "unchanged": UNCHANGED,
        "single": "where no word has two tokens there is no pair: None, and the words as they are.",
        "tie": "of equally frequent pairs the smallest left token wins, then the smallest right.",
        "runs": "each two neighbours count; joined is from the left, and no token twice.",
    },
    "encode_word": {
        "unchanged": UNCHANGED,
        "runs": "from the left; what is already joined cannot be joined again in the same go.",
    },
    "pack_rows": {
        "unchanged": UNCHANGED,
        "labels": "nothing of its own document stands before a piece's first token.",
        "positions": "they restart at 0 with each piece, and are 0 at padding.",
        ": documents": "pieces are numbered row by row from 0; padding is -1.",
    },
    "within_documents": {
        "unchanged": UNCHANGED,
        "mask": "causal, and equal documents; padding is a document like others.",
        "count": "a document of n tokens has n - 1 to predict.",
    },
    "learning_rate": {
        "no decay": "without steps to fall over, the rate stays at the peak, and is 0 afterwards.",
        "no plateau": "with one step of warm-up behind it, the rate is peak / warmup.",
    },
    "optimizer_step": {
        "unchanged": UNCHANGED,
        "norm": "the root of the sum of all squares of all gradients, before clipping.",
        "moments": "the moments take the clipped gradient; who has no gradient has no moments.",
        "zero": "a norm of 0 is nothing to divide by, and the decay goes on.",
    },
    "training_flops": {
        "share": "N is every parameter, norms and both tables included.",
        "recomputed": "the blocks run forward once more, the head does not.",
        "causal": "token t attends to t tokens, itself included.",
    },
    "diagnose": {},
}
