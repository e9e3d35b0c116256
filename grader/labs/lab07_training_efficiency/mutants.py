"""Wrong answers to lab 07's questions, as changes of the solution or as another body for it."""

from grader.mutants import Mutants

SAFE = "safe = top.masked_fill(top == -math.inf, 0.0)"
TILES = "range(0, stop + ahead, block_k)"
DELTA = "delta = (d_out * out).sum(dim=1, keepdim=True)"
P_TILE = "(scores - lse.unsqueeze(1)).exp()"
STATE = "ctx.function, ctx.state = function, torch.get_rng_state()"
FOUND = "found = iter(torch.autograd.grad(y, wanted, dy))"
UNSCALE = "gradient.div_(scale)"
CLIP = "nn.utils.clip_grad_norm_(parameters, clip_norm)"
COUNTED = "int((labels[:, 1:] != -100).sum())"
SHARE = "(ranks * loss / total).backward()"

AUTOGRAD_KEEPS = """
    total = hidden.new_zeros(())
    for rows, want in zip(hidden.split(chunk_rows), targets.split(chunk_rows)):
        total = total + nn.functional.cross_entropy(
            rows @ weight.T, want, ignore_index=-100, reduction="sum"
        )
    return total
"""
ALL_AT_ONCE = """
    return nn.functional.cross_entropy(
        hidden @ weight.T, targets, ignore_index=-100, reduction="sum"
    )
"""
ALL_KEYS_AT_ONCE = """
    T, K = q.shape
    tiles = [load(s, min(s + block_k, length)) for s in range(0, length, block_k)]
    k, v = (torch.cat(parts) for parts in zip(*tiles, strict=True))
    seen = torch.arange(length) <= torch.arange(T)[:, None] + length - T
    scores = (q @ k.T / math.sqrt(K)).masked_fill(~seen, -math.inf)
    return scores.softmax(1) @ v, scores.logsumexp(1)
"""
VISIBLE_KEYS_AT_ONCE = """
    T, K = q.shape
    out, sums = [], []
    for start in range(0, T, block_q):
        places = torch.arange(start, min(start + block_q, T)) + length - T
        ends = range(0, int(places[-1]) + 1, block_k)
        tiles = [load(s, min(s + block_k, length)) for s in ends]
        k, v = (torch.cat(parts) for parts in zip(*tiles, strict=True))
        scores = q[start : start + block_q] @ k.T / math.sqrt(K)
        scores = scores.masked_fill(torch.arange(len(k)) > places[:, None], -math.inf)
        out.append(scores.softmax(1) @ v)
        sums.append(scores.logsumexp(1))
    return torch.cat(out), torch.cat(sums)
"""
# torch.utils.checkpoint without re-entrance: gradients are on in the first run.
KEEPS_THE_GRAPH = """
    from torch.utils.checkpoint import checkpoint as library
    return library(function, x, use_reentrant=False)
"""
NO_CHECKPOINT = """
    return function(x)
"""
SECOND_PROBE_ONLY = """
    one = torch.ones(1, 1, dtype=torch.bool)
    tiny = step(torch.zeros(1), torch.full((1, 1, 1), 2.0**-27), one)
    return "no_scaling" if tiny.item() == 0 else "healthy"
"""

MUTANTS: Mutants = {
    "merge_states": {
        "adds without rescaling": [
            ("weight = (old - safe).exp()", "weight = torch.ones_like(old)"),
        ],
        "rescales the sum, not the values": [
            ("total = total + weight.unsqueeze(1) * part", "total = total + part"),
        ],
        "the smaller maximum": [
            ("torch.maximum(first[0], second[0])", "torch.minimum(first[0], second[0])"),
        ],
        "nan where nothing is seen": [(SAFE, "safe = top")],
        "returns the finite stand-in": [("return top, norm, total", "return safe, norm, total")],
        "upside down": [("(old - safe).exp()", "(safe - old).exp()")],
        "values already divided": [
            ("return top, norm, total", "return top, norm, total / norm.unsqueeze(1)"),
        ],
    },
    "tiled_attention": {
        "naive exponentials": [
            ("new = torch.maximum(top, scores.amax(dim=1))", "new = torch.zeros_like(top)"),
        ],
        "never rescales": [("(top - new).exp()", "torch.ones_like(top)")],
        "divides in every tile": [
            ("total = old.unsqueeze(1) * total + p @ v",
             "total = (old.unsqueeze(1) * total + p @ v) / p.sum(dim=1, keepdim=True)"),
        ],
        "not causal": [(TILES, "range(0, length, block_k)"),
                       ("scores.masked_fill(hidden, -math.inf)", "scores")],
        "causal from the first key": [("ahead = length - T", "ahead = 0")],
        "visits hidden tiles": [(TILES, "range(0, length, block_k)")],
        "skips the diagonal": [(TILES, "range(0, max(1, stop + ahead - block_k), block_k)")],
        "mask shifted by one": [("keys > places", "keys >= places + 2")],
        "no 1 / sqrt(K)": [(" / math.sqrt(K)", "")],
        "log-sum-exp without the maximum": [("top + norm.log()", "norm.log()")],
        "all keys at once": ALL_KEYS_AT_ONCE,
        "all visible keys at once": VISIBLE_KEYS_AT_ONCE,
    },
    "tile_gradients": {
        "delta from this tile": [
            (DELTA, "delta = (p * (d_out @ v.T)).sum(dim=1, keepdim=True)"),
        ],
        "no delta": [(DELTA, "delta = 0.0")],
        "softmax over the tile": [(P_TILE, "scores.softmax(dim=1).nan_to_num()")],
        "exponentials apart": [(P_TILE, "scores.exp() / lse.unsqueeze(1).exp()")],
        "scale forgotten": [("ds = scale * p", "ds = p")],
        "scale twice": [("ds = scale * p", "ds = scale * scale * p")],
        "mask forgotten": [(".masked_fill(hidden, -math.inf)", "")],
        "dv from dP": [("p.T @ d_out", "(d_out @ v.T).T @ d_out")],
        "plus delta": [("(d_out @ v.T - delta)", "(d_out @ v.T + delta)")],
    },
    "checkpoint": {
        "forgets the random state": [("torch.set_rng_state(ctx.state)", "pass")],
        "leaves the old state behind": [("torch.set_rng_state(now)", "pass")],
        "state taken after the run": [
            (STATE, "ctx.function = function"),
            ("return function(x)", "y = function(x)\n"
             "            ctx.state = torch.get_rng_state()\n"
             "            return y"),
        ],
        "parameters get nothing": [
            ("*(next(found) if needed else None for needed in needs)",
             "*(next(found) if needed and i == 0 else None for i, needed in enumerate(needs))"),
        ],
        "writes into .grad": [
            (FOUND, "torch.autograd.backward(y, dy)\n"
             "            found = iter([tensor.grad for tensor in wanted])"),
        ],
        "needs x to train": [
            ("Recompute.apply(function, x, *parameters)",
             "Recompute.apply(function, x.requires_grad_(), *parameters)"
             " if x.requires_grad else function(x).detach().requires_grad_()"),
        ],
        "keeps everything": NO_CHECKPOINT,
        "the library's, gradients on": KEEPS_THE_GRAPH,
        "runs three times": [("y = ctx.function(again)", "ctx.function(again)\n"
                              "                torch.set_rng_state(ctx.state)\n"
                              "                y = ctx.function(again)")],
        "ignores what arrives": [
            (FOUND, FOUND.replace("dy", "torch.ones_like(dy)")),
        ],
    },
    "scaled_step": {
        "never unscales": [(UNSCALE, "pass")],
        "clips before unscaling": [
            (UNSCALE, "pass"),
            (CLIP, CLIP + "\n        for gradient in gradients:\n            gradient.div_(scale)"),
        ],
        "clips each by itself": [
            (CLIP, "for p in parameters:\n            nn.utils.clip_grad_norm_([p], clip_norm)"),
        ],
        "never clips": [(CLIP, "pass")],
        "steps all the same": [("if finite:", "if True:")],
        "looks for nan only": [("gradient.isfinite().all()", "(~gradient.isnan()).all()")],
        "looks for inf only": [("gradient.isfinite().all()", "(~gradient.isinf()).all()")],
        "looks at the first only": [
            ("for gradient in gradients)", "for gradient in gradients[:1])"),
        ],
        "a step of zeros": [
            ("    scale, finite_steps = scale / 2, 0",
             "    for gradient in gradients:\n            gradient.zero_()\n"
             "        optimizer.step()\n        scale, finite_steps = scale / 2, 0"),
        ],
        "count survives an overflow": [("scale / 2, 0", "scale / 2, finite_steps")],
        "count survives a growth": [
            ("scale, finite_steps = min(2 * scale, 2.0**127), 0",
             "scale = min(2 * scale, 2.0**127)"),
        ],
        "grows without end": [("min(2 * scale, 2.0**127)", "2 * scale")],
        "scale never falls": [("scale / 2, 0", "scale, 0")],
        "gradients stay": [("parameter.grad = None", "pass")],
    },
    "accumulate": {
        "mean of means": [
            (SHARE, "(loss / n / sum(1 for n in counts if n)).backward()"),
        ],
        "sum, not mean": [(SHARE, "loss.backward()")],
        "first column counted": [(COUNTED, "int((labels != -100).sum())")],
        "counts padding": [(COUNTED, "labels[:, 1:].numel()")],
        "no shift": [("logits[:, :-1]", "logits[:, 1:]")],
        "one backward for all": [
            (SHARE, "held.append(ranks * loss / total)"),
            ("nats = 0.0", "nats, held = 0.0, []"),
            ("return nats, sum(counts)", "sum(held).backward()\n    return nats, sum(counts)"),
        ],
        "runs empty ones": [("if n == 0:", "if n < 0:")],
        "ranks forgotten": [("ranks * loss / total", "loss / total")],
        "other ranks' tokens forgotten": [
            ("total = sum(counts) if total is None else total", "total = sum(counts)"),
        ],
        "returns the mean": [
            ("return nats, sum(counts)", "return nats / sum(counts), sum(counts)"),
        ],
    },
    "chunked_loss": {
        "all at once": ALL_AT_ONCE,
        "chunks whose softmax autograd keeps": AUTOGRAD_KEEPS,
        "factor ignored": [
            ("return scaled(ctx.d_hidden), scaled(ctx.d_weight), None, None",
             "return ctx.d_hidden, ctx.d_weight, None, None"),
        ],
        "mean, not sum": [("loss.append(nats.sum())", "loss.append(nats.mean())")],
        "padding counted": [
            ("kept = targets != -100", "kept = torch.ones_like(targets).bool()"),
            ("want = h[part], y[part]", "want = h[part], y[part].clamp(min=0)"),
        ],
        "last chunk's weights only": [("d_weight += error.T @ rows", "d_weight = error.T @ rows")],
        "gradient without the one-hot": [("error = p - ", "error = p - 0 * ")],
        "weight's gradient unasked": [
            ("d_weight = torch.zeros_like(weight) if wanted[1] else None",
             "d_weight = torch.zeros_like(weight)"),
        ],
        "chunks twice as long": [
            ("range(0, len(h), chunk_rows)", "range(0, len(h), 2 * chunk_rows)"),
            ("slice(at, at + chunk_rows)", "slice(at, at + 2 * chunk_rows)"),
        ],
        "no gradient of hidden": [("d_hidden[kept] = dh", "pass")],
    },
    "diagnose": {
        "never looks at uneven batches": [("if found < 0.9 * right:", "if False:")],
        "takes a short step for a mean": [("if found < 0.5 * right:", "if False:")],
        "never looks for stalled weights": [
            ('"no_master" if stalled else "healthy"', '"healthy"'),
        ],
        "small gradients only": SECOND_PROBE_ONLY,
        "weights too small to round": [("step(torch.ones(1), small", "step(torch.zeros(1), small")],
        "gradient that float16 holds": [("2.0**-27", "2.0**-20")],
    },
}  # fmt: skip
