"""Hints of lab 08, one a kind of finding: the first whose words are in its name is shown."""

UNCHANGED = "an operation that ends in _, or writes through a slice, changes its argument."
NO_GRADIENT = "what was measured before the step is a number by now: detach it."

HINTS: dict[str, dict[str, str]] = {
    "response_log_probs": {
        "unchanged": UNCHANGED,
        "bfloat16": "go to float32 before the softmax.",
        "a token": "divide by the tokens that were summed; a row may have none.",
        "gradient": "only scores of response tokens get a gradient, and all of them a finite one.",
    },
    "optimal_policy": {
        "unchanged": UNCHANGED,
        "value": "put pi* into the objective: what is left but log Z?",
        "large": "exp(1000) is infinite; logsumexp is not.",
        "impossible": "what the reference never says, no reward makes possible.",
    },
    "dpo_loss": {
        "unchanged": UNCHANGED,
        "no gradient": NO_GRADIENT,
        "far apart": "log(sigmoid(x)) is log(0) for x = -200; torch has the composition.",
        "smoothed": "with probability label_smoothing the pair was noted the wrong way round.",
        "lengths": "each response's log-ratio is divided by its own length.",
    },
    "orpo_loss": {
        "unchanged": UNCHANGED,
        "near 0": "1 - exp(x) keeps no digit for x near 0; expm1 keeps them all.",
        "far below 0": "p itself is 0 in float32; never leave log space.",
    },
    "gae": {
        "unchanged": UNCHANGED,
        "no gradient": NO_GRADIENT,
        "carry": NO_GRADIENT,
        "lam 0": "one step: reward plus discounted next value, less this value.",
        "returns": "a return is what the value should have been: advantage plus value.",
    },
    "ppo_loss": {
        "unchanged": UNCHANGED,
        "no gradient": NO_GRADIENT,
        "next kl_coef": "a response's divergence is a sum over its tokens, under the policy that "
        "sampled them; the relative error is cut to 0.2.",
        "without a penalty": "whiten over response tokens, clip, and take the worse of the two.",
        "gradient": "where the clip binds, the token has no gradient from the surrogate.",
    },
    "group_advantages": {
        "unchanged": UNCHANGED,
        "unscaled": "a reward less the mean of its group.",
        "scaled": "the deviation is the unbiased one, plus 1e-4; one reward alone has none.",
    },
    "diagnose": {},
}
