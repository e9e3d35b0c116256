"""Wrong answers to lab 09's questions, as changes of the solution."""

from grader.mutants import Mutants

KEEP_TOP_K = """\
if top_k is not None and top_k < V:
        kth = scores.sort(dim=-1, descending=True).values[:, top_k - 1, None]
        scores = torch.where(scores >= kth, scores, -math.inf)
    """
INSIDE = "inside = likeliest.cumsum(dim=-1) - likeliest < top_p"
NORMALISED = "probs / probs.sum(dim=-1, keepdim=True)"
TOP_P_FIRST = [
    (KEEP_TOP_K, ""),
    (
        "return probs",
        """\
if top_k is not None and top_k < V:
        kth = probs.sort(dim=-1, descending=True).values[:, top_k - 1, None]
        probs = torch.where(probs >= kth, probs, 0.0)
    return probs""",
    ),
]
EXACTLY_K = [
    ("top_k - 1, None]", "top_k - 1, None]\n        largest = scores.topk(top_k, dim=-1).indices"),
    (
        "torch.where(scores >= kth, scores, -math.inf)",
        "torch.full_like(scores, -math.inf).scatter(-1, largest, scores.gather(-1, largest))",
    ),
]

SCORES = """\
grouped = q.reshape(B, G, (H // G) * T, K)  # the heads that share a key
    scores = grouped @ cache.keys[:, :, :S].transpose(2, 3)
    scores = scores.reshape(B, H, T, S) / math.sqrt(K)
"""
MIX = """\
grouped = weights.reshape(B, G, (H // G) * T, S)
    return (grouped @ cache.values[:, :, :S]).reshape(q.shape)
"""
REPEAT = [
    (
        SCORES,
        """\
keys = cache.keys[:, :, :S].repeat(1, H // G, 1, 1)
    scores = q @ keys.transpose(2, 3) / math.sqrt(K)
""",
    ),
    (MIX, "return weights @ cache.values[:, :, :S].repeat(1, H // G, 1, 1)\n"),
]

HITS = "hits = sorted(waiting.index(stop) for stop in stops if stop in waiting)"
HOLD = "held = max(held, size)"
SHOW = """\
yield waiting[: len(waiting) - held]
        waiting = waiting[len(waiting) - held :]
"""
REST = "\n    yield waiting\n"

CACHED_CHECK = """\
if agrees(*[1] * 8):
        return "healthy" if agrees(3, 5) else "mask"
"""

LIVE = "live = sorted(open_, reverse=True)[:num_beams]"
ENDS_TAKE_PLACES = """\
best = sorted(grown, reverse=True)[:num_beams]
        live = [x for x in best if x[1][-1] != eos_id]
        if not live:
            break"""
LENGTH = "length**length_penalty"

MUTANTS: Mutants = {
    "next_token_distribution": {
        "temperature last": [
            ("scores = scores / temperature", ""),
            (
                f"return {NORMALISED}",
                f"probs = {NORMALISED}\n    return (probs.log() / temperature).softmax(dim=-1)",
            ),
        ],
        "top-p before top-k": TOP_P_FIRST,
        "drops the token that crosses": [
            (INSIDE, "inside = likeliest.cumsum(dim=-1) < top_p\n        inside[:, 0] = True")
        ],
        "does not renormalise": [(NORMALISED, "probs")],
        "breaks ties at the k-th": EXACTLY_K,
        "changes the logits": [("scores = scores / temperature", "scores /= temperature")],
    },
    "draw": {
        "at least u": [("sums <= u", "sums < u")],
        "takes sums for 1": [("sums = sums / sums[:, -1:]", "")],
        "one uniform for all rows": [("u.unsqueeze(1)", "u[0]")],
        "float32 sums": [
            ("to(torch.float64)", "float()"),
            ("u.unsqueeze(1)", "u.float()[:, None]"),
        ],
    },
    "attend": {
        "writes at slot 0": [
            ("keys[:, :, old:S] = k", "keys[:, :, :T] = k"),
            ("values[:, :, old:S] = v", "values[:, :, :T] = v"),
        ],
        "mask without offset": [("diagonal=old + 1", "diagonal=1")],
        "no mask": [("scores.masked_fill(future, -math.inf).softmax", "scores.softmax")],
        "repeat for repeat_interleave": REPEAT,
        "not scaled": [(" / math.sqrt(K)", "")],
        "never advances": [("cache.length = S", "")],
    },
    "until_stop": {
        "looks within a piece": [(HOLD, "pass")],
        "holds nothing back": [
            ("yield waiting[: hits[0]]", "yield waiting[len(waiting) - len(piece) : hits[0]]"),
            (SHOW, "yield piece\n"),
            (REST, "\n"),
        ],
        "loses the held end": [(REST, "\n")],
        "shows the stop string": [
            ("sorted(waiting.index(stop) for", "sorted(waiting.index(stop) + len(stop) for")
        ],
        "cuts at the first listed": [
            (HITS, "hits = [waiting.index(stop) for stop in stops if stop in waiting]")
        ],
        "shows all at the end": [(SHOW, "\n")],
    },
    "diagnose": {
        "decodes single tokens only": [('"healthy" if agrees(3, 5) else "mask"', '"healthy"')],
        "one chunk only": [(CACHED_CHECK, 'return "healthy"\n')],
        "takes forgetting for positions": [
            ('"forgets" if torch.equal(one, two) else "positions"', '"positions"'),
        ],
    },
    "predict_decoding": {
        "counts query heads": [("config.num_kv_heads * K", "config.num_heads * K")],
        "keys only": [("kv_bytes = 2 * L", "kv_bytes = L")],
        "reads the embedding table": [
            (
                "D * (config.vocab_size + 1)",
                "D * ((2 - config.tie_embeddings) * config.vocab_size + 1)",
            ),
        ],
        "ignores the context": [(" + kv_bytes * context * batch_size", "")],
        "speed of one text": [("bandwidth / moved * batch_size", "bandwidth / moved")],
    },
    "beam_search": {
        "score without the length": [("total / length**length_penalty", "total")],
        "length without the end": [
            ("length**length_penalty", "max(1, length - 1)**length_penalty")
        ],
        "ends take places in the beam": [(LIVE, ENDS_TAKE_PLACES)],
        "drops what the limit cuts": [(" or length == max_new_tokens", "")],
        "stops at num_beams texts": [(" and hope <= finished[-1][0]", "")],
        "never stops early": [("if len(finished) == num_beams", "if False")],
        "hopes for the present length": [("max_new_tokens**length_penalty", LENGTH)],
        "greedy": [("[:num_beams]\n        hope", "[:1]\n        hope")],
        "a call for each prefix": [
            ("log_probs([ids for _, ids in live])", "torch.cat([log_probs([x]) for _, x in live])")
        ],
    },
}
