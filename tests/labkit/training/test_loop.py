"""The loop: exact accumulation, exact resume, either kind of Llama, adapters, clear refusals."""

import copy
import itertools

import pytest
import torch
from torch import nn
from transformers import get_cosine_schedule_with_warmup

from labkit.data.batch import IGNORE_INDEX, TokenBatch
from labkit.model import minillm
from labkit.training import checkpoint
from labkit.training.config import TrainConfig
from labkit.training.forward import batch_logits, causal_lm_loss
from labkit.training.loop import CHECKPOINT_NAME, DivergedError, build_optimizer, train
from labkit.tuning import lora

V = 97


def ragged_rows(lengths, seed=3):
    """One right-padded row a length, as batches of one."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for length in lengths:
        ids = torch.randint(0, V, (1, max(lengths)), generator=generator)
        labels = ids.clone()
        labels[:, length:] = IGNORE_INDEX
        rows.append(TokenBatch(ids=ids, labels=labels))
    return rows


def joined(rows):
    return TokenBatch(
        ids=torch.cat([row.ids for row in rows]), labels=torch.cat([row.labels for row in rows])
    )


def parameters_of(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def assert_equal(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


def run(model, batches, **settings):
    return list(train(model, batches, TrainConfig(**({"steps": 3, "lr": 1e-2} | settings))))


LENGTHS = (23, 5, 17, 3, 29, 11, 2, 13)


class TestAccumulation:
    def test_one_by_eight_equals_eight_by_one_on_ragged_rows(self, tiny_model):
        other = copy.deepcopy(tiny_model)
        rows = ragged_rows(LENGTHS)
        many = run(tiny_model, itertools.cycle(rows), accumulation=8, steps=20, lr=1e-3)
        one = run(other, itertools.repeat(joined(rows)), steps=20, lr=1e-3)
        for ours, theirs in zip(many, one, strict=True):
            assert ours.tokens == theirs.tokens == sum(LENGTHS) - len(LENGTHS)
            assert ours.loss_nats == pytest.approx(theirs.loss_nats, rel=1e-4)
            assert ours.grad_norm == pytest.approx(theirs.grad_norm, rel=1e-2)
        drift = sum(a.loss_nats - b.loss_nats for a, b in zip(many, one, strict=True)) / len(many)
        assert abs(drift) < 1e-5

    def test_the_mean_of_means_is_another_number(self, tiny_model):
        """So the test above would see it: short rows would weigh too much."""
        rows = ragged_rows(LENGTHS)
        with torch.no_grad():
            pairs = [causal_lm_loss(tiny_model, row) for row in rows]
        mean_of_means = sum(total / count for total, count in pairs) / len(pairs)
        record = run(tiny_model, itertools.cycle(rows), accumulation=8, steps=1)[0]
        assert abs(record.loss_nats - mean_of_means.item()) > 1e-3

    def test_gradient_norm_is_that_of_the_mean_token_loss(self, tiny_model):
        rows = ragged_rows(LENGTHS)
        loss_sum, tokens = causal_lm_loss(tiny_model, joined(rows))
        gradients = torch.autograd.grad(loss_sum / tokens, list(tiny_model.parameters()))
        expected = torch.cat([g.flatten() for g in gradients]).norm().item()
        record = run(tiny_model, itertools.cycle(rows), accumulation=8, steps=1)[0]
        assert record.grad_norm == pytest.approx(expected, rel=1e-4)
        assert record.loss_nats == pytest.approx((loss_sum / tokens).item(), rel=1e-5)


def test_equals_a_plain_torch_loop(tiny_model):
    """Torch's AdamW, clipping and LambdaLR written out."""
    other = copy.deepcopy(tiny_model)
    rows = [joined(ragged_rows(LENGTHS[:3], seed)) for seed in range(7)]
    config = TrainConfig(
        steps=7, lr=3e-3, warmup_steps=2, weight_decay=0.1, clip_norm=0.5, min_lr_ratio=0.0
    )
    records = list(train(tiny_model, rows, config))
    decayed = [p for p in other.parameters() if p.dim() > 1]
    plain = [p for p in other.parameters() if p.dim() == 1]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=3e-3, betas=config.betas)
    scheduler = get_cosine_schedule_with_warmup(optimizer, 2, 7)
    for row, record in zip(rows, records, strict=True):
        loss_sum, tokens = causal_lm_loss(other, row)
        (loss_sum / tokens).backward()
        norm = nn.utils.clip_grad_norm_(other.parameters(), 0.5)
        assert record.lr == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
        assert record.grad_norm == pytest.approx(norm.item(), rel=1e-3)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
    for ours, theirs in zip(tiny_model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


class Noisy(nn.Module):
    """Dropout before a linear map: a model whose steps draw random numbers."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(V, 11)
        self.drop = nn.Dropout(0.3)
        self.head = nn.Linear(11, V)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, ids):
        self.calls += 1
        return self.head(self.drop(self.embed(ids)))


def noisy_model():
    with torch.random.fork_rng():
        model = Noisy()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(5))
    return model


def random_batches(generator):
    """Data drawn as it is asked for, so that its order is part of the generator's state."""
    while True:
        ids = torch.randint(0, V, (3, 9), generator=generator)
        yield TokenBatch(ids=ids, labels=ids)


def noisy_loss(generator):
    def loss(model, batch):
        keep = torch.rand(batch.labels.shape, generator=generator) > 0.3
        targets = torch.where(keep, batch.labels, IGNORE_INDEX)
        logits = model(batch.ids)
        rows = nn.functional.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORE_INDEX, reduction="sum"
        )
        return rows, int((targets != IGNORE_INDEX).sum())

    return loss


SETTINGS = {
    "steps": 10,
    "lr": 1e-2,
    "warmup_steps": 3,
    "accumulation": 2,
    "checkpoint_every": 4,
    "seed": 11,
}


class TestResume:
    def run(self, folder, stop_after=None, resume=False, seed=11):
        """A fresh process's view: new model, new generator, the same folder."""
        generator = torch.Generator().manual_seed(23)
        model = noisy_model()
        records = train(
            model,
            random_batches(generator),
            TrainConfig(**(SETTINGS | {"seed": seed})),
            loss=noisy_loss(generator),
            checkpoint_dir=folder,
            resume=resume,
            generator=generator,
        )
        taken = list(itertools.islice(records, stop_after))
        return model, [(r.step, r.loss_nats, r.grad_norm, r.lr, r.tokens) for r in taken]

    def test_a_resumed_run_equals_an_unbroken_one_bit_for_bit(self, tmp_path):
        whole_model, whole = self.run(tmp_path / "whole")
        _, first = self.run(tmp_path / "parts", stop_after=5)
        resumed_model, second = self.run(tmp_path / "parts", resume=True)
        assert [row[0] for row in second] == [5, 6, 7, 8, 9, 10], "step 5 came after the checkpoint"
        assert first[:4] + second == whole
        assert_equal(parameters_of(resumed_model), parameters_of(whole_model))
        assert resumed_model.calls == whole_model.calls == 20
        stored = [checkpoint.load(tmp_path / name / CHECKPOINT_NAME) for name in ("whole", "parts")]
        assert stored[0].metadata == stored[1].metadata
        assert "optimizer.head.weight.exp_avg" in stored[0].tensors
        assert "generator" in stored[0].tensors
        assert_equal(stored[0].tensors, stored[1].tensors)

    def test_resume_without_a_checkpoint_starts_anew(self, tmp_path):
        assert self.run(tmp_path / "new", resume=True)[1] == self.run(tmp_path / "other")[1]

    def test_a_finished_run_resumes_to_nothing(self, tmp_path):
        model, _ = self.run(tmp_path)
        again, records = self.run(tmp_path, resume=True)
        assert records == []
        assert_equal(parameters_of(again), parameters_of(model))

    def test_steps_do_not_touch_the_global_generator_but_follow_the_seed(self, tmp_path):
        torch.manual_seed(1)
        before = torch.get_rng_state()
        _, first = self.run(tmp_path / "a")
        assert torch.equal(torch.get_rng_state(), before)
        torch.manual_seed(2)
        _, second = self.run(tmp_path / "b")
        assert first == second
        _, other = self.run(tmp_path / "c", seed=12)
        assert other != first

    def test_other_settings_are_refused(self, tmp_path):
        self.run(tmp_path, stop_after=5)
        config = TrainConfig(**(SETTINGS | {"lr": 2e-2}))
        generator = torch.Generator()
        with pytest.raises(ValueError, match=r"another run: lr=0\.01 there and 0\.02 here"):
            next(
                train(
                    noisy_model(),
                    random_batches(generator),
                    config,
                    checkpoint_dir=tmp_path,
                    resume=True,
                    generator=generator,
                )
            )

    def test_too_few_batches_are_told(self, tmp_path):
        self.run(tmp_path, stop_after=5)
        generator = torch.Generator()
        with pytest.raises(ValueError, match="took 4 steps, but only 3 batches came"):
            next(
                train(
                    noisy_model(),
                    itertools.islice(random_batches(generator), 3),
                    TrainConfig(**SETTINGS),
                    checkpoint_dir=tmp_path,
                    resume=True,
                    generator=generator,
                )
            )

    def test_resume_needs_a_folder(self, tiny_model):
        with pytest.raises(ValueError, match="checkpoint_dir"):
            next(train(tiny_model, [], TrainConfig(steps=1, lr=1e-3), resume=True))


class TestMixedPrecision:
    def batches(self):
        return itertools.repeat(joined(ragged_rows(LENGTHS)))

    def test_bfloat16_loss_falls_and_master_weights_stay_float32(self, tiny_model):
        records = run(tiny_model, self.batches(), steps=40, lr=1e-2, dtype="bfloat16")
        assert records[-1].loss_nats < 0.7 * records[0].loss_nats
        assert {p.dtype for p in tiny_model.parameters()} == {torch.float32}

    def test_bfloat16_follows_float32(self, tiny_model):
        other = copy.deepcopy(tiny_model)
        half = run(tiny_model, self.batches(), steps=10, lr=3e-3, dtype="bfloat16")
        full = run(other, self.batches(), steps=10, lr=3e-3)
        for ours, theirs in zip(half, full, strict=True):
            assert ours.loss_nats == pytest.approx(theirs.loss_nats, rel=1e-2)
        assert [r.loss_nats for r in half] != [r.loss_nats for r in full]


@pytest.fixture
def twins(tiny_model, as_llama):
    """The same weights in MiniLLM and in transformers' Llama."""
    return tiny_model, as_llama(tiny_model)


class TestTransformersModel:
    def test_trains_like_minillm(self, twins):
        batches = [joined(ragged_rows(LENGTHS, seed)) for seed in range(4)]
        ours, theirs = (run(model, batches, steps=4, lr=1e-3) for model in twins)
        for a, b in zip(ours, theirs, strict=True):
            assert a.loss_nats == pytest.approx(b.loss_nats, rel=1e-4)
            assert a.grad_norm == pytest.approx(b.grad_norm, rel=1e-3)

    def test_packed_documents_do_not_see_each_other(self, twins, gen):
        mini, llama = twins
        lengths = (7, 4, 11)
        ids = torch.randint(0, V, (1, sum(lengths)), generator=gen)
        document_ids = torch.repeat_interleave(torch.arange(3), torch.tensor(lengths))[None]
        positions = torch.cat([torch.arange(n) for n in lengths])[None]
        packed = TokenBatch(ids=ids, labels=ids, document_ids=document_ids, positions=positions)
        apart = torch.cat(
            [
                batch_logits(mini, TokenBatch(ids=piece, labels=piece))
                for piece in ids.split(lengths, dim=1)
            ],
            dim=1,
        )
        for model in twins:
            torch.testing.assert_close(batch_logits(model, packed), apart, rtol=1e-4, atol=1e-5)
        blind = TokenBatch(ids=ids, labels=ids, document_ids=document_ids)
        with pytest.raises(ValueError, match="positions that restart"):
            batch_logits(llama, blind)


class TestLora:
    @pytest.mark.parametrize("kind", ["minillm", "transformers"])
    def test_only_the_adapter_moves(self, twins, kind, gen):
        model = twins[kind == "transformers"]
        lora.apply(model, lora.LoraConfig(rank=3, alpha=6), generator=gen)
        before = parameters_of(model)
        rows = itertools.repeat(joined(ragged_rows(LENGTHS)))
        records = run(model, rows, steps=30, lr=2e-2)
        after = parameters_of(model)
        moved = {name for name in after if not torch.equal(after[name], before[name])}
        assert moved == {name for name in after if "lora_" in name}
        assert len(moved) == 2 * 2 * 3
        assert records[-1].loss_nats < records[0].loss_nats - 0.05

    def test_its_checkpoint_holds_the_adapter_only(self, tiny_model, tmp_path, gen):
        lora.apply(tiny_model, lora.LoraConfig(rank=3, alpha=6), generator=gen)
        rows = itertools.repeat(joined(ragged_rows(LENGTHS)))
        config = TrainConfig(steps=1, lr=1e-2)
        list(train(tiny_model, rows, config, checkpoint_dir=tmp_path))
        adapter = sum(p.numel() for p in tiny_model.parameters() if p.requires_grad)
        size = (tmp_path / CHECKPOINT_NAME).stat().st_size
        assert 3 * 4 * adapter < size < 3 * 4 * adapter + 20_000


class TestModes:
    def test_the_caller_finds_the_model_as_they_left_it(self, tiny_model):
        seen = []

        def loss(model, batch):
            seen.append(model.training)
            return causal_lm_loss(model, batch)

        rows = itertools.repeat(joined(ragged_rows(LENGTHS)))
        for record in train(tiny_model.eval(), rows, TrainConfig(steps=2, lr=1e-3), loss=loss):
            assert not tiny_model.training, record
        assert seen == [True, True]


class TestRefusals:
    def test_not_a_number_names_the_step_and_keeps_the_weights(self, tiny_model):
        calls = itertools.count(1)

        def loss(model, batch):
            loss_sum, tokens = causal_lm_loss(model, batch)
            return loss_sum * (float("nan") if next(calls) == 3 else 1.0), tokens

        rows = itertools.repeat(joined(ragged_rows(LENGTHS)))
        records = train(tiny_model, rows, TrainConfig(steps=5, lr=1e-3), loss=loss)
        next(records), next(records)
        before = parameters_of(tiny_model)
        with pytest.raises(DivergedError, match=r"step 3: loss is nan .* lr=.*Lower lr"):
            next(records)
        assert_equal(parameters_of(tiny_model), before)
        assert all(parameter.grad is None for parameter in tiny_model.parameters())

    def test_an_infinite_gradient_too(self, tiny_model):
        def loss(model, batch):
            loss_sum, tokens = causal_lm_loss(model, batch)
            finite = loss_sum.detach() + (loss_sum - loss_sum.detach()) * float("inf")
            return torch.where(torch.isfinite(finite), finite, loss_sum * 1e38 * 1e-38), tokens

        rows = itertools.repeat(joined(ragged_rows(LENGTHS)))
        with pytest.raises(DivergedError, match="step 1: loss is"):
            next(train(tiny_model, rows, TrainConfig(steps=5, lr=1e-3), loss=loss))

    def test_nothing_to_predict(self, tiny_model):
        empty = TokenBatch(
            ids=torch.zeros(2, 5, dtype=torch.long), labels=torch.full((2, 5), IGNORE_INDEX)
        )
        with pytest.raises(ValueError, match="step 1 has no token to predict"):
            run(tiny_model, [empty])

    def test_batches_run_out(self, tiny_model):
        rows = ragged_rows(LENGTHS[:5])
        with pytest.raises(ValueError, match="ran out in step 3 of steps=4"):
            run(tiny_model, rows, steps=4, accumulation=2)

    def test_nothing_trainable(self, tiny_model):
        tiny_model.requires_grad_(False)
        with pytest.raises(ValueError, match="nothing would be trained"):
            run(tiny_model, ragged_rows(LENGTHS))


def test_decay_is_for_matrices_only(tiny_model):
    optimizer = build_optimizer(tiny_model, TrainConfig(steps=1, lr=1e-3, weight_decay=0.3))
    decayed, others = optimizer.param_groups
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.3, 0.0)
    assert {p.dim() for p in decayed["params"]} == {2}
    assert {p.dim() for p in others["params"]} == {1}
    count = len(decayed["params"]) + len(others["params"])
    assert count == len(list(minillm.MiniLLM.parameters(tiny_model)))
