"""Wrong answers to lab 04's questions, as changes of the solution or as another body for it."""

from grader.mutants import Mutants

OUTERMOST = "1 - (1 / (2 * count) + 1 / (2 * (count - 1))) / 2"
HALVES = "quantiles(count // 2), quantiles(count // 2 - 1)"
LEVELS = "(levels / levels.max()).float()"
FLAT = "flat = weight.flatten().float()"
BLOCKS = "blocks = nn.functional.pad(flat, (0, -n % block_size))"
DIVISOR = "divisor = torch.where(absmax > 0, absmax, 1.0)"
PLACES = "nearest(blocks / divisor[:, None], codes).flatten()[:n]"
PACKED = "(places[0::2] << 4) | places[1::2], absmax"
PAIRS = "pairs = torch.cartesian_prod(codes, codes)  # (256, 2)"
WEIGHT = "(values * scales).view(shape).to(dtype)"
SCALES = "absmax.repeat_interleave(block_size)[:n]"
OFFSET = "offset = absmax.mean()"
RESTORED = "table[codes.int()] * second[:, None] + offset"
SECOND = "second = blocks.abs().amax(dim=1)"
MADE = "weight = expand().to(x.dtype)"
AGAIN = "again = ctx.expand().to(grad.dtype)"
BACK = "return grad @ again, None"
MEAN = "m = betas[0] * m + (1 - betas[0]) * grad"
SQUARE = "v = betas[1] * v + (1 - betas[1]) * grad**2"
ROOT = "root = (v / (1 - betas[1] ** step)).sqrt() + eps"
CHANGE = "change = -lr * m / (1 - betas[0] ** step) / root"
GUARD = "codes = torch.where(v > 0, codes.clamp(min=1), codes)"
KEPT = "codes, absmax = packed(v, tables[1])"
RESIDUAL = "quantize(weight - update)"
SHARE = "root = (S[:rank] / scaling).sqrt()"
FACTORS = "A, B = root[:, None] * Vh[:rank], U[:, :rank] * root"
SVD = "torch.linalg.svd(weight - quantized,"
UPDATE = "update = scaling * (B @ A)"
PACKED_BYTES = "packed += ceil(O * I, 2) + blocks + 4 * ceil(blocks, 256) + 4"
MOMENTS = "moments += 2 * (count + 4 * ceil(count, 256))"
PLAN = "return packed + 2 * others, 4 * trained, 4 * trained, moments, bits"
BITS = "8 * packed / sum(O * I for O, I in shapes)"

EVENLY_SPACED = """
    half = 2 ** (bits - 1)
    upper = torch.arange(1, half + 1) / half
    lower = torch.arange(1, half) / (half - 1)
    return torch.cat([-lower.flip(0), torch.zeros(1), upper])
"""
BLOCK_BY_BLOCK = """
    flat, pieces, scales = weight.flatten().float(), [], []
    for block in flat.split(block_size):
        scale = block.abs().max()
        places = nearest(block / scale if scale > 0 else block, codes)
        places = nn.functional.pad(places, (0, len(places) % 2))
        pieces.append((places[0::2] << 4) | places[1::2])
        scales.append(scale)
    return torch.cat(pieces), torch.stack(scales)
"""
ROW_BY_ROW = """
    rows = weight.float()
    rows = nn.functional.pad(rows, (0, -rows.shape[1] % block_size))
    blocks = rows.reshape(-1, block_size)
    absmax = blocks.abs().amax(dim=1)
    divisor = torch.where(absmax > 0, absmax, 1.0)
    places = nearest(blocks / divisor[:, None], codes).view(rows.shape)
    places = places[:, : weight.shape[1]].flatten()
    places = nn.functional.pad(places, (0, len(places) % 2))
    return (places[0::2] << 4) | places[1::2], absmax
"""
SAVES_THE_WEIGHT = [
    (MADE, "pass"),
    ("ctx.expand = expand", "weight = expand().to(x.dtype)\n        ctx.save_for_backward(weight)"),
    (AGAIN, "(again,) = ctx.saved_tensors"),
]
KEEPS_THE_WEIGHT = [
    (MADE, "pass"),
    ("ctx.expand = expand", "ctx.weight = weight = expand().to(x.dtype)"),
    (AGAIN, "again = ctx.weight"),
]
KEEPS_BOTH = [(MADE, MADE + "\n        ctx.weight = weight")]
LOOKS_AT_THE_OUTPUT_ONLY = """
    weight, none = torch.zeros(2, 4), torch.zeros(1, 4)
    weight[0, 0] = 1.0
    x = torch.tensor([[1 + 2**-10, 0.0, 1.0, 0.0]])
    y, _ = layer(weight, none, torch.zeros(2, 1), x, torch.zeros(1, 2))
    if y[0, 0] < 0.5:
        return "halves_swapped"
    return "low_precision" if y[0, 0] == 1 else "healthy"
"""

MUTANTS: Mutants = {
    "normal_float": {
        "as many below as above": [
            (HALVES, "quantiles(count // 2), quantiles(count // 2)"),
        ],
        "halves exchanged": [(HALVES, "quantiles(count // 2 - 1), quantiles(count // 2)")],
        "without a zero": [("torch.cat([-lower, torch.zeros(1), upper.flip(0)])",
                            "torch.cat([-quantiles(count // 2), upper.flip(0)])")],
        "one step for both halves": [
            ("torch.cat([-lower, torch.zeros(1), upper.flip(0)])",
             "torch.cat([-upper[1:], torch.zeros(1), upper.flip(0)])"),
        ],
        "outermost of the even half alone": [(OUTERMOST, "1 - 1 / (2 * count)")],
        "outermost of four bits": [(OUTERMOST, "0.9677083")],
        "outermost ignored": [("if outermost is None:", "if True:")],
        "not divided by the largest": [(LEVELS, "levels.float()")],
        "equally spaced levels": EVENLY_SPACED,
        "descending": [(LEVELS, "(levels / levels.max()).float().flip(0)")],
        "float64": [(LEVELS, "levels / levels.max()")],
    },
    "pack_weight": {
        "low half first": [(PACKED, "(places[1::2] << 4) | places[0::2], absmax")],
        "block by block": BLOCK_BY_BLOCK,
        "blocks begin anew in each row": ROW_BY_ROW,
        "packs the filling": [("codes).flatten()[:n]", "codes).flatten()"),
                              ("(0, n % 2)", "(0, len(places) % 2)")],
        "blocks of zeros are nan": [(DIVISOR, "divisor = absmax")],
        "largest, not largest magnitude": [("blocks.abs().amax(dim=1)", "blocks.amax(dim=1)")],
        "one scale for all": [
            ("blocks.abs().amax(dim=1)", "blocks.abs().max().expand(len(blocks))"),
        ],
        "bfloat16 throughout": [(FLAT, "flat = weight.flatten()")],
        "column by column": [(FLAT, "flat = weight.T.flatten().float()")],
        "level below": [
            (PLACES,
             "(torch.bucketize(blocks / divisor[:, None], codes, right=True) - 1)"
             ".clamp(min=0).to(torch.uint8).flatten()[:n]"),
        ],
        "drops an odd weight": [("(0, n % 2)", "(0, -(n % 2))")],
    },
    "unpack_weight": {
        "low half first": [
            ("pairs[packed.int()].flatten()[:n]", "pairs[packed.int()].flip(1).flatten()[:n]"),
        ],
        "multiplies in bfloat16": [(WEIGHT, "(values.to(dtype) * scales.to(dtype)).view(shape)")],
        "one dtype for all": [(WEIGHT, "(values * scales).view(shape)")],
        "scales of the wrong blocks": [
            (SCALES, "absmax.roll(1).repeat_interleave(block_size)[:n]"),
        ],
        "scales dealt out in turn": [(SCALES, "absmax.repeat(block_size)[:n]")],
        "divides by the scale": [("values * scales", "values / scales")],
        "transposed": [("(values * scales).view(shape)", "(values * scales).view(shape[::-1]).T")],
        "scales the codes in place": [(PAIRS, "pairs = torch.cartesian_prod(codes.mul_(1.5), codes)"
                                       )],
    },
    "double_quantize": {
        "without the mean": [(OFFSET, "offset = 0 * absmax.mean()")],
        "a mean for each block": [
            (OFFSET,
             "means = [b.mean() for b in absmax.split(block_size)]\n"
             "    offset = torch.stack(means).repeat_interleave(block_size)[:n]"),
            ("+ offset\n", "+ offset[0]\n"),
        ],
        "mean not added back": [(RESTORED, "table[codes.int()] * second[:, None]")],
        "largest for mean": [(OFFSET, "offset = absmax.max()")],
        "one float for all": [(SECOND, "second = blocks.abs().max().expand(len(blocks))")],
        "equal scales are nan": [("torch.where(second > 0, second, 1.0)", "second")],
        "returns what was given": [("restored.flatten()[:n]", "absmax.clone()")],
        "offset as a number": [("second, offset, restored", "second, offset.item(), restored")],
        "takes the mean off in place": [("(absmax - offset,", "(absmax.sub_(offset),")],
        "filling beside the codes": [("codes.flatten()[:n]", "codes.flatten()")],
    },
    "frozen_product": {
        "saves the weight for backward": SAVES_THE_WEIGHT,
        "keeps the weight on ctx": KEEPS_THE_WEIGHT,
        "keeps the weight and expands again": KEEPS_BOTH,
        "saves x": [
            ("ctx.expand = expand", "ctx.expand = expand\n        ctx.save_for_backward(x)"),
        ],
        "keeps x on ctx": [("ctx.expand = expand", "ctx.expand, ctx.x = expand, x")],
        "no gradient": [(BACK, "return None, None")],
        "gradient of zeros": [(BACK, "return 0 * grad @ again, None")],
        "transposed in backward": [
            (BACK, "return (grad @ again).flip(-1), None"),
        ],
        "expands twice in forward": [(MADE, "expand()\n        " + MADE)],
        "result in the dtype of the weight": [
            (MADE, "weight = expand()"),
            ("return x @ weight.T", "return x.to(weight.dtype) @ weight.T"),
        ],
        "product in bfloat16": [
            ("return x @ weight.T", "return (x.bfloat16() @ weight.bfloat16().T).to(x.dtype)"),
        ],
    },
    "adam8bit_update": {
        "small v vanishes": [(GUARD, "pass")],
        "zero v is lifted": [(GUARD, "codes = codes.clamp(min=1)")],
        "update from packed moments": [
            (ROOT,
             "m = unpacked(*packed(m, tables[0]), tables[0])\n"
             "    v = unpacked(*packed(v, tables[1]), tables[1])\n    " + ROOT),
        ],
        "one table for both": [(KEPT, "codes, absmax = packed(v, tables[0])")],
        "no correction for t": [
            (ROOT, "root = v.sqrt() + eps"),
            (CHANGE, "change = -lr * m / root"),
        ],
        "correction of the step before": [("betas[0] ** step", "betas[0] ** max(1, step - 1)")],
        "eps under the root": [(ROOT, "root = (v / (1 - betas[1] ** step) + eps).sqrt()")],
        "betas exchanged": [("n = len(grad)", "n, betas = len(grad), betas[::-1]")],
        "forgets the state": [("if state is not None:", "if False:")],
        "uphill": [("change = -lr", "change = lr")],
        "one scale for all": [
            ("absmax = blocks.abs().amax(dim=1)",
             "absmax = blocks.abs().max().expand(len(blocks))"),
        ],
        "averages the gradient's magnitude": [("grad**2", "grad.abs()")],
        "blocks of 256 only": [("n = len(grad)", "n, block_size = len(grad), 256")],
    },
    "loftq": {
        "without s": [(SHARE, "root = S[:rank].sqrt()"), (UPDATE, "update = B @ A")],
        "s on one side": [(SHARE, "root = S[:rank].sqrt()")],
        "quantizes the weight each round": [(RESIDUAL, "quantize(weight)")],
        "decomposes the weight": [(SVD, "torch.linalg.svd(weight,")],
        "decomposes what was quantized": [
            (SVD, "torch.linalg.svd(weight - update - quantized,"),
        ],
        "singular values in B alone": [
            (FACTORS, "A, B = Vh[:rank], U[:, :rank] * root.square()"),
        ],
        "smallest directions": [
            (FACTORS, "A, B = root[:, None] * Vh[-rank:], U[:, -rank:] * root"),
        ],
        "one round more": [("range(rounds)", "range(rounds + 1)")],
        "one round only": [("range(rounds)", "range(1)")],
        "adds for taking off": [(RESIDUAL, "quantize(weight + update)")],
        "quantizes after the last round": [
            ("return quantized,", "quantized = quantize(weight - update)\n    return quantized,"),
        ],
    },
    "memory_plan": {
        "four bytes a scale": [(PACKED_BYTES, "packed += ceil(O * I, 2) + 4 * blocks")],
        "forgets the offset": [(PACKED_BYTES, PACKED_BYTES[: -len(" + 4")])],
        "rounds once for all": [
            (PACKED_BYTES, "packed += O * I * (1 / 2 + (1 + 4 / 256) / block_size) + 4"),
            (PLAN, "return int(packed) + 2 * others, 4 * trained, 4 * trained, moments, bits"),
        ],
        "two bytes a trained number": [
            (PLAN, "return packed + 2 * others, 2 * trained, 2 * trained, moments, bits"),
        ],
        "moments in float32": [(MOMENTS, "moments += 8 * count")],
        "scales of moments forgotten": [(MOMENTS, "moments += 2 * count")],
        "one moment": [(MOMENTS, "moments += count + 4 * ceil(count, 256)")],
        "one adapter factor": [("(rank * I, O * rank)", "(rank * I,)")],
        "gradients of the base": [
            (PLAN, PLAN.replace("4 * trained, moments", "4 * trained + 2 * others, moments")),
        ],
        "others in four bits": [(PLAN, PLAN.replace("2 * others", "others // 2"))],
        "others among the bits": [(BITS, BITS.replace("packed", "(packed + 2 * others)"))],
        "bytes for bits": [(BITS, "packed / sum(O * I for O, I in shapes)")],
    },
    "diagnose": {
        "looks at the outputs only": LOOKS_AT_THE_OUTPUT_ONLY,
        "an update on the largest weight": [
            ("A[0, 2] = B[1, 0] = 0.1", "A[0, 0] = B[0, 0] = 0.1"),
            ("abs(y[0, 1] - 0.01) > 1e-4", "abs(y[0, 0] - 1.01) > 1e-2"),
        ],
        "never looks at the gradient": [("if x_grad[0, 0] < 0.5:", "if False:")],
        "inputs that bfloat16 holds": [("1 + 2**-10", "1.0"), ("y[0, 0] == 1", "y[0, 0] != 1")],
        "takes what is moved for rounding": [("if y[0, 0] < 0.5:", "if y[0, 0] != x[0, 0]:")],
        "always healthy": "return 'healthy'",
    },
}  # fmt: skip
