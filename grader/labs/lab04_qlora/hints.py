"""Hints of lab 04, one a kind of finding: the first whose words are in its name is shown."""

UNCHANGED = "an operation that ends in _, or writes through a slice, changes its argument."

HINTS: dict[str, dict[str, str]] = {
    "normal_float": {
        "given": "space the probabilities equally from `outermost` down to 1/2, which is left out.",
        "bits": "how many levels are above 0, how many below, and what is `outermost` for 2^b?",
    },
    "pack_weight": {
        "unchanged": UNCHANGED,
        "absmax": "blocks run on across rows; the last may be short; bfloat16 goes to float32.",
        "zeros": "0 / 0 is nan: divide a block of zeros by something else.",
        "odd": "pack the long vector in pairs, not block by block, without the filling; the first "
        "of two codes is the high half.",
    },
    "unpack_weight": {
        "unchanged": UNCHANGED,
        "bfloat16": "multiply in float32 and round once, at the end.",
        "odd": "the last byte may hold one weight, and the last block fewer than the others.",
    },
    "double_quantize": {
        "unchanged": UNCHANGED,
        "offset": "one mean for all scales, as a tensor.",
        "equal": "where nothing is left after the mean, there is nothing to divide by.",
        "second": "the largest magnitude in each block, of what is left after the mean.",
        "restored": "level, times the block's magnitude, plus what was taken off.",
    },
    "frozen_product": {
        "unchanged": UNCHANGED,
        "forward pass": "one expansion makes the product.",
        "backward pass": "backward has to make the weight again, once.",
        "no dense weight": "keep what makes the weight, not the weight, in no dtype and nowhere.",
        "x is not kept": "a frozen weight needs no gradient: what would x be for?",
        "gradient": "y = x W^T: what does a small change of x do to tr(G^T y)?",
        "output": "(..., I) times (I, O), in the dtype of x.",
    },
    "adam8bit_update": {
        "unchanged": UNCHANGED,
        "change": "unpack, average, correct both moments for t; the moments here are not packed "
        "yet.",
        "of v": "v of a block shares one scale; above 0 it never gets level 0, and 0 it stays.",
        "of m": "the largest magnitude of each block, and the place of the nearest level.",
    },
    "loftq": {
        "unchanged": UNCHANGED,
        "calls": "each round quantizes once and then decomposes.",
        "lengths": "each factor gets the root of a singular value.",
        "product": "s B A is the best matrix of rank R for W less what was quantized last.",
    },
    "memory_plan": {
        "base": "bytes of packed codes, scale codes, one float32 a block of 256 scales and one "
        "offset, matrix by matrix, then the others.",
        "adapters": "R numbers for each input and for each output of a matrix.",
        "moments": "two moments, each a byte a number and four a block, factor by factor.",
        "bits": "packed bytes without the others, times 8, over packed weights.",
    },
    "diagnose": {},
}
