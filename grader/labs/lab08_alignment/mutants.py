"""Wrong answers to lab 08's questions, as changes of the solution or as another body for it."""

from grader.mutants import Mutants

COUNTED = "counted = response[:, 1:]"
PICKED = "torch.where(counted, picked, 0.0).sum(dim=1)"
LENGTH = "counted.sum(dim=1).clamp(min=1)"
TILTED = "reference + rewards / beta"
DPO_MARGIN = "beta * (gained - given)"
SMOOTHED = "-(1 - label_smoothing) * kept - label_smoothing * flipped"
BY_LENGTH = "gained, given = gained / lengths[0], given / lengths[1]"
CHOSEN_ODDS = "chosen_odds = chosen - torch.log(-torch.expm1(chosen))"
REJECTED_ODDS = "rejected_odds = rejected - torch.log(-torch.expm1(rejected))"
ORPO = "-chosen - weight * nn.functional.logsigmoid(ratios)"
AHEAD = "torch.where(terminated, 0.0, last_values.detach())"
RETURNS = "advantages + values"
INSIDE = "inside = t < lengths"
CHOSEN = "chosen = advantages.detach()[response]"
LOSS = "(-gain + kl_coef * 0.5 * drift.square()).mean()"
ERROR = "min(0.2, max(-0.2, kl_nats / target_nats - 1))"
SAMPLED_KL = "((old - fixed) * response).sum(dim=1).mean().item()"
CENTRED = "centred = own - own.mean()"
DEVIATION = "(own.std() + 1e-4)"
VERDICT = '"healthy" if pushed < -0.9 * beta else "beta_on_policy"'
IN_PROMPT = "abs(margin(in_prompt, zeros)) > 1e-3"

RATIO_OF_EXPONENTIALS = """
    weights = reference.exp() * (rewards / beta).exp()
    total = weights.sum(dim=1, keepdim=True)
    return (weights / total).log(), beta * total.squeeze(1).log()
"""
# Right for whole rows; a shorter one begins with the value behind its end.
OVER_THE_END = """
    B, T = rewards.shape
    rewards, values = rewards.detach(), values.detach()
    last = torch.where(terminated, 0.0, last_values.detach())
    following = torch.cat([values[:, 1:], last.unsqueeze(1)], dim=1)
    deltas = rewards + gamma * following - values
    running, columns = torch.zeros(B), []
    for t in range(T - 1, -1, -1):
        running = deltas[:, t] + gamma * lam * running
        columns.append(running)
    real = torch.arange(T) < lengths.unsqueeze(1)
    advantages = torch.where(real, torch.stack(columns[::-1], dim=1), 0.0)
    return advantages, torch.where(real, advantages + values, 0.0)
"""
ROWS_OF_EQUAL_LENGTH = """
    rows = rewards.reshape(len(groups.unique()), -1)
    centred = rows - rows.mean(dim=1, keepdim=True)
    if scale_by_std:
        centred = centred / (rows.std(dim=1, keepdim=True) + 1e-4)
    return centred.flatten()
"""
SIGN_ONLY = """
    response = torch.ones(2, 1, dtype=torch.bool)
    zeros, raised = torch.zeros(2, 1), torch.tensor([[1.0], [0.0]])
    risen = loss(raised, zeros, response) > loss(zeros, zeros, response)
    return "swapped" if risen.item() else "healthy"
"""

MUTANTS: Mutants = {
    "response_log_probs": {
        "no shift": [
            (COUNTED, "counted = response[:, :-1]"),
            ("ids[:, 1:], 0", "ids[:, :-1], 0"),
        ],
        "mask one place late": [(COUNTED, "counted = response[:, :-1]")],
        "prompt counted": [(COUNTED, "counted = ids[:, 1:] >= 0")],
        "mean where a sum is asked for": [("if average:", "if not average:")],
        "mean over all places": [(LENGTH, "counted.shape[1]")],
        "product as a mask": [(PICKED, "(picked * counted).sum(dim=1)")],
        "nan for an empty response": [(LENGTH, "counted.sum(dim=1)")],
        "softmax in bfloat16": [(".float().log_softmax(dim=2)", ".log_softmax(dim=2).float()")],
        "scores, not log-probabilities": [(".float().log_softmax(dim=2)", ".float()")],
        "without gradient": [("return total", "return total.detach()")],
    },
    "optimal_policy": {
        "multiplies by beta": [(TILTED, "reference + rewards * beta")],
        "forgets the reference": [(TILTED, "rewards / beta")],
        "avoids the reward": [(TILTED, "reference - rewards / beta")],
        "one Z for all prompts": [
            ("torch.logsumexp(tilted, dim=1)", "tilted.logsumexp((0, 1)).expand(len(tilted))"),
        ],
        "value without beta": [("beta * log_z", "log_z")],
        "not normalised": [("return tilted - log_z.unsqueeze(1)", "return tilted")],
        "exponentials overflow": RATIO_OF_EXPONENTIALS,
        "tilts the reference in place": [(TILTED, "reference.add_(rewards / beta)")],
    },
    "dpo_loss": {
        "swapped": [(DPO_MARGIN, "beta * (given - gained)")],
        "beta on the policy's side": [
            (DPO_MARGIN, "beta * (policy_chosen - policy_rejected)"
             " - (reference_chosen - reference_rejected).detach()"),
        ],
        "reference with gradient": [("reference_chosen.detach()", "reference_chosen")],
        "log of a sigmoid": [("nn.functional.logsigmoid(margins)", "torch.log(margins.sigmoid())")],
        "no smoothing": [(SMOOTHED, "-kept")],
        "smoothing added, not mixed": [(SMOOTHED, "-kept - label_smoothing * flipped")],
        "lengths ignored": [(BY_LENGTH, "pass")],
        "both by the chosen length": [("given / lengths[1]", "given / lengths[0]")],
        "a mean over pairs": [("return losses,", "return losses.mean(),")],
        "margins without beta": [("margins.detach()", "(gained - given).detach()")],
        "margins with gradient": [("return losses, margins.detach()", "return losses, margins")],
    },
    "orpo_loss": {
        "a ratio of probabilities": [(CHOSEN_ODDS, "chosen_odds = chosen"),
                                     (REJECTED_ODDS, "rejected_odds = rejected")],
        "1 - exp cancels": [
            (CHOSEN_ODDS, "chosen_odds = chosen - torch.log(1 - chosen.exp())"),
            (REJECTED_ODDS, "rejected_odds = rejected - torch.log(1 - rejected.exp())"),
        ],
        "leaves log space": [
            (CHOSEN_ODDS, "chosen_odds = torch.log(chosen.exp() / -torch.expm1(chosen))"),
            (REJECTED_ODDS, "rejected_odds = torch.log(rejected.exp() / -torch.expm1(rejected))"),
        ],
        "odds upside down": [("chosen_odds - rejected_odds", "rejected_odds - chosen_odds")],
        "no fine-tuning term": [(ORPO, "-weight * nn.functional.logsigmoid(ratios)")],
        "weight on the wrong term": [
            (ORPO, "-weight * chosen - nn.functional.logsigmoid(ratios)"),
        ],
        "no sigmoid": [("nn.functional.logsigmoid(ratios)", "ratios")],
    },
    "gae": {
        "bootstraps through the end": [(AHEAD, "last_values.detach()")],
        "takes a cut for an end": [(AHEAD, "torch.zeros_like(last_values)")],
        "reads over the end": OVER_THE_END,
        "no discount of the next value": [("gamma * ahead", "ahead")],
        "lambda alone": [("gamma * lam * running", "lam * running")],
        "bootstraps an advantage": [("torch.zeros_like(ahead)", "ahead.clone()")],
        "numbers behind the end": [("torch.where(real, advantages + values, 0.0)", RETURNS)],
        "returns without the value": [("real, advantages + values", "real, advantages")],
        "with gradient": [("rewards.detach(), values.detach()", "rewards, values")],
        "one token too many": [(INSIDE, "inside = t <= lengths")],
    },
    "ppo_loss": {
        "max for min": [("torch.minimum(", "torch.maximum(")],
        "clips only": [("torch.minimum(ratio * white, clipped * white)", "clipped * white")],
        "never clips": [("ratio.clamp(1 - clip, 1 + clip)", "ratio")],
        "ratio upside down": [("(log_probs - old)[response]", "(old - log_probs)[response]")],
        "no whitening": [("(chosen - chosen.mean()) / spread", "chosen")],
        "whitens over padding": [
            (CHOSEN, "every = advantages.detach()\n    chosen = every[response]"),
            ("chosen.var(correction=0)", "every.var(correction=0)"),
            ("chosen - chosen.mean()", "chosen - every.mean()"),
        ],
        "unbiased variance": [("correction=0", "correction=1")],
        "advantages with gradient": [("advantages.detach()", "advantages")],
        "penalty with the wrong sign": [("-gain + kl_coef", "-gain - kl_coef")],
        "d where its square was meant": [("0.5 * drift.square()", "drift")],
        "mean over padding": [(LOSS, LOSS[: -len(".mean()")] + ".sum() / response.numel()")],
        "reference with gradient": [("reference_log_probs.detach()", "reference_log_probs")],
        "controller not cut": [(ERROR, "kl_nats / target_nats - 1")],
        "controller upside down": [("1 + 0.1 * error", "1 - 0.1 * error")],
        "divergence a token": [(SAMPLED_KL, "(old - fixed)[response].mean().item()")],
        "divergence over padding": [("((old - fixed) * response)", "(old - fixed)")],
        "divergence of the new policy": [
            ("((old - fixed) * response)", "((log_probs - fixed) * response)"),
        ],
    },
    "group_advantages": {
        "biased deviation": [("own.std()", "own.std(correction=0)")],
        "one group of all": [("mine = groups == number", "mine = groups == groups")],
        "always scales": [("if scale_by_std and len(own) > 1:", "if len(own) > 1:")],
        "nan for a group of one": [("if scale_by_std and len(own) > 1:", "if scale_by_std:")],
        "divides by zero": [(DEVIATION, "own.std()")],
        "divides by the variance": [(DEVIATION, "(own.var() + 1e-4)")],
        "groups of equal length in order": ROWS_OF_EQUAL_LENGTH,
        "mean of the others": [
            (CENTRED, "centred = own - (own.sum() - own) / max(1, len(own) - 1)"),
        ],
    },
    "diagnose": {
        "never moves the reference": [(VERDICT, '"healthy"')],
        "never looks at the prompt": [(IN_PROMPT, "False")],
        "one token a response": [
            ("[[False, True, True], [False, True, True]]",
             "[[False, False, True], [False, False, True]]"),
        ],
        "looks at the sign only": SIGN_ONLY,
        "takes a short pull for a swap": [("if pulled < 0:", "if pulled < 0.9 * beta:")],
    },
}  # fmt: skip
