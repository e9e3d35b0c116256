"""The bank: what it adds, whose names mean what, and what it refuses."""

import copy
import dataclasses

import pytest
import torch

from labkit.inference.adapters.errors import (
    AdapterCapacityError,
    AdapterError,
    AdapterNameError,
    UnknownAdapterError,
)
from labkit.inference.adapters.places import groups, places, shapes
from labkit.model.config import MoeConfig
from labkit.tuning import adapter_files

from .conftest import new_bank

SLOTS = torch.tensor([3, 0, 1, 1, 2, 4, 0, 2, 1])


@pytest.mark.parametrize("plan", ["auto", "loop", "padded"])
def test_adds_each_rows_delta_at_every_place(tiny_model, bank, folders, gen, plan):
    grouping = bank.group(SLOTS, plan=plan)
    adapted = [adapter_files.load(copy.deepcopy(tiny_model), path) for path in folders.values()]
    for path, place in places(tiny_model.config).items():
        width = shapes(tiny_model.config)[place.target]
        x = torch.randn(len(SLOTS), width.inputs, generator=gen)
        before = torch.randn(len(SLOTS), width.outputs, generator=gen)
        y = before.clone()
        bank.add_delta(y, x, place.layer, place.target, grouping)
        expected = torch.zeros_like(y)
        for slot, model in enumerate(adapted, start=1):
            with torch.no_grad():
                delta = model.get_submodule(path)(x) - tiny_model.get_submodule(path)(x)
            expected[slot == SLOTS] = delta[slot == SLOTS]
        torch.testing.assert_close(y - before, expected, rtol=1e-5, atol=1e-5)
        assert torch.equal(y[SLOTS == 0], before[SLOTS == 0])


def test_fused_equals_one_by_one_also_on_a_slice(tiny_model, bank, gen):
    grouping = bank.group(SLOTS)
    widths = shapes(tiny_model.config)
    for layer in range(tiny_model.config.num_layers):
        for targets in groups(tiny_model.config):
            outputs = [widths[target].outputs for target in targets]
            x = torch.randn(len(SLOTS), widths[targets[0]].inputs, generator=gen)
            wide = torch.randn(len(SLOTS), sum(outputs) + 4, generator=gen)
            fused, single = wide.clone(), wide.clone()
            bank.add_fused(fused[:, 2:-2], x, layer, targets, grouping)
            for target, y in zip(targets, single[:, 2:-2].split(outputs, dim=1), strict=True):
                bank.add_delta(y, x, layer, target, grouping)
            torch.testing.assert_close(fused, single, rtol=1e-5, atol=1e-5)
            assert torch.equal(fused[:, [0, 1, -2, -1]], wide[:, [0, 1, -2, -1]])


def test_a_batch_of_base_rows_costs_nothing(bank, monkeypatch):
    grouping = bank.group(torch.zeros(5, dtype=torch.long))
    assert grouping.parts == ()
    monkeypatch.setattr(bank, "_stacks", None)
    monkeypatch.setattr(bank._deltas, "_check", None)
    y = torch.ones(5, 24)
    bank._deltas.add(y, torch.ones(5, 24), 0, ("o_proj",), grouping)
    assert torch.equal(y, torch.ones(5, 24))


def test_bfloat16_is_rounded_once(tiny_model, folders, gen):
    """Against float32 sums of the rounded factors: one rounding of the delta, one of the sum."""
    bank = new_bank(tiny_model, dtype=torch.bfloat16)
    wide = new_bank(tiny_model)
    for each in (bank, wide):
        each.mount("finance", folders["finance"])
    slots = torch.tensor([1, 0, 1])
    x = torch.randn(3, 40, generator=gen).bfloat16()
    y = torch.randn(3, 24, generator=gen).bfloat16()
    expected = y.float()
    wide.add_delta(expected, x.float(), 2, "down_proj", wide.group(slots))
    before = y.clone()
    bank.add_delta(y, x, 2, "down_proj", bank.group(slots))
    torch.testing.assert_close(y.float(), expected, rtol=2e-2, atol=2e-2)
    assert torch.equal(y[1], before[1])
    assert (y[0] != before[0]).any()


def test_refuses_what_does_not_fit(bank):
    grouping = bank.group(torch.tensor([1, 0]))
    x, y = torch.zeros(2, 24), torch.zeros(2, 24)
    with pytest.raises(ValueError, match=r"bank was built for torch\.float32"):
        bank.add_delta(y.bfloat16(), x.bfloat16(), 0, "o_proj", grouping)
    with pytest.raises(ValueError, match="should be"):
        bank.add_delta(torch.zeros(3, 24), torch.zeros(3, 24), 0, "o_proj", grouping)
    with pytest.raises(ValueError, match="target 'lm_head' is none of this model's"):
        bank.add_delta(y, x, 0, "lm_head", grouping)
    with pytest.raises(ValueError, match="are no fused projection"):
        bank.add_fused(y, x, 0, ("k_proj", "q_proj", "v_proj"), grouping)
    with pytest.raises(UnknownAdapterError, match="slot 9"):
        bank.group(torch.tensor([9]))


def test_a_slot_given_anew_holds_nothing_of_the_old(tiny_model, bank, folders, gen):
    """`one-layer` takes the slot of `finance`, which had every place and a lower rank."""
    slot = bank.slot("finance")
    assert bank.unmount("finance")
    assert bank.mount("again", folders["one-layer"]) == slot
    bank.check_integrity()
    grouping = bank.group(torch.tensor([slot, slot]))
    y = torch.zeros(2, 24)
    bank.add_delta(y, torch.randn(2, 24, generator=gen), 0, "o_proj", grouping)
    assert not y.any()


def test_a_reload_means_the_new_weights_and_running_requests_keep_theirs(bank, folders, gen):
    x = torch.randn(1, 24, generator=gen)

    def output(slot: int) -> torch.Tensor:
        y = torch.zeros(1, 24)
        bank.add_delta(y, x, 0, "q_proj", bank.group(torch.tensor([slot])))
        return y

    old = bank.acquire("finance")
    before, uid = output(old), bank.uid(old)
    new = bank.mount("finance", folders["medical"])
    assert bank.slot("finance") == bank.slot("finance@v2") == new
    assert bank.uid(new) > uid
    assert bank.draining == ("finance@v1",)
    assert "finance@v1" not in bank.names
    assert torch.equal(output(old), before)
    assert torch.equal(output(new), output(bank.slot("medical")))
    with pytest.raises(UnknownAdapterError, match="draining"):
        bank.acquire(old)
    bank.release(old)
    with pytest.raises(UnknownAdapterError):
        bank.group(torch.tensor([old]))
    bank.check_integrity()


def test_older_versions_stay_when_asked(bank, folders):
    bank.mount("finance", folders["python"], keep_older=True)
    assert {"finance@v1", "finance@v2"} <= set(bank.names)
    bank.alias("finance", "finance@v1")
    assert bank.aliases["finance"] == "finance@v1"
    assert bank.unmount("finance@v1")
    assert "finance" not in bank.aliases  # it never means other weights by itself
    with pytest.raises(UnknownAdapterError):
        bank.slot("finance")
    assert bank.slot("finance@v2")


def test_a_versions_name_is_never_given_twice(bank, folders):
    bank.mount("finance@v7", folders["finance"])
    bank.unmount("finance")
    for name in ("finance@v7", "finance@v1"):
        with pytest.raises(AdapterNameError, match="finance@v8"):
            bank.mount(name, folders["finance"])
    bank.mount("finance", folders["finance"])
    assert bank.aliases["finance"] == "finance@v8"


@pytest.mark.parametrize(
    "name", ["", "__base__", "a/../b", "../a", "a/", "a b", "a@v0", "a@v01", "a@x", "a" * 129, "é"]
)
def test_bad_names(bank, folders, name):
    with pytest.raises(AdapterNameError, match="is no adapter's name"):
        bank.mount(name, folders["finance"])
    with pytest.raises(AdapterNameError):
        bank.alias(name, "finance")


def test_capacity(tiny_model, folders):
    bank = new_bank(tiny_model, max_adapters=2)
    bank.mount("a", folders["finance"])
    bank.mount("tenant/b", folders["medical"])
    with pytest.raises(AdapterCapacityError, match="all of max_adapters=2 are taken"):
        bank.mount("c", folders["python"])
    bank.mount("a", folders["python"])  # a reload has room beside the old one
    held = bank.acquire("a")
    bank.mount("a", folders["finance"])
    with pytest.raises(AdapterCapacityError, match=r"a@v2 will go with the last request"):
        bank.mount("a", folders["finance"])
    with pytest.raises(AdapterCapacityError):
        bank.mount("tenant/b", folders["finance"], keep_older=True)
    bank.release(held)
    bank.mount("a", folders["finance"])
    assert set(bank.names) == {"tenant/b@v1", "a@v4"}
    bank.check_integrity()


def test_bytes_are_capped_and_counted(tiny_model, folders):
    free = new_bank(tiny_model)
    free.mount("a", folders["finance"])
    once = free.nbytes
    widths = shapes(tiny_model.config).values()
    expected = 4 * 3 * 3 * sum(I + O for I, O in widths)  # noqa: E741
    assert once == expected  # float32, 3 layers, rank 3
    free.mount("b", folders["medical"])
    grown = free.nbytes
    bank = new_bank(tiny_model, max_bytes=grown - 1)
    bank.mount("a", folders["finance"])
    with pytest.raises(AdapterCapacityError, match=f"{grown} bytes, above max_bytes={grown - 1}"):
        bank.mount("b", folders["medical"])
    assert bank.names == ("a@v1",)
    assert bank.nbytes == once
    bank.check_integrity()
    enough = new_bank(tiny_model, max_bytes=grown)
    enough.mount("a", folders["finance"])
    enough.mount("b", folders["medical"])


def test_a_refused_reload_leaves_the_old_one_serving(bank, folders, tmp_path):
    slot = bank.slot("finance")
    (folders["medical"] / "adapter_model.safetensors").write_bytes(b"broken")
    with pytest.raises(AdapterError):
        bank.mount("finance", folders["medical"])
    assert bank.slot("finance") == slot
    assert bank.aliases["finance"] == "finance@v1"


def test_base_is_slot_0_and_needs_no_count(bank):
    assert bank.slot("__base__") == bank.acquire("__base__") == bank.acquire(0) == 0
    bank.release(0)
    assert bank.uid(0) == 0
    with pytest.raises(ValueError, match="no request to release"):
        bank.release(1)
    with pytest.raises(UnknownAdapterError, match="these are: finance@v1"):
        bank.slot("fin")


def test_mounted_in_inference_mode_it_can_be_overwritten_outside(tiny_model, folders):
    bank = new_bank(tiny_model, max_adapters=1)
    with torch.inference_mode():
        bank.mount("a", folders["finance"])
        bank.unmount("a")
    bank.mount("a", folders["medical"])
    bank.check_integrity()


def test_uids_are_of_the_process(tiny_model, folders):
    first, second = new_bank(tiny_model), new_bank(tiny_model)
    a, b = first.mount("a", folders["finance"]), second.mount("a", folders["finance"])
    assert first.uid(a) != second.uid(b)


def test_experts_carry_no_adapters(tiny_config):
    config = dataclasses.replace(tiny_config, moe=MoeConfig(num_experts=3))
    assert set(shapes(config)) == {"q_proj", "k_proj", "v_proj", "o_proj"}


def test_limits_are_positive(tiny_model):
    with pytest.raises(ValueError, match="max_rank=0"):
        new_bank(tiny_model, max_rank=0)
    with pytest.raises(ValueError, match="max_bytes=-1"):
        new_bank(tiny_model, max_bytes=-1)
