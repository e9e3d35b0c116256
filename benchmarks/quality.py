"""How far an engine's distributions lie from the reference's, token by token."""

from pathlib import Path

import numpy as np
import torch

GATE_NATS = 0.05


def divergence(reference: Path, path: Path) -> tuple[float, float]:
    """KL(p || q) = sum p (log p - log q) in nats, mean over tokens; how often argmax agrees.

    Args:
        reference: Logits of p, (N, V), as an .npy file.
        path: Those of q, (M, V) with M <= N: of the first M tokens.
    """
    logits_p, logits_q = np.load(reference, mmap_mode="r"), np.load(path, mmap_mode="r")
    kl, same = 0.0, 0
    for begin in range(0, len(logits_q), 256):
        chunk = slice(begin, min(begin + 256, len(logits_q)))
        p, q = (torch.from_numpy(np.array(x[chunk])).log_softmax(-1) for x in (logits_p, logits_q))
        kl += float((p.exp() * (p - q)).sum(-1).double().sum())
        same += int((p.argmax(-1) == q.argmax(-1)).sum())
    return kl / len(logits_q), same / len(logits_q)
