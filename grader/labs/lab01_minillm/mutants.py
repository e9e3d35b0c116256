"""Wrong answers to lab 01's questions, as changes of the solution."""

from grader.mutants import Mutants

MEAN_SQUARE = "wide.square().mean(-1, keepdim=True)"
ONCE = "(unit * weight.float()).to(x.dtype)"
FREQUENCIES = "theta ** (-2 * torch.arange(W // 2) / W)"
ANGLES = "positions[:, None, :, None].float() * frequencies"
SPLIT = "left, right, rest = x.float().split((W // 2, W // 2, K - W), dim=-1)"
TURNED = "turned = torch.cat((left * c - right * s, left * s + right * c, rest), -1)"
TOGETHER = "q.unflatten(1, (G, H // G))"
SINKS = "seen = seen & ((places > own - window) | (places < sinks))"
SHARES = "scores.masked_fill(~seen, -math.inf).softmax(-1)"
MIXED = "mixed = attend(rotate(q), rotate(k), v)"
PRE_ATTENTION = 'x = x + attention(normed(x, "input"))'
PRE_NETWORK = 'return x + network(normed(x, "post_attention"))'
MULTIPLIED = "L * (shared + chosen * expert + 2 * q_width * context) + head"
LOOPS = """\
for choice in range(top_k):
        for token, expert in enumerate(best.indices[:, choice].tolist()):
"""
BY_TOKEN = """\
for token, experts in enumerate(best.indices.tolist()):
        for choice, expert in enumerate(experts):
"""
SHARE = "shares[token, choice]\n"
DROPPED = "(torch.tensor(asked) - capacity).clamp(min=0)"

MUTANTS: Mutants = {
    "rms_norm": {
        "subtracts the mean": [
            ("wide = x.float()", "wide = x.float() - x.float().mean(-1, keepdim=True)"),
        ],
        "eps outside of the root": [
            ("torch.sqrt(mean_square + eps)", "(mean_square.sqrt() + eps)")
        ],
        "no eps": [("mean_square + eps", "mean_square")],
        "sum for mean": [(MEAN_SQUARE, "wide.square().sum(-1, keepdim=True)")],
        "mean over all tokens": [(MEAN_SQUARE, "wide.square().mean()")],
        "statistics in the dtype of x": [(MEAN_SQUARE, "x.square().mean(-1, keepdim=True)")],
        "rounds before the weight as well": [(ONCE, "unit.to(x.dtype) * weight")],
        "returns float32": [(ONCE, "unit * weight.float()")],
        "forgets the weight": [(ONCE, "unit.to(x.dtype)")],
        "changes x in place": [("wide / torch", "wide.div_(torch"), ("+ eps)", "+ eps))")],
    },
    "rope": {
        "interleaved for half-split": [
            (SPLIT, "left, right, rest = x.float()[..., 0:W:2], x.float()[..., 1:W:2], x[..., W:]"),
            (
                TURNED,
                "pairs = torch.stack((left * c - right * s, left * s + right * c), -1)\n"
                "    turned = torch.cat((pairs.flatten(-2), rest), -1)",
            ),
        ],
        "positions begin at 0 in every row": [
            ("positions[:, None, :, None]", "(positions - positions[:, :1])[:, None, :, None]"),
        ],
        "the first row's positions for all": [("positions[:, None", "positions[:1, None")],
        "theta of the first transformer": [(FREQUENCIES, FREQUENCIES.replace("theta", "1e4"))],
        "turns the other way": [("torch.sin(angles)", "torch.sin(-angles)")],
        "frequencies of the whole head": [("W // 2) / W)", "W // 2) / K)")],
        "pairs halves of the whole head": [
            (
                SPLIT,
                f"{SPLIT}\n    right, rest = x.float()[..., K // 2 : K // 2 + W // 2], x[..., W:]",
            ),
        ],
        "no factor 2 in the exponent": [("(-2 * torch", "(-1 * torch")],
        "angles in the dtype of x": [
            (ANGLES, "positions[:, None, :, None].to(x.dtype) * frequencies.to(x.dtype)"),
        ],
        "returns float32": [("turned.to(x.dtype)", "turned")],
        "turns a part in place": [
            ("return turned.to(x.dtype)", "x[..., :W] = turned[..., :W].to(x.dtype)\n    return x"),
        ],
    },
    "grouped_attention": {
        "no scaling": [(" / math.sqrt(K)", "")],
        "divides by K": [("math.sqrt(K)", "K")],
        "heads share in turns": [
            (TOGETHER, "q.unflatten(1, (H // G, G)).transpose(1, 2)"),
            ("return (shares @ v[:, :, None])", "return (shares @ v[:, :, None]).transpose(1, 2)"),
        ],
        "mask after the softmax": [(SHARES, "scores.softmax(-1) * seen")],
        "softmax over the queries": [(".softmax(-1)", ".softmax(-2).nan_to_num()")],
        "queries are the first T": [("places[S - T :, None]", "places[:T, None]")],
        "sees the next token": [("places <= own", "places <= own + 1")],
        "does not see itself, but for the first": [
            ("places <= own\n", "(places < own) | ((own == 0) & (places == 0))\n"),
        ],
        "one key too many in the window": [("places > own - window", "places >= own - window")],
        "the window does not count itself": [("own - window)", "own - window + (window > 1))")],
        "no window": [("window is not None", "window is not None and window < 0")],
        "forgets the sinks": [(" | (places < sinks)", "")],
        "sinks before causality": [
            (SINKS, "seen = (seen & (places > own - window)) | (places < sinks)")
        ],
        "one sink too many": [("places < sinks", "places < sinks + 1")],
        "scales q in place": [("together = q.", "together = q.mul_(1.0001).")],
    },
    "block": {
        "turns the values as well": [(MIXED, "mixed = attend(rotate(q), rotate(k), rotate(v))")],
        "turns nothing": [(MIXED, "mixed = attend(q, k, v)")],
        "keys for queries": [(MIXED, "mixed = attend(rotate(q), rotate(k), k)")],
        "views heads without a transpose": [
            (
                "return wide.unflatten(-1, (-1, head_width)).transpose(1, 2)",
                "return wide.reshape(len(wide), -1, wide.shape[1], head_width)",
            ),
        ],
        "interleaves heads on the way back": [
            ("mixed.transpose(1, 2).flatten(2)", "mixed.permute(0, 2, 3, 1).flatten(2)"),
        ],
        "adds to the normalised stream": [
            (PRE_ATTENTION, 'x = normed(x, "input")\n    x = x + attention(x)'),
        ],
        "no residual around attention": [(PRE_ATTENTION, 'x = attention(normed(x, "input"))')],
        "no residual around the network": [(PRE_NETWORK, PRE_NETWORK.replace("x + ", ""))],
        "the first norm twice": [(PRE_NETWORK, PRE_NETWORK.replace("post_attention", "input"))],
        "network beside attention": [
            (PRE_ATTENTION, f"before = x\n    {PRE_ATTENTION}"),
            (PRE_NETWORK, PRE_NETWORK.replace("normed(x", "normed(before")),
        ],
        "silu on the other branch": [
            ('silu(through("mlp.gate_proj", y))', 'silu(through("mlp.up_proj", y))'),
            ('gate * through("mlp.up_proj", y)', 'gate * through("mlp.gate_proj", y)'),
        ],
        "gelu for silu": [("functional.silu", "functional.gelu")],
        "post-norm normalises the sublayer only": [
            (
                'normed(x + attention(x), "post_attention")',
                'x + normed(attention(x), "post_attention")',
            ),
        ],
        "post-norm is pre-norm": [
            ("if post_norm:", 'if post_norm:\n        x = normed(x, "post_attention")'),
        ],
        "adds to x in place": [(PRE_ATTENTION, 'x += attention(normed(x, "input"))')],
    },
    "predict_size": {
        "forgets the norms": [("D * (2 * L + 1) + (", "(")],
        "counts a shared table twice": [
            ("head if config.tie_embeddings else 2 * head", "2 * head")
        ],
        "keys and values for every head": [("config.num_kv_heads *", "config.num_heads *")],
        "heads as wide as the model together": [("config.num_heads * config.head_width", "D")],
        "forgets the router": [("moe.top_k, moe.num_experts)", "moe.top_k, 0)")],
        "works with all experts": [
            ("active = rest + L * (shared + chosen", "active = rest + L * (shared + E")
        ],
        "one operation a weight": [("2 * multiplied", "multiplied")],
        "multiplies with the table": [
            (MULTIPLIED, f"{MULTIPLIED} + (0 if config.tie_embeddings else head)")
        ],
        "a head for nothing": [(MULTIPLIED, MULTIPLIED.removesuffix(" + head"))],
        "scores without means": [("2 * q_width * context", "q_width * context")],
        "attention for the key heads only": [("2 * q_width * context", "2 * kv_width * context")],
        "all experts' work": [(MULTIPLIED, MULTIPLIED.replace("chosen", "E"))],
        "two matrices in the network": [("expert = 3", "expert = 2")],
    },
    "dispatch": {
        "token by token": [(LOOPS, BY_TOKEN)],
        "weights are not divided by their sum": [
            (" / best.values.sum(-1, keepdim=True)", ""),
        ],
        "softmax over the tokens": [("logits.softmax(-1)", "logits.softmax(0)")],
        "one place too few": [("if place < capacity", "if place < capacity - 1")],
        "the last to come stay": [
            ("if place < capacity:", "place = place % capacity\n            if True:"),
        ],
        "drops are not counted": [(DROPPED, "torch.zeros(E, dtype=torch.long)")],
        "dropped counts what was asked": [(DROPPED, "torch.tensor(asked)")],
        "empty places hold token 0": [
            ("torch.full((E, capacity), -1)", "torch.zeros(E, capacity).long()")
        ],
        "the router learns nothing": [(SHARE, f"{SHARE.strip()}.detach()\n")],
        "a full expert sends its token to the next": [
            (
                "place = asked[expert]",
                "expert = (expert + (asked[expert] >= capacity)) % E\n"
                "            place = asked[expert]",
            ),
        ],
        "weights of what is kept sum to 1": [
            (
                "return slots, gates, dropped",
                "kept = torch.zeros(len(logits)).index_add(\n"
                "        0, slots.clamp(min=0).flatten(), gates.flatten()\n    )\n"
                "    return slots, gates / kept[slots.clamp(min=0)].clamp(min=1e-9), dropped",
            ),
        ],
    },
    "diagnose": {
        "looks at the last query only": [
            (
                "layer.attend(equal, equal, equal, torch.arange(4)), equal)",
                "layer.attend(equal, equal, equal, torch.arange(4))[:, -1], equal[:, -1])",
            ),
        ],
        "tries number 0, which turns alike": [
            ("probe[..., 1], marks", "probe[..., 0], marks"),
            ("layer.theta ** (-2 / K)", "1.0"),
        ],
        "tries the values at position 0": [("torch.tensor([2])", "torch.tensor([0])")],
        "looks at the norm of random numbers around 0": [
            ("flat = torch.ones(1, K)", "flat = torch.tensor([1.0, -1.0]).repeat(1, K)"),
        ],
        "turns by the pair's number, not by its frequency": [
            ("2 * layer.theta ** (-2 / K)", "2 / K"),
        ],
        "values equal, but not alone": [
            ("torch.tensor([2])), lone)", "torch.tensor([2])), 2 * lone)"),
        ],
    },
}
