"""Wrong answers to lab 11's questions, as changes of the solution or as another body for it."""

from grader.mutants import Mutants

RESIDUAL = "torch.where(rejected, (law - draft).clamp(min=0), law)"
ACCEPT = "real & (u[:, :k] * q_x < p_x)"
LAW = "law = p[rows, accepted]"
ONE_HOT = "q = torch.nn.functional.one_hot(proposed, p.shape[2])"
PREFIX = "accept.long().cumprod(dim=1).sum(dim=1)"
DRAW = "tokens = (sums <= u[:, k:] * sums[:, -1:]).sum(dim=1)"

BOTH = "both = torch.minimum(p, q)"
GROW = """\
here = here @ both
        expected.append(expected[-1] + float(here.sum()))"""
P_CUT = "p = next_token_distribution(target_logits, config).double()"
Q_CUT = "q = next_token_distribution(draft_logits, config).double()"
COST = "tokens / (cost + k * draft_cost)"
BEST = "best = max(range(len(rates)), key=lambda k: rates[k])"

SIZES = "range(min(longest, len(text) - 1), 0, -1)"
PLACES = "range(len(text) - 1, size - 1, -1)"
VOTE = "Counter(followers).most_common(1)[0][0]"

ROOM = "min(k, budget - len(new) - 1)"
FORGET = "model.truncate(len(prompt) + len(new) - 1)"
CUT = """\
        if eos in made:
            made = made[: made.index(eos) + 1]
"""
READ = "model.read([new[-1], *guesses])"
KEEP = """\
        kept = 0
        while kept < len(guesses) and guesses[kept] == best[kept]:
            kept += 1
"""

ROUNDS = "for _ in range(len(table)):"
USEFUL = "useful = (ends >= 0) & alive[ends.clamp(min=0)]"
ALLOWED = "allowed = (ends >= 0) & alive[ends.clamp(min=0)]"
EOS = "allowed[:, eos_id] = accepting"

LAWS = "(probs * (after > 0), probs * after)"
NORMALISED = "weights / total.where(total > 0, 1.0)"
END = "after[:, eos_id] = accepting.double()"

MUTANTS: Mutants = {
    "verify": {
        "draws again from p": [(RESIDUAL, "law")],
        "draws again from q": [(RESIDUAL, "torch.where(rejected, draft, law)")],
        "absolute difference": [("(law - draft).clamp(min=0)", "(law - draft).abs()")],
        "accepts if p is larger": [(ACCEPT, "real & (q_x <= p_x)")],
        "accepts what p never says": [(ACCEPT, "real & (u[:, :k] * q_x <= p_x)")],
        "goes on after a rejection": [(PREFIX, "accept.long().sum(dim=1)")],
        "no bonus token": [
            (LAW, "law = p[rows, accepted.clamp(max=lengths - 1).clamp(min=0)]"),
        ],
        "bonus at the last column": [
            (LAW, "law = p[rows, torch.where(accepted < lengths, accepted, k)]"),
        ],
        "ignores lengths": [(ACCEPT, "u[:, :k] * q_x < p_x")],
        "residual of the first place": [
            (LAW, "law = p[rows, torch.where(accepted < lengths, 0, accepted)]"),
        ],
        "residual without lengths": [("(accepted < lengths)", "(accepted < k)")],
        "a certain draft taken for none": [(ONE_HOT, "q = torch.zeros_like(p[:, :k])")],
        "a certain draft taken for uniform": [
            (ONE_HOT, "q = torch.full_like(p[:, :k], 1 / p.shape[2])"),
        ],
        "uniform number of the place": [
            (DRAW, DRAW.replace("u[:, k:]", "u[rows, accepted, None]")),
        ],
        "at least u": [(DRAW, DRAW.replace("<=", "<"))],
    },
    "plan_speculation": {
        "independent acceptances": [
            (GROW, GROW.replace("here @ both", "here * float(both.sum(1).mean())")),
        ],
        "acceptance after the start": [
            (GROW, GROW.replace("here @ both", "here * float(both[start].sum())")),
        ],
        "along the draft's text": [
            (GROW, "expected.append(expected[-1] + float((here @ both).sum()))\n"
                   "        here = here @ q"),
        ],
        "along the target's text": [
            (GROW, "expected.append(expected[-1] + float((here @ both).sum()))\n"
                   "        here = here @ p"),
        ],
        "counts probable, not accepted ones": [(BOTH, "both = p * q")],
        "laws before they are cut": [
            (P_CUT, "p = target_logits.double().softmax(dim=1)"),
            (Q_CUT, "q = draft_logits.double().softmax(dim=1)"),
        ],
        "cuts the target alone": [(Q_CUT, "q = draft_logits.double().softmax(dim=1)")],
        "no token of the pass's own": [("expected = [1.0]", "expected = [0.0]")],
        "most tokens a pass": [(BEST, "best = max(range(len(rates)), key=lambda k: expected[k])")],
        "drafts for free": [(COST, "tokens / cost")],
        "passes at one price": [(COST, "tokens / (1 + k * draft_cost)")],
        "always guesses": [(BEST, BEST.replace("range(", "range(1, "))],
    },
    "guess_by_vote": {
        "the latest place alone": [(VOTE, "followers[0]")],
        "the first of equals": [(VOTE, "Counter(followers[::-1]).most_common(1)[0][0]")],
        "shortest suffix first": [(SIZES, "range(1, min(longest, len(text) - 1) + 1)")],
        "guesses are no text": [("suffix = text[-size:]", "suffix = ids[-size:]")],
        "all suffixes vote": [("            if followers:\n                break\n", "")],
        "no overlap": [(PLACES, "range(len(text) - size, size - 1, -1)")],
        "one guess": [("while len(text) < len(ids) + k:", "for _ in range(1):")],
    },
    "speculate": {
        "never forgets": [(FORGET, "pass")],
        "forgets the accepted too": [
            (FORGET, "model.truncate(len(prompt) + len(new) - len(made))"),
        ],
        "keeps one too many": [(FORGET, "model.truncate(len(prompt) + len(new))")],
        "forgets before the end is cut": [
            (CUT, "        whole = len(made)\n" + CUT),
            (FORGET, "model.truncate(len(prompt) + len(new) - len(made) + whole - 1)"),
        ],
        "looks for the end in the last token": [(CUT, "")],
        "the end is no token": [("made.index(eos) + 1]", "made.index(eos)] or [eos]")],
        "guesses up to the budget": [(ROOM, "min(k, budget - len(new))")],
        "guesses beyond the budget": [(ROOM, "k")],
        "asks for nothing": [
            ("draft([*prompt, *new], room) if room else []", "draft([*prompt, *new], room)"),
        ],
        "drops the bonus token": [
            ("made = best[: kept + 1]", "made = best[: kept + (kept < len(guesses) or not kept)]"),
        ],
        "takes equal tokens after a wrong one": [
            (KEEP, "        kept = sum(g == b for g, b in zip(guesses, best, strict=False))\n"),
        ],
        "trusts the draft": [(KEEP, "        kept = len(guesses)\n")],
        "reads everything again": [
            (READ, "(model.truncate(0), model.read([*prompt, *new, *guesses]))[1]"
                   "[len(prompt) + len(new) - 1 :]"),
        ],
        "judges with the next logits": [
            ("guesses[kept] == best[kept]", "guesses[kept] == best[kept + 1]"),
        ],
        "plain decoding": [(ROOM, "0")],
    },
    "token_masks": {
        "the end always": [(EOS, "allowed[:, eos_id] = True")],
        "the end never": [(EOS, "pass")],
        "the end where it can be reached": [(EOS, "allowed[:, eos_id] = alive")],
        "dead ends": [(ALLOWED, "allowed = ends >= 0")],
        "completion by bytes": [
            (USEFUL, "useful = (step >= 0) & alive[step.clamp(min=0)]"),
        ],
        "one token ahead": [(ROUNDS, "for _ in range(1):")],
        "complete texts only": [(ALLOWED, "allowed = (ends >= 0) & accepting[ends.clamp(min=0)]")],
        "first byte alone": [("for byte in token:", "for byte in token[:1]:")],
        "single bytes alone": [
            ("end = state if token else -1", "end = state if len(token) == 1 else -1"),
            ("for byte in token:", "for byte in token if end >= 0 else b\"\":"),
        ],
        "special tokens stay": [("end = state if token else -1", "end = state")],
    },
    "laws_in_time": {
        "no budget": [("for _ in range(budget):", "for _ in range(99):")],
        "one token too many": [("for _ in range(budget):", "for _ in range(budget + 1):")],
        "the end costs nothing": [
            ("finish = torch.zeros(len(ends), dtype=torch.float64)", "finish = accepting.double()"),
        ],
        "the end everywhere": [(END, "after[:, eos_id] = 1.0")],
        "the end never": [(END, "after[:, eos_id] = 0.0")],
        "not normalised": [(NORMALISED, "weights")],
        "mask for condition": [(LAWS, "(probs * (after > 0), probs * (after > 0))")],
        "condition for mask": [(LAWS, "(probs * after, probs * after)")],
        "weights without the model": [(LAWS, "(probs * (after > 0), after)")],
        "looks one token ahead": [(LAWS, "(probs * (ends >= 0), probs * after)")],
        "0 over 0": [(NORMALISED, "weights / total")],
    },
    "diagnose": {
        "never looks at the bonus": [("if bonus != {3}:", "if False:")],
        "never looks at what is accepted": [
            ('"healthy" if any(accepted) else "accepts_if_larger"', '"healthy"'),
        ],
        "takes every odd token for p's": [('return "absolute_residual"', 'return "again_from_p"')],
        "accepts for certain": [("run(1, rather_a, a_or_b, d)", "run(1, a_or_b, a_or_b, d)")],
        "rejects too seldom": [
            ("run(2, a_or_b, b_or_c, d)", "run(1, a_or_b, a_or_b, d)"),
        ],
    },
}  # fmt: skip
