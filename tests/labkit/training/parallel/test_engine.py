"""How a batch is shared out, and what counts in it."""

import pytest
import torch

from labkit.data.batch import IGNORE_INDEX, TokenBatch
from labkit.training.config import TrainConfig
from labkit.training.forward import causal_lm_loss
from labkit.training.loop import DivergedError
from labkit.training.parallel.collectives import Group
from labkit.training.parallel.engine import blocks_of, predicted_tokens, share
from labkit.training.parallel.engines_by_hand import DataParallelEngine
from tests.labkit.training.parallel import tiny


def packed(rows: int) -> TokenBatch:
    ids = tiny.batch(0, rows=rows)
    labels = ids.clone()
    labels[:, 3] = IGNORE_INDEX
    return TokenBatch(ids=ids, labels=labels, document_ids=ids // 50, positions=ids % 7)


@pytest.mark.parametrize(("rows", "n"), [(5, 2), (3, 5), (6, 3)])
def test_shares_cover_the_batch_once_and_are_as_large_on_every_rank(rows: int, n: int) -> None:
    batch = packed(rows)
    shares = [share(batch, Group(ranks=tuple(range(n)), rank=rank)) for rank in range(n)]
    assert len({len(part.ids) for part in shares}) == 1
    assert sum(predicted_tokens([part]) for part in shares) == predicted_tokens([batch])
    for name in ("ids", "labels", "document_ids", "positions"):
        together = torch.cat([getattr(part, name) for part in shares])
        assert torch.equal(together[:rows], getattr(batch, name))
    assert all((torch.cat([p.labels for p in shares])[rows:] == IGNORE_INDEX).flatten().tolist())


def test_predicted_tokens_are_those_of_the_loss() -> None:
    batches = [packed(3), packed(2)]
    model = tiny.tiny_model()
    assert predicted_tokens(batches) == sum(causal_lm_loss(model, b)[1] for b in batches) == 5 * 8


def test_blocks_and_the_clipping_factor() -> None:
    model = tiny.tiny_model()
    assert blocks_of(model) == list(model.model.layers)
    alone = Group(ranks=(0,), rank=0)
    engine = DataParallelEngine(model, TrainConfig(steps=1, lr=1.0), causal_lm_loss, alone)
    assert engine.clip_factor(0.5) == 1.0
    assert engine.clip_factor(4.0) == pytest.approx(0.25)
    with pytest.raises(DivergedError, match="the gradient norm is nan"):
        engine.clip_factor(float("nan"))
    engine.parallel.close()
