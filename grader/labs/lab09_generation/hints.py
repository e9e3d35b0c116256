"""Hints of lab 09, one a kind of finding: the first whose words are in its name is shown."""

HINTS: dict[str, dict[str, str]] = {
    "next_token_distribution": {
        "unchanged": "an operation that ends in _, or writes to a slice, changes its argument.",
        "together": "temperature, then top-k, then top-p; each works on what the one before left.",
        "temperature 0": "greedy needs no division; of equal logits the first wins.",
        "temperature alone": "divide the logits, then the softmax.",
        "equal logits": "compare every logit with the k-th largest; equal ones stay.",
        "vocabulary's size": "there may be fewer than k tokens.",
        "of equal tokens": "as many of the equal tokens stay as are needed, and not all of them.",
        "top-k": "what stays must sum to 1 again.",
        "tiny": "the token that crosses top_p stays, so at least one does.",
        "top-p": "which token crosses top_p, and does the result sum to 1 again?",
        "bfloat16": "convert before you compute.",
    },
    "draw": {
        "do not sum to 1": "divide the cumulative sums by the row's own last one.",
        "u = 0": "a token of probability 0 ends where it begins: > and not >=.",
        "border": "at C(v) = u the next token begins.",
        "just below 1": "beyond the last token that has a probability there is nothing to draw.",
        "3001": "float32 loses small terms in a large sum: convert before summing.",
    },
    "attend": {
        "unchanged": "write into the cache's buffers, not into q, k or v.",
        "changes nothing": "look whether there is room before you write.",
        "length": "raise the cache's length by the number of new tokens.",
        "in the cache": "the new rows begin at the cache's length; all others stay as they were.",
        "raises ValueError": "compare length + T with the buffer's third dimension.",
        "chunk 1": "the scale, the triangle, and which key/value head each query head uses.",
        "output": "the t-th new token stands at position length + t; which keys come before it?",
    },
    "until_stop": {
        "whole text": "join what was held back with the next piece, look for the earliest stop; "
        "what is held when the pieces run out is shown.",
        "pieces taken": "once a stop string is complete, no further piece is taken.",
        "shown before": "hold back the longest end that begins a stop string, and nothing else.",
    },
    "predict_decoding": {
        "KV bytes": "keys and values, in every layer, for the key/value heads.",
        "head apart": "a table that is looked up is not read.",
        "a batch": "the weights once a step, the cache and a token once for each text.",
        "bytes read": "every matrix, the norms and the head, and the cache of the context.",
    },
    "beam_search": {
        "best text": "texts are ranked by score, and a text that reached the limit counts as well.",
        "score": "divide the sum of log-probabilities by the number of tokens, eos among them, "
        "to the power of length_penalty.",
        "all texts": "an end of sequence takes no place from the prefixes that go on.",
        "asked for": "all prefixes of a step in one call, at most num_beams; and no call once none "
        "of them can still beat the worst of num_beams finished texts.",
    },
}
