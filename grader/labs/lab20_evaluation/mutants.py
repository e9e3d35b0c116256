"""Wrong answers to lab 20's questions, as changes of the solution."""

from grader.mutants import Mutants

NEXT_WINDOW = "begin, first_scored = end - min_context, end"
BATCH = """\
nats -= picked.gather(-1, wanted[chosen][:, None]).sum().item()
        counted += chosen.sum().item()
"""
MEAN_OF_MEANS = [
    ("nats, counted = 0.0, 0", "nats, means = 0.0, []"),
    (
        BATCH,
        """\
losses = -picked.gather(-1, wanted[chosen][:, None])
        nats += losses.sum().item()
        if len(losses):
            means.append(losses.mean().item())
""",
    ),
    ("nats / counted", "sum(means) / len(means)"),
]
NAIVE_SOFTMAX = [
    (
        "picked = logits[:, :-1][chosen].log_softmax(-1)  # (counted, V)",
        "chances = logits[:, :-1][chosen].exp()\n"
        "        picked = (chances / chances.sum(-1, keepdim=True)).log()",
    ),
]
EACH_CHOICE = "for choice, written in zip(choices, texts, strict=True):"
PADDED = f"""\
longest = max(len(choice) for choice in choices)
    {EACH_CHOICE}
        choice = choice + [0] * (longest - len(choice))"""
NUM_BYTES = "len(written.encode()) - 1"

MEANS = "total[resamples].sum(axis=1) / members[resamples].sum(axis=1)"
UNPAIRED = """\
def ratio(values, drawn):
        sums = np.bincount(groups, weights=values)
        return sums[drawn].sum(axis=1) / members[drawn].sum(axis=1)

    means = ratio(first, resamples) - ratio(second, np.roll(resamples, 1, axis=0))
"""

MUTANTS: Mutants = {
    "plan_windows": {
        "takes the context for the stride": [
            ("end - min_context, end", "end - (window - min_context), end"),
        ],
        "counts the overlap twice": [
            (NEXT_WINDOW, "begin, first_scored = end - min_context, end - min_context + 1"),
        ],
        "drops the ragged end": [
            ("end < num_tokens:", "end + window - min_context <= num_tokens:"),
        ],
        "scores the very first token": [("(0, end, 1)", "(0, end, 0)")],
        "more windows than needed": [(NEXT_WINDOW, "begin, first_scored = end + 1 - window, end")],
    },
    "perplexity_of": {
        "no shift": [("labels[:, 1:]", "labels"), ("logits[:, :-1]", "logits")],
        "mean of means": MEAN_OF_MEANS,
        "counts masked tokens": [("chosen.sum().item()", "chosen.numel()")],
        "nats for bits": [("(math.log(2) * num_bytes)", "num_bytes")],
        "softmax without the largest logit taken out": NAIVE_SOFTMAX,
    },
    "option_scores": {
        "one position late": [
            ("start = len(before) - 1", "start = len(before)"),
            ("range(start, len(row) - 1), choice", "range(start, len(row)), choice"),
        ],
        "scores the padding": [(EACH_CHOICE, PADDED)],
        "characters for bytes": [(NUM_BYTES, "len(written) - 1")],
        "counts the leading space": [(NUM_BYTES, "len(written.encode())")],
        "ignores the prior": [("score -= log_prob(neutral, choice)", "pass")],
    },
    "paired_interval": {
        "mean of the groups' means": [
            (MEANS, "(total / members)[resamples].mean(axis=1)"),
            ("float(difference.mean())", "float((total / members).mean())"),
        ],
        "unpaired": [(f"means = {MEANS}\n", UNPAIRED)],
        "the whole level in each tail": [("(1 - level) / 2", "1 - level")],
        "sign turned": [("np.asarray(first, dtype=float) - second", "np.asarray(second) - first")],
        "takes groups for items": [(MEANS, "difference[resamples].mean(axis=1)")],
    },
    "diagnose": {
        "compares questions exactly": [("tuple(question.lower().split())", "question")],
        "trusts the warm-up": [('"warm_up": ("latency_ms", np.median(timed)),', "")],
        "trusts the margin": [('"unpaired": ("margin", 1.96 * error),', "")],
        "trusts the perplexity": [
            ('"mean_of_means": ("perplexity", math.exp(nats / tokens)),', ""),
        ],
        "finds a fault in everything": [('return "sound"', 'return "unpaired"')],
    },
    "plan_items": {
        "one-sided": [("normal.inv_cdf((1 + level) / 2)", "normal.inv_cdf(level)")],
        "forgets the power": [(" + normal.inv_cdf(power)", "")],
        "unpaired spread": [
            (
                "float(np.std(first - second, ddof=1))",
                "math.sqrt(first.var(ddof=1) + second.var(ddof=1))",
            ),
        ],
        "rounds down": [("math.ceil(", "math.floor(")],
    },
}
