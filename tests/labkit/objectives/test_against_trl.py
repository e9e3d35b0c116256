"""Values of trl 1.16.0's own loss code, which runs here too where trl is installed.

Origin of TRL: `python -c "import test_against_trl as t; print(t.trl_values())"` in this folder,
with trl 1.16.0, datasets 5.2.0 and torch 2.13.0.
"""

import warnings
from types import SimpleNamespace

import pytest
import torch

from labkit.objectives import policy_gradient, preference
from labkit.objectives.distillation import generalized_jsd
from labkit.objectives.language_modelling import IGNORE_INDEX
from labkit.objectives.sequence_log_probs import counted_log_probs, sequence_log_probs

PAIRS, T, V = 3, 7, 11
BETA = 0.3

TRL = {
    "dpo": 0.510661244392395,
    "dpo smoothed": 0.5523268580436707,
    "ipo": 1.428827166557312,
    "orpo odds": 0.2143484503030777,
    "kto": 0.6107882261276245,
    "advantage": -1.0909109115600586,
    "grpo sequence": 0.0432884581387043,
    "grpo token": 0.27356240153312683,
    "jsd 0.0": 2.095588445663452,
    "jsd 0.3": 0.43571460247039795,
    "jsd 1.0": 2.1286423206329346,
}


def wave(*shape: int, phase: float) -> torch.Tensor:
    """Numbers without a random generator, so that they are the same with every version of torch."""
    count = torch.Size(shape).numel()
    return (3.0 * torch.sin(torch.arange(count) ** 1.5 + phase)).view(shape)


def rows():
    """Chosen rows, then rejected ones: ids, labels of ragged responses, and two models' logits."""
    ids = (torch.arange(2 * PAIRS * T) * 5 % V).view(2 * PAIRS, T)
    labels = ids.clone()
    labels[:, :2] = IGNORE_INDEX
    labels[1, 5:] = labels[3, 3:] = labels[5, 6:] = IGNORE_INDEX
    policy, reference = (wave(2 * PAIRS, T, V, phase=phase) for phase in (0.0, 0.4))
    return ids, labels, policy, reference


def policy_rows():
    """Old log-probabilities a little off the new ones, so that some ratios are clipped."""
    _, labels, policy, reference = rows()
    new, mask = counted_log_probs(policy, labels)
    fixed, _ = counted_log_probs(reference, labels)
    return new, new + 0.1 * wave(*new.shape, phase=0.7), fixed, mask


REWARDS = torch.tensor([[0.2, 1.0, 0.4], [0.5, -0.7, 0.1]])
DESIRABLE = torch.tensor([True, False, False, True, True, False])


def our_values() -> dict[str, float]:
    _, labels, policy, reference = rows()
    ours, counts = sequence_log_probs(policy, labels)
    fixed, _ = sequence_log_probs(reference, labels)
    pairs = (*ours.chunk(2), *fixed.chunk(2))
    means = ((ours / counts).chunk(2), (fixed / counts).chunk(2))
    baseline = preference.kto_baseline(ours, fixed)  # any rows serve to compare
    values = {
        "dpo": preference.dpo_loss(*pairs, beta=BETA).mean(),
        "dpo smoothed": preference.dpo_loss(*pairs, beta=BETA, label_smoothing=0.1).mean(),
        "ipo": preference.ipo_loss(*means[0], *means[1], beta=BETA).mean(),
        "orpo odds": (
            preference.orpo_loss(*means[0], weight=BETA)
            - preference.orpo_loss(*means[0], weight=0.0)
        ).mean(),
        "kto": preference.kto_loss(
            ours, fixed, DESIRABLE, baseline, beta=BETA, undesirable_weight=1.3
        ).mean(),
    }
    return {name: value.item() for name, value in values.items()} | _our_policy_values()


def _our_policy_values() -> dict[str, float]:
    new, old, fixed, mask = policy_rows()
    advantages = policy_gradient.group_advantages(REWARDS).flatten()
    per_token = policy_gradient.grpo_loss(new, old, fixed, advantages, clip=0.2, kl_coef=0.04)
    values = {"advantage": advantages[4].item()}
    for name in ("sequence", "token"):
        total, count = policy_gradient.summed_loss(per_token, mask, normalise=name)
        values[f"grpo {name}"] = total.item() / count
    _, labels, policy, reference = rows()
    for beta in (0.0, 0.3, 1.0):
        jsd, _ = generalized_jsd(
            policy, reference, labels != IGNORE_INDEX, beta=beta, temperature=1.5
        )
        values[f"jsd {beta}"] = jsd.item()
    return values


def trl_values() -> dict[str, float]:
    """The same from trl's trainers, made without a model, a data set or an accelerator."""
    from trl import DPOTrainer, GRPOTrainer, KTOTrainer
    from trl.experimental.gkd import GKDTrainer
    from trl.experimental.orpo import ORPOTrainer
    from trl.trainer.utils import nanstd

    ids, labels, policy, reference = rows()
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "completion_mask": (labels != IGNORE_INDEX).long(),
    }
    values = _trl_pairs(DPOTrainer, inputs, policy, reference)
    orpo = _without_init(ORPOTrainer, beta=BETA)
    log_probs = orpo.get_batch_logps(policy, labels, average_log_prob=True).chunk(2)
    values["orpo odds"] = -orpo.odds_ratio_loss(*log_probs)[0].mean().item()
    values["kto"] = _trl_kto(KTOTrainer, inputs, policy, reference)
    spread = nanstd(REWARDS, dim=1, keepdim=True) + 1e-4
    advantages = ((REWARDS - REWARDS.mean(1, keepdim=True)) / spread).flatten()
    values["advantage"] = advantages[4].item()
    values |= _trl_grpo(GRPOTrainer, advantages)
    for beta in (0.0, 0.3, 1.0):
        values[f"jsd {beta}"] = GKDTrainer.generalized_jsd_loss(
            policy, reference, labels, beta=beta, temperature=1.5, reduction="sum"
        ).item()
    return values


class _Metrics(dict):
    """Takes whatever is logged."""

    def __missing__(self, key):
        self[key] = _Metrics() if key in ("train", "eval") else []
        return self[key]


def _without_init(trainer, **settings):
    made = object.__new__(trainer)
    accelerator = SimpleNamespace(
        device=torch.device("cpu"),
        gather=lambda x: x,
        gather_for_metrics=lambda x: x,
        reduce=lambda x, reduction: x,
    )
    accelerator.num_processes = 1
    common = {
        "accelerator": accelerator,
        "model": torch.nn.Identity().eval(),
        "args": SimpleNamespace(gradient_checkpointing_kwargs=None, delta=None,
                                use_bias_correction_kl=False),
        "_metrics": _Metrics(),
        "_total_train_tokens": 0,
        "aux_loss_enabled": False,
        "beta": BETA,
    }  # fmt: skip
    common["model"].is_gradient_checkpointing = False
    for name, value in (common | settings).items():
        setattr(made, name, value)
    return made


def _model(logits_of):
    """What trl's fused head returns: the log-probability of each label, 0 where there is none."""

    from trl.trainer.utils import selective_log_softmax

    def model(*, input_ids, labels, **_):
        logits, next_labels = logits_of(input_ids)[:, :-1], labels[:, 1:]
        counted = next_labels != IGNORE_INDEX
        log_probs = selective_log_softmax(logits, next_labels.clamp(min=0)) * counted
        none = torch.zeros_like(log_probs)
        return SimpleNamespace(log_probs=log_probs, entropy=none, mean_logits=none, is_top1=counted)

    model.training = False
    return model


def _trl_pairs(trainer, inputs, policy, reference) -> dict[str, float]:
    def loss(kind, take, smoothing=0.0):
        made = _without_init(
            trainer,
            ld_alpha=None,
            precompute_ref_logps=False,
            f_divergence_type="reverse_kl",
            loss_types=[kind],
            loss_weights=[1.0],
            label_smoothing=smoothing,
            use_weighting=False,
            ref_model=_model(lambda ids: reference[take]),
        )
        some = {name: value[take] for name, value in inputs.items()}
        return made._compute_loss(_model(lambda ids: policy[take]), some, False).item()

    everything = list(range(2 * PAIRS))
    # Only trl's "aot" smooths labels as DPO does; sorting one pair changes nothing.
    smoothed = [loss("aot", [pair, pair + PAIRS], 0.1) for pair in range(PAIRS)]
    return {
        "dpo": loss("sigmoid", everything),
        "dpo smoothed": sum(smoothed) / PAIRS,
        "ipo": loss("ipo", everything),
    }


def _trl_kto(trainer, inputs, policy, reference) -> float:
    made = _without_init(
        trainer,
        loss_type="kto",
        calculate_KL=True,
        precompute_ref_logps=False,
        desirable_weight=1.0,
        undesirable_weight=1.3,
        ref_model=_model(lambda ids: reference),
    )
    mismatched = {f"KL_{name}": value for name, value in inputs.items()}
    batch = inputs | mismatched | {"label": DESIRABLE}
    return made._compute_loss(_model(lambda ids: policy), batch, False).item()


def _trl_grpo(trainer, advantages) -> dict[str, float]:
    new, old, fixed, mask = policy_rows()
    values = {}
    for name, kind in (("sequence", "grpo"), ("token", "dapo")):
        made = _without_init(
            trainer,
            beta=0.04,
            epsilon_low=0.2,
            epsilon_high=0.2,
            loss_type=kind,
            importance_sampling_level="token",
            top_entropy_quantile=1.0,
            off_policy_mask_threshold=None,
            use_vllm=False,
            _entropy_bonus_enabled=False,
        )
        made._get_per_token_logps_and_entropies = lambda *a, **k: (new, torch.zeros_like(new), None)
        batch = {
            "prompt_ids": torch.zeros(2 * PAIRS, 1, dtype=torch.long),
            "prompt_mask": torch.ones(2 * PAIRS, 1, dtype=torch.long),
            "completion_ids": torch.zeros_like(mask, dtype=torch.long),
            "completion_mask": mask.long(),
            "advantages": advantages,
            "old_per_token_logps": old,
            "ref_per_token_logps": fixed,
            "num_items_in_batch": mask.sum(),
        }
        values[f"grpo {name}"] = made._compute_loss(None, batch).item()
    return values


@pytest.mark.parametrize("name", sorted(TRL))
def test_equals_the_value_of_trl(name):
    assert our_values()[name] == pytest.approx(TRL[name], rel=1e-5)


def test_the_stored_values_are_those_of_the_installed_trl():
    pytest.importorskip("trl", reason="trl is not among the development tools")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # trl and what it imports warn of their own futures
        assert trl_values() == pytest.approx(TRL, rel=1e-5)
