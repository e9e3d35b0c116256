"""Wrong answers to lab 15's questions, as changes of the solution or as another body for it."""

from grader.mutants import Mutants

BOTTOM = "torch.minimum(groups.min(dim=2).values, nothing)"
TOP = "torch.maximum(groups.max(dim=2).values, nothing)"
WHOLE_ROWS = [
    (BOTTOM, "torch.minimum(groups.amin(dim=(1, 2)), nothing)[:, None].expand(groups.shape[:2])"),
    (TOP, "torch.maximum(groups.amax(dim=(1, 2)), nothing)[:, None].expand(groups.shape[:2])"),
]

# Wastes bits where the width is no divisor of 8.
WHOLE_CODES = """
    each = 8 // bits
    missing = -len(codes) % each
    padded = torch.nn.functional.pad(codes.int(), (0, missing)).view(-1, each)
    return (padded << bits * torch.arange(each)).sum(dim=1).to(torch.uint8)
"""

CODES = "torch.bucketize(blocks / divisor[:, None], borders)"
DIVISOR = "torch.where(largest > 0, largest, torch.ones_like(largest))"

SHARE = """\
torch.linalg.solve(
            hessian[later, later], hessian[later, column]
        )
"""
MOVES_EARLIER = """
    inverse = torch.linalg.inv(hessian)
    delta = rounded - weight[:, column]
    return weight + delta[:, None] * inverse[column] / inverse[column, column]
"""

SCORES = "weight.abs() * norms"
BEST = "best = scores.topk(n, dim=1).indices"
MASK = """\
mask = torch.zeros_like(scores, dtype=torch.bool)
    return mask.scatter(1, best, True).reshape(weight.shape)
"""

RANDOM_PROBE = """
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(2 * group_size, 3 * group_size, generator=generator)
    error = (quantize(weight) - weight).abs().max()
    return "healthy" if error < 0.3 else "wrong_axis" if error < 1 else "codes_wrapped"
"""

MUTANTS: Mutants = {
    "quantize_groups": {
        "2^bits steps": [("(2**bits - 1)\n", "2**bits\n")],
        "grid without zero": [
            (BOTTOM, "groups.min(dim=2).values"),
            (TOP, "groups.max(dim=2).values"),
        ],
        "no zero point": [("torch.round(-bottom / scale)", "torch.zeros_like(scale)")],
        "scales made in bfloat16": [
            ("weight.float().view", "weight.view"),
            ("O, I), scale, zero", "O, I), scale.float(), zero"),
        ],
        "one scale a row": WHOLE_ROWS,
    },
    "pack_codes": {
        "one code a byte": "return codes.clone()",
        "whole codes in each byte": WHOLE_CODES,
        "highest bit first": [
            ("torch.arange(bits)", "torch.arange(bits - 1, -1, -1)"),
            ("torch.arange(8)", "torch.arange(7, -1, -1)"),
        ],
        "last byte lost": [
            ("torch.nn.functional.pad(stream, (0, missing))", "stream[: len(stream) // 8 * 8]"),
        ],
    },
    "encode_codebook": {
        "rounds down": [
            (CODES, "torch.bucketize(blocks / divisor[:, None], levels, right=True) - 1"),
        ],
        "one scale for all": [
            ("blocks.abs().max(dim=1).values", "blocks.abs().max().expand(len(blocks))"),
        ],
        "divides zeros by zero": [(DIVISOR, "largest")],
        "compares with all levels at once": [
            (CODES, "((blocks / divisor[:, None])[..., None] - levels).abs().argmin(dim=2)"),
        ],
    },
    "repair": {
        "wrong sign": [("-= delta * share", "+= delta * share")],
        "not divided by the diagonal": [
            (SHARE, "-torch.linalg.inv(hessian[column:, column:])[0, 1:]\n"),
        ],
        "inverse over all columns": [
            (
                f"share = {SHARE}",
                "inverse = torch.linalg.inv(hessian)\n"
                "        share = -inverse[column, later] / inverse[column, column]\n",
            ),
        ],
        "moves earlier columns": MOVES_EARLIER,
        "only rounds": [("result[:, later] -= delta * share", "")],
        "changes the weight in place": [("return result", "return weight.copy_(result)")],
    },
    "wanda_mask": {
        "magnitude": [(SCORES, "weight.abs()")],
        "mean magnitude of inputs": [("x.square().sum(dim=0).sqrt()", "x.abs().mean(dim=0)")],
        "sign kept": [(SCORES, "weight * norms")],
        "threshold keeps all ties": [
            (BEST, "least = scores.topk(n, dim=1).values[:, -1:]"),
            (MASK, "return (scores >= least).reshape(weight.shape)\n"),
        ],
        "drops n, keeps m - n": [("scores.topk(n,", "scores.topk(m - n,")],
    },
    "diagnose": {
        "never tries negative weights": [("spoils(-ramp)", "spoils(ramp)")],
        "one group a row": [('"groups_mixed" if spoils(wide) else "healthy"', '"healthy"')],
        "takes columns for groups": [('return "wrong_axis"', 'return "groups_mixed"')],
        "one random probe": RANDOM_PROBE,
    },
}
