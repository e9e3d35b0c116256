"""Losses that pull a student's next-token distribution towards a teacher's."""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from labkit.objectives.language_modelling import IGNORE_INDEX, cross_entropy, shift_labels


def forward_kl(
    student_logits: Float[Tensor, "B T V"],
    teacher_logits: Float[Tensor, "B T V"],
    mask: Bool[Tensor, "B T"],
    temperature: float = 1.0,
) -> tuple[Float[Tensor, ""], int]:
    """Mass-covering divergence, ``tau^2 sum_t KL(p_t || q_t)`` with p the teacher, q the student.

    Both distributions are softmaxes of logits divided by ``tau``. The factor ``tau^2`` keeps the
    gradient's size when ``tau`` changes, since soft targets shrink it by ``1 / tau^2``.

    Paper: 1503.02531 (Hinton et al.), section 2 and equation 2.

    Args:
        student_logits: Scores that receive the gradient.
        teacher_logits: Target scores; no gradient flows into them.
        mask: True at positions whose prediction counts (no shift happens here).
        temperature: tau > 0; above 1 it shows the student the teacher's small probabilities.

    Returns:
        The sum over counted positions in nats, and their number.

    Raises:
        ValueError: If the temperature is not positive.
    """
    log_q, log_p = _log_softmaxes(student_logits, teacher_logits, temperature)
    divergence = (log_p.exp() * (log_p - log_q)).sum(-1)  # (B, T, V) -> (B, T)
    return temperature**2 * divergence[mask].sum(), int(mask.sum())


def reverse_kl(
    student_logits: Float[Tensor, "B T V"],
    teacher_logits: Float[Tensor, "B T V"],
    mask: Bool[Tensor, "B T"],
    temperature: float = 1.0,
) -> tuple[Float[Tensor, ""], int]:
    """Mode-seeking divergence, ``tau^2 sum_t KL(q_t || p_t)`` with p the teacher, q the student.

    Paper: 2306.08543 (MiniLLM), equation 1, here per token on given text.
    Differs: the paper samples the text from the student and optimises by policy gradient.

    Args:
        student_logits: Scores that receive the gradient.
        teacher_logits: Target scores; no gradient flows into them.
        mask: True at positions whose prediction counts (no shift happens here).
        temperature: tau > 0.

    Returns:
        The sum over counted positions in nats, and their number.

    Raises:
        ValueError: If the temperature is not positive.
    """
    log_q, log_p = _log_softmaxes(student_logits, teacher_logits, temperature)
    divergence = (log_q.exp() * (log_q - log_p)).sum(-1)  # (B, T, V) -> (B, T)
    return temperature**2 * divergence[mask].sum(), int(mask.sum())


def generalized_jsd(
    student_logits: Float[Tensor, "B T V"],
    teacher_logits: Float[Tensor, "B T V"],
    mask: Bool[Tensor, "B T"],
    *,
    beta: float,
    temperature: float = 1.0,
) -> tuple[Float[Tensor, ""], int]:
    """``sum_t beta KL(p_t || m_t) + (1 - beta) KL(q_t || m_t)``, ``m = beta p + (1 - beta) q``.

    p is the teacher, q the student. At the ends it is taken to be what it is proportional to in
    the limit: beta = 0 is `forward_kl`, beta = 1 `reverse_kl`.

    Paper: 2306.13649 (GKD), equation 1.
    Differs: as in trl, there is no factor ``tau^2``.

    Args:
        student_logits: Scores that receive the gradient.
        teacher_logits: Target scores; no gradient flows into them.
        mask: True at positions whose prediction counts (no shift happens here).
        beta: In [0, 1].
        temperature: tau > 0 of both softmaxes.

    Returns:
        The sum over counted positions in nats, and their number.

    Raises:
        ValueError: If a value is out of its range.
    """
    if not 0.0 <= beta <= 1.0:
        raise ValueError(f"beta={beta} must lie between 0 (forward KL) and 1 (reverse KL)")
    if beta in (0.0, 1.0):
        divergence = forward_kl if beta == 0.0 else reverse_kl
        total, count = divergence(student_logits, teacher_logits, mask, temperature)
        return total / temperature**2, count
    log_q, log_p = _log_softmaxes(student_logits, teacher_logits, temperature)
    log_m = torch.logaddexp(log_p + math.log(beta), log_q + math.log1p(-beta))
    from_teacher = (log_p.exp() * (log_p - log_m)).sum(-1)
    from_student = (log_q.exp() * (log_q - log_m)).sum(-1)
    mixture = beta * from_teacher + (1.0 - beta) * from_student
    return mixture[mask].sum(), int(mask.sum())


def distillation_loss(
    student_logits: Float[Tensor, "B T V"],
    teacher_logits: Float[Tensor, "B T V"],
    labels: Int[Tensor, "B T"],
    *,
    temperature: float = 1.0,
    hard_weight: float = 0.0,
    direction: str = "forward",
) -> tuple[Float[Tensor, ""], int]:
    """Soft and hard targets mixed, ``(1 - w) KL(teacher, student) + w CE(labels, student)``.

    Args:
        student_logits: Scores that receive the gradient.
        teacher_logits: Target scores; no gradient flows into them.
        labels: Token ids aligned with the inputs; positions that predict ``IGNORE_INDEX`` count
            in neither term.
        temperature: tau > 0 of the soft term; the hard term is always taken at 1.
        hard_weight: w in [0, 1], the share of the labels.
        direction: Which divergence the soft term is, "forward" or "reverse".

    Returns:
        The sum over predicted tokens in nats, and their number.

    Raises:
        ValueError: If a value is out of its range.
    """
    if not 0.0 <= hard_weight <= 1.0:
        raise ValueError(f"hard_weight={hard_weight} must lie between 0 (soft only) and 1")
    if direction not in ("forward", "reverse"):
        raise ValueError(f"direction={direction!r} must be 'forward' or 'reverse'")
    divergence = forward_kl if direction == "forward" else reverse_kl
    mask = shift_labels(labels) != IGNORE_INDEX
    soft_sum, num_tokens = divergence(student_logits, teacher_logits, mask, temperature)
    hard_sum, _ = cross_entropy(student_logits, labels)
    return (1.0 - hard_weight) * soft_sum + hard_weight * hard_sum, num_tokens


def _log_softmaxes(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    if not temperature > 0.0:
        raise ValueError(f"temperature={temperature} must be positive")
    log_q = functional.log_softmax(student_logits.float() / temperature, dim=-1)
    log_p = functional.log_softmax(teacher_logits.detach().float() / temperature, dim=-1)
    return log_q, log_p
