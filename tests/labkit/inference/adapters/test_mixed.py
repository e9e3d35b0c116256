"""Rows under their own adapters: as each alone, as merged, as peft's mixed batch."""

import copy
import threading

import peft
import pytest
import torch

from labkit.inference.adapters.errors import UnknownAdapterError
from labkit.inference.adapters.mixed import mixed
from labkit.inference.decoding import BatchDecoder
from labkit.inference.generate import generate, generate_ids
from labkit.inference.sampling import SamplingConfig
from labkit.tuning import adapter_files, lora

from .conftest import new_bank
from .made import alone, made

BASE = "__base__"
ROWS = ["finance", BASE, "python", "medical", "finance", "one-layer", BASE, "medical"]
# Sums in another order in float32, through adapters that move the outputs by their own size; the
# logits' largest are about 0.7.
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture
def ids(gen: torch.Generator) -> torch.Tensor:
    return torch.randint(97, (len(ROWS), 11), generator=gen)


def test_each_row_is_what_its_adapter_gives_alone(tiny_model, bank, folders, ids):
    with mixed(tiny_model, bank, ROWS) as model:
        logits = model(ids)
    for row, name in enumerate(ROWS):
        expected = alone(tiny_model, folders.get(name), ids[row : row + 1])
        torch.testing.assert_close(logits[row : row + 1], expected, **CLOSE)
        if name != BASE:
            base = alone(tiny_model, None, ids[row : row + 1])
            assert (expected - base).abs().max() > 0.01


def test_base_rows_stay_to_the_bit(tiny_model, bank, ids):
    with mixed(tiny_model, bank, ROWS) as model:
        logits = model(ids)
    with torch.no_grad():
        base = tiny_model(ids)
    of_base = torch.tensor([name == BASE for name in ROWS])
    assert torch.equal(logits[of_base], base[of_base])
    assert (logits[~of_base] - base[~of_base]).abs().amax((1, 2)).min() > 0.01


def test_equals_the_merged_models(tiny_model, bank, folders, ids):
    with mixed(tiny_model, bank, ROWS) as model:
        logits = model(ids)
    for name, folder in folders.items():
        merged = adapter_files.load(copy.deepcopy(tiny_model), folder)
        merged = lora.merge_and_unload(merged)
        rows = [row for row, other in enumerate(ROWS) if other == name]
        with torch.no_grad():
            # The merged weight is rounded once more than the two factors.
            torch.testing.assert_close(logits[rows], merged(ids[rows]), rtol=1e-4, atol=1e-5)


def test_equals_pefts_mixed_batch(tiny_model, bank, folders, ids, as_llama):
    first, *rest = folders
    theirs = peft.PeftModel.from_pretrained(
        as_llama(tiny_model), str(folders[first]), adapter_name=first
    )
    for name in rest:
        theirs.load_adapter(str(folders[name]), adapter_name=name)
    theirs.eval()
    with torch.no_grad():
        expected = theirs(input_ids=ids, adapter_names=ROWS).logits
    with mixed(tiny_model, bank, ROWS) as model:
        torch.testing.assert_close(model(ids), expected, **CLOSE)
        ours = generate_ids(model, ids, SamplingConfig(max_new_tokens=9, ignore_eos=True))
    generated = theirs.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), adapter_names=ROWS,
        max_new_tokens=9, do_sample=False, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    assert torch.equal(ours, generated[:, ids.shape[1] :])


def test_order_of_rows_changes_nothing(tiny_model, bank, ids, gen):
    order = torch.randperm(len(ROWS), generator=gen)
    with mixed(tiny_model, bank, ROWS) as model:
        straight = model(ids)
    with mixed(tiny_model, bank, [ROWS[i] for i in order.tolist()]) as model:
        torch.testing.assert_close(model(ids[order]), straight[order], **CLOSE)


def test_padded_prompts_and_cached_steps(tiny_model, bank, folders):
    prompts, names = [[3, 4, 5, 6, 7], [8, 9], [10]], ["medical", BASE, "python"]
    with mixed(tiny_model, bank, names) as model:
        batch = BatchDecoder(model, prompts, max_steps=2)
        got = [batch.prefill(), batch.step(torch.tensor([40, 41, 42]))]
    for row, (prompt, name) in enumerate(zip(prompts, names, strict=True)):
        ids = torch.tensor([[*prompt, 40 + row]])
        expected = alone(tiny_model, folders.get(name), ids)[0, -2:]
        together = torch.stack([step[row] for step in got])
        torch.testing.assert_close(together, expected, rtol=1e-4, atol=1e-5)


def test_generate_gives_each_row_its_adapters_text(byte_loaded, tmp_path):
    model, tokenizer = byte_loaded.model, byte_loaded.tokenizer
    bank = new_bank(model)
    folder = made(model, tmp_path / "a", 1)
    bank.mount("a", folder)
    config = SamplingConfig(max_new_tokens=20)
    with mixed(model, bank, ["a", BASE]):
        with_adapter, base = generate(model, tokenizer, ["Hello", "Hello"], config)
    assert generate(model, tokenizer, "Hello", config) == [base]
    adapted = adapter_files.load(copy.deepcopy(model), folder)
    assert generate(adapted, tokenizer, "Hello", config) == [with_adapter]
    assert with_adapter.ids != base.ids


def test_leaves_the_model_and_the_bank_as_they_were(tiny_model, bank, ids):
    hooks = [len(module._forward_hooks) for module in tiny_model.modules()]
    before = tiny_model(ids)

    def failing() -> None:
        with mixed(tiny_model, bank, ROWS):
            assert not bank.unmount("finance")
            raise KeyError

    with pytest.raises(KeyError):
        failing()
    assert [len(module._forward_hooks) for module in tiny_model.modules()] == hooks
    assert torch.equal(tiny_model(ids), before)
    assert before.requires_grad
    assert bank.draining == ()
    with pytest.raises(UnknownAdapterError), mixed(tiny_model, bank, ["medical", "finance"]):
        pass
    assert bank.unmount("medical")  # the failed context holds nothing


def test_refuses_what_it_cannot_mean(tiny_model, bank, ids, byte_loaded):
    with mixed(tiny_model, bank, ROWS[:3]) as model:
        with pytest.raises(ValueError, match="3 adapter names for a batch of 8 rows"):
            model(ids)
        with pytest.raises(ValueError, match="do not nest"), mixed(model, bank, ROWS):
            pass
    with mixed(tiny_model, bank, ROWS):  # the refused ones left no trace
        pass
    with pytest.raises(ValueError, match="the bank was built for"):
        mixed(byte_loaded.model, bank, [BASE]).__enter__()
    adapted = lora.apply(copy.deepcopy(tiny_model), lora.LoraConfig(rank=2))
    with pytest.raises(ValueError, match="LoRA adapters already"):
        mixed(adapted, bank, [BASE]).__enter__()


def test_threads_use_one_model_with_adapters_of_their_own(tiny_model, bank, folders, ids):
    barrier, found = threading.Barrier(2), {}

    def run(name: str) -> None:
        with mixed(tiny_model, bank, [name] * len(ids)) as model:
            barrier.wait()  # both contexts are open
            found[name] = model(ids)
            barrier.wait()

    threads = [threading.Thread(target=run, args=(name,)) for name in ("finance", BASE)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name, logits in found.items():
        torch.testing.assert_close(logits, alone(tiny_model, folders.get(name), ids), **CLOSE)
    assert len(found) == 2


@pytest.mark.slow
def test_smollm2_rows_write_what_each_adapter_writes_alone(smollm2, tmp_path):
    model, tokenizer = smollm2.model, smollm2.tokenizer
    bank = new_bank(model)
    folders = {
        name: made(model, tmp_path / name, seed, rank=4, alpha=1.0, target_modules=targets)
        for seed, (name, targets) in enumerate(
            {"a": ("q_proj", "v_proj"), "b": ("o_proj", "gate_proj")}.items()
        )
    }
    for name, folder in folders.items():
        bank.mount(name, folder)
    prompts, config = (
        ["Once upon a time", "Water boils at", "In Python"],
        SamplingConfig(max_new_tokens=8, ignore_eos=True),
    )
    with mixed(model, bank, ["b", BASE, "a"]):
        together = generate(model, tokenizer, prompts, config)
    assert together[1:2] == generate(model, tokenizer, prompts[1], config)
    for row, name in ((0, "b"), (2, "a")):
        adapted = adapter_files.load(copy.deepcopy(model), folders[name])
        assert generate(adapted, tokenizer, prompts[row], config) == together[row : row + 1]
