"""Hints of lab 11, one a kind of finding: the first whose words are in its name is shown."""

UNCHANGED = "an operation that ends in _, or writes through a slice, changes its argument."

HINTS: dict[str, dict[str, str]] = {
    "verify": {
        "unchanged": UNCHANGED,
        "border: how": "accept if u q < p, strictly: what p gives no probability never comes.",
        "border": "the first token whose cumulative sum exceeds u times the row's sum.",
        "certain proposals: how": "a certain proposal has q = 1.",
        "certain proposals": "the law it was drawn from has all its probability on the proposal.",
        "ragged rows: how": "columns from lengths on hold no proposals, whatever stands there.",
        "how many": "only proposals before the first rejection stand.",
        "token after": "after a rejection max(0, p - q) at its place; if none was rejected, p at "
        "the place after the last proposal.",
    },
    "plan_speculation": {
        "unchanged": UNCHANGED,
        "greedy: expected": "greedy, both laws are certain: a proposal is right or wrong.",
        "expected": "a pass yields 1 token, and one more with the probability that i proposals are "
        "accepted, for each i; where was the i-th proposed?",
        "best": "most tokens in a time: E over the cost of the pass and of k drafted tokens.",
        "speedup": "plain decoding makes one token in a time of pass_cost[0] = 1.",
    },
    "guess_by_vote": {
        "unchanged": "work on a copy of the list.",
        "longest=1": "votes are counted over all earlier places; of equals the latest wins.",
    },
    "speculate": {
        "unchanged": "work on a copy of the list.",
        "nothing to say: what the draft": "ask for min(k, what fits beside the pass's own token).",
        "the end within": "the first end of sequence is the text's last token, and the cache "
        "forgets what came after it.",
        "one token: what": "where only one token is left, there is nothing to guess.",
        "what the draft": "a pass adds a token of its own, so one less than is left may be "
        "guessed; where that is none, don't ask.",
        "before each pass": "forget the rejected guesses and nothing else: of prompt and text "
        "all but the last token stay.",
        "each pass read": "a pass reads the text's last token and the guesses.",
        "at the end": "all tokens of prompt and text but the last one.",
        "text": "it must be plain greedy decoding's, token for token.",
    },
    "token_masks": {
        "unchanged": UNCHANGED,
        "after each token": "read a token's bytes one by one; without bytes it leads nowhere.",
        "allowed": "the end exactly where the text is complete; other tokens only to states from "
        "which some sequence of tokens leads to an accepting one.",
    },
    "laws_in_time": {
        "unchanged": UNCHANGED,
        "budget 1": "one token left: it can only be the end.",
        "to finish": "the end now, or a token now and the rest with one token less.",
        "under the mask": "only tokens after which the end can still be reached within the "
        "budget; then divide by their sum.",
        "given that": "each token's probability times that to finish after it, over the sum.",
    },
    "diagnose": {},
}
