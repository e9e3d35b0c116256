"""Hints of lab 10, one a kind of finding: the first whose words are in its name is shown."""

UNCHANGED = "an operation that ends in _, or writes through a slice, changes its argument."

HINTS: dict[str, dict[str, str]] = {
    "page_bill": {
        "bytes of a page": "keys and values, of every layer, of key/value heads only; in 8 bits "
        "each token and head has a scale for its key and one for its value.",
        "waste": "how many pages does a length of s take, on average? Sum over pages, not lengths.",
        "sequences that fit": "which pages of the common beginning are full?",
    },
    "page_manager": {
        "refused": "count what is wanted before anything is taken, the copy included; an end of "
        "what has ended is a KeyError.",
        "read through": "who else has the page that is about to be written, and is a page free "
        "while somebody still has it?",
        "copies": "only a page with room left is written on, and alone on it nobody needs a copy.",
        "pages in each table": "how many pages do exactly page_size tokens take?",
        "free pages": "each page is given back when the last table that has it drops it.",
    },
    "prefix_cache": {
        "read through": "a page may be found only by somebody to whom the adapter and every token "
        "up to its end are common, and not after it was written over.",
        "found by": "what was used last stays longest, and a beginning longer than its end; one "
        "token is left to compute.",
    },
    "paged_decode": {
        "unchanged": UNCHANGED,
        "operations": "a loop over sequences, or over their tokens, is many operations: index "
        "pages with the whole table.",
        "bfloat16": "go to float32 before the products.",
        "window": "the window counts the query's own token.",
        "outputs": "0 times nan is nan: what nobody wrote must go from the values too.",
    },
    "step_scheduler": {
        "came to an end": "does somebody wait for ever, or keep a place after the last token?",
        "largest step": "subtract what is planned from the budget.",
        "texts": "a preempted request is run anew with all it had, also what it had answered.",
        "preemptions": "the one that came last gives its pages back, but nobody who is in the plan "
        "already, and nobody in favour of one that came later.",
        "chunks": "who decodes comes first; nobody overtakes who waits for pages.",
        "free pages": "pages are taken for the tokens that are planned, no more and no fewer.",
    },
    "diagnose": {},
}
