"""Wrong answers to lab 02's questions, as changes of the solution or as another body for it."""

from grader.mutants import Mutants

OFTEN = "counts[pair] += often"
BEST = "min(counts, key=lambda pair: (-counts[pair], pair))"
NONE = "if not counts:\n        return None, [list(word) for word in words]"
JOIN = "out.append(new if found else word[i])\n            i += 2 if found else 1"
RANKED = "best = min(known, key=ranks.get)"
AGAIN = "while known := [pair for pair in pairwise(ids) if pair in ranks]:"
PIECES = "for start in range(0, len(document), length)"
SHORT = "if len(piece) < 2:\n            continue\n        "
FITS = "<= length:"
COUNTED = "(documents[:, 1:] == documents[:, :-1]) & (documents[:, 1:] >= 0)"
CAUSAL = "same & torch.ones(T, T, dtype=torch.bool).tril()"
DONE = "if step >= steps:\n        return 0.0"
RISE = "peak * (step + 1) / warmup"
FALLING = "falling = steps - warmup - stable"
FACTOR = "factor = max_norm / norm if norm > max_norm else 1.0"
DECAY = "decay = weight_decay if weight.dim() >= 2 else 0.0"
KEPT = "kept = (1 - lr * decay) * weight"
HELD = "new_weights[name] = kept - lr * (m / (1 - b1**step)) / length"
LENGTH = "length = (v / (1 - b2**step)).sqrt() + 1e-8"
MATRICES = "matrices = L * (2 * D * K * (H + G) + 3 * D * config.ffn_width)"
OPERATIONS = "operations = 3 * (blocks + 2 * T * table)"
BLOCKS = "blocks = 2 * T * matrices + 4 * L * H * K * pairs"
PARAMETERS = "parameters = matrices + tables + D * (2 * L + 1)"
SECOND_LOOK = '"healthy" if growth(warmup=10) > 1.5 else "warmup_skipped"'

LEFTMOST = """
    table = {(a, b): new for a, b, new in merges}
    ids = list(word)
    while known := [i for i, pair in enumerate(pairwise(ids)) if pair in table]:
        i = known[0]
        ids[i : i + 2] = [table[tuple(ids[i : i + 2])]]
    return ids
"""
LONGEST_MATCH = """
    texts = {}
    for a, b, new in merges:
        texts[new] = texts.get(a, (a,)) + texts.get(b, (b,))
    ids, i = [], 0
    while i < len(word):
        fits = [(len(t), new) for new, t in texts.items() if tuple(word[i : i + len(t)]) == t]
        size, token = max(fits, default=(1, word[i]))
        ids.append(token)
        i += size
    return ids
"""
FROM_THE_RIGHT = """
    ids = list(word)
    for a, b, new in merges:
        i = len(ids) - 2
        while i >= 0:
            if (ids[i], ids[i + 1]) == (a, b):
                ids[i : i + 2] = [new]
                i -= 1
            i -= 1
    return ids
"""
WHAT_IS_IN_THE_TEXT = """
    undecided = torch.tensor([[1, 2], [1, 3]])
    if training.train(undecided, 5.0, 1, 60)[-1] < 0.5:
        return "not_shifted"
    return "healthy"
"""

MUTANTS: Mutants = {
    "merge_step": {
        "every word once": [(OFTEN, "counts[pair] += 1")],
        "counts without overlaps": [
            ("for pair in pairwise(word):", "for pair in set(pairwise(word)):"),
        ],
        "first seen wins": [(BEST, "max(counts, key=counts.get)")],
        "largest wins": [(BEST, "max(counts, key=lambda pair: (counts[pair], pair))")],
        "right token first": [
            (BEST, "min(counts, key=lambda pair: (-counts[pair], pair[::-1]))"),
        ],
        "only the first place of a word": [
            (JOIN, "out.append(new if found else word[i])\n            i += 2 if found else 1\n"
             "            if found:\n                out, i = out + list(word[i:]), len(word)"),
        ],
        "a token twice": [
            (JOIN, "out.append(new if found else word[i])\n            i += 1"),
        ],
        "error where there is no pair": [(NONE, "pass")],
        "changes the words": [("return best, joined", "words[:] = joined\n    return best, words")],
    },
    "encode_word": {
        "leftmost pair first": LEFTMOST,
        "longest token first": LONGEST_MATCH,
        "from the right": FROM_THE_RIGHT,
        "changes the word": [("ids = list(word)", "ids = word"), ("ids = out", "ids[:] = out")],
        "last learnt first": [(RANKED, "best = max(known, key=ranks.get)")],
        "one round": [
            (AGAIN, "for known in [[pair for pair in pairwise(ids) if pair in ranks] or [None]]:"),
            (RANKED, "best = min(known, key=lambda pair: ranks.get(pair, 0))"),
            ("new = merges[ranks[best]][2]", "new = merges[ranks.get(best, 0)][2]"),
        ],
        "the commonest pair first": [
            (RANKED, "best = max(known, key=lambda p: (known.count(p), -ranks[p]))"),
        ],
    },
    "pack_rows": {
        "keeps single tokens": [(SHORT, "if not piece:\n            continue\n        ")],
        "cuts off the rest": [(PIECES, "for start in range(0, length, length)")],
        "drops short ends": [
            (PIECES, "for start in range(0, max(1, len(document) - length + 1), length)"),
        ],
        "the last row only": [("for row in rows:\n            if sum", "for row in rows[-1:]:\n"
                               "            if sum")],
        "one place unused": [(FITS, "< length or not row:")],
        "first tokens are learnt": [("(-100, *piece[1:])", "piece")],
        "positions go on": [
            ("place = [t for piece in row for t in range(len(piece))]",
             "place = list(range(len(ids)))"),
        ],
        "padding is one more document": [("(number, -1)", "(number, len(row))")],
        "padding is learnt": [("(labels, -100)", "(labels, pad_id)")],
        "labels shifted already": [
            ("(-100, *piece[1:])", "(*piece[1:], -100)"),
        ],
    },
    "within_documents": {
        "not causal": [(CAUSAL, "same")],
        "causal only": [(CAUSAL, "torch.ones_like(same).tril()")],
        "not itself": [(CAUSAL, "same & torch.ones(T, T, dtype=torch.bool).tril(-1)")],
        "keys and queries exchanged": [(".tril()", ".triu()")],
        "learns across documents": [(COUNTED, "documents[:, 1:] >= 0")],
        "learns padding": [
            (COUNTED, "(documents[:, 1:] == documents[:, :-1])"),
            ("targets = ids[:, 1:][counted]", "targets = ids[:, 1:][counted].clamp(min=0)"),
        ],
        "a mean": [("[:, None]).sum()", "[:, None]).mean()")],
        "no shift": [
            ("logits[:, :-1][counted]", "logits[:, 1:][counted]"),
        ],
    },
    "learning_rate": {
        "begins at zero": [(RISE, "peak * step / warmup")],
        "no plateau": [("if step < warmup + stable:\n        return peak\n    ", ""),
                       (FALLING, "stable = 0\n    falling = steps - warmup")],
        "linear decay": [("0.5 * (1 + math.cos(math.pi * progress))", "(1 - progress)")],
        "a whole period": [("math.pi * progress", "2 * math.pi * progress")],
        "comes back after the end": [(DONE, "pass"), (FALLING, FALLING + " or 1")],
        "decay over all steps": [
            ("(step - warmup - stable) / falling", "step / steps"),
        ],
        "a floor": [("return 0.0", "return 0.1 * peak")],
        "falls a step early": [
            ("(step - warmup - stable) / falling", "(step - warmup - stable + 1) / falling"),
        ],
    },
    "optimizer_step": {
        "every tensor clipped by itself": [
            ("weight, g = weights[name], gradient * factor",
             "weight = weights[name]\n        own = float(gradient.norm())\n"
             "        g = gradient * (max_norm / own if own > max_norm else 1.0)"),
        ],
        "always scaled to max_norm": [
            (FACTOR, "factor = max_norm / norm if norm > 0 else 1.0"),
        ],
        "never clipped": [(FACTOR, "factor = 1.0")],
        "each number clipped": [
            ("gradient * factor", "gradient.clamp(-max_norm, max_norm)"),
        ],
        "norm after clipping": [("new_moments, norm\n", "new_moments, min(norm, max_norm)\n")],
        "divides by zero": [
            (FACTOR, "factor = min(1.0, float(torch.tensor(max_norm) / torch.tensor(norm)))"
             " if norm else math.nan"),
        ],
        "decay through the moments": [
            ("m = b1 * m", "g = g + (weight_decay if weight.dim() >= 2 else 0.0) * weight\n"
             "        m = b1 * m"),
            (DECAY, "decay = 0.0"),
        ],
        "norms decayed": [(DECAY, "decay = weight_decay")],
        "decay without the rate": [(KEPT, "kept = (1 - decay) * weight")],
        "unused weights decayed": [
            ("{name: w.clone() for name, w in weights.items()}",
             "{n: w * (1 - lr * weight_decay * (w.dim() > 1)) for n, w in weights.items()}"),
        ],
        "no bias correction": [(HELD, "new_weights[name] = kept - lr * m / length"),
                               (LENGTH, "length = v.sqrt() + 1e-8")],
        "steps counted from 0": [
            ("b1**step", "b1 ** (step + 1)"),
            ("b2**step", "b2 ** (step + 1)"),
        ],
        "no root": [(LENGTH, "length = v / (1 - b2**step) + 1e-8")],
        "one beta": [("v = b2 * v + (1 - b2)", "v = b1 * v + (1 - b1)")],
        "changes the weights": [("{name: w.clone() for name, w in weights.items()}", "weights")],
    },
    "training_flops": {
        "forward only": [(OPERATIONS, "operations = blocks + 2 * T * table")],
        "backward once": [(OPERATIONS, "operations = 2 * (blocks + 2 * T * table)")],
        "a multiplication only": [(BLOCKS, "blocks = T * matrices + 2 * L * H * K * pairs")],
        "no attention": [(BLOCKS, "blocks = 2 * T * matrices")],
        "one product in attention": [
            (BLOCKS, "blocks = 2 * T * matrices + 2 * L * H * K * pairs"),
        ],
        "keys as wide as queries": [("(H + G)", "(H + H)")],
        "a network of two matrices": [("3 * D * config", "2 * D * config")],
        "heads of width D / H": [
            ("kv_heads, config.head_width", "kv_heads, D // config.num_heads"),
        ],
        "the table is a product too": [
            (OPERATIONS, "operations = 3 * (blocks + 4 * T * table)"),
        ],
        "no head": [(OPERATIONS, "operations = 3 * blocks")],
        "the diagonal forgotten": [("T * (T + 1) // 2", "T * (T - 1) // 2")],
        "the head recomputed too": [
            ("operations += blocks", "operations += blocks + 2 * T * table"),
        ],
        "tied tables counted twice": [("table if config.tie_embeddings else 2 * table",
                                       "2 * table")],
        "norms forgotten": [(PARAMETERS, "parameters = matrices + tables")],
    },
    "diagnose": {
        "never looks at the warm-up": [(SECOND_LOOK, '"healthy"')],
        "without warm-up": [("growth(warmup=10)", "growth(warmup=1)")],
        "looks at what is learnt only": WHAT_IS_IN_THE_TEXT,
        "never looks at padding": [("training.train(padded, 5.0, 1, 60)[-1] > 0.5", "False")],
        "pads nothing": [("padded = torch.tensor([[1, 2], [1, 0]])",
                          "padded = torch.tensor([[1, 2], [1, 2]])")],
        "looks at a first loss": [("training.train(undecided, 5.0, 1, 60)[-1]",
                                   "training.train(undecided, 5.0, 1, 60)[0]")],
    },
}  # fmt: skip
