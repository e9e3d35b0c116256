"""Lab 12: other right ways pass, planted faults are what their names say, labkit's bank agrees."""

import copy
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from grader.checks.core import HIDDEN_SEEDS, PUBLIC_SEED, load_lab, run_check, verdicts
from grader.course import Course
from grader.labs.lab12_multi_adapter_serving import (
    given,
    inputs,
    outside,
    recipe,
    reference,
)
from labkit.inference.adapters.bank import AdapterBank
from labkit.model.config import ModelConfig
from labkit.model.minillm import MiniLLM, initialise
from labkit.runtime.seeding import generator
from labkit.tuning import adapter_files, lora

LAB = load_lab("lab12_multi_adapter_serving")
SEEDS = (PUBLIC_SEED, *HIDDEN_SEEDS, *range(6))
Factors = tuple[Tensor, Tensor, float]


class NaiveManager:
    """A list of mounts, searched from the start each time; no table that could be out of step."""

    def __init__(self, max_adapters: int) -> None:
        self.most, self.mounts, self.meaning = max_adapters, [], []
        self.clock = 0

    def _there(self) -> list[Any]:
        return [m for m in self.mounts if m["live"] or m["running"]]

    def _meant(self, name: str) -> Any:
        versions = [m for m in self.mounts if m["name"] == name and m["live"]]
        written = [m for n, m in self.meaning if n == name]
        found = written[-1:] if written and written[-1] is not None else versions
        if not found or not found[0]["live"]:
            raise KeyError(name)
        return found[0]

    def mount(self, stem: str) -> str:
        old = [m for m in self.mounts if m["stem"] == stem and m["live"]]
        kept = [m for m in self._there() if m not in old or m["running"]]
        idle = [m for m in kept if m["live"] and not m["running"]]
        if len(kept) == self.most:
            if not idle:
                raise OverflowError
            old.append(min(idle, key=lambda m: m["used"]))
        for m in old:
            m["live"] = False
        self.clock += 1
        version = 1 + sum(m["stem"] == stem for m in self.mounts)
        name = f"{stem}@v{version}"
        new = {"stem": stem, "name": name, "live": True, "running": 0, "used": self.clock}
        self.mounts.append(new)
        self.meaning.append((stem, new))
        return name

    def unmount(self, name: str) -> bool:
        found = self._meant(name)
        found["live"] = False
        return not found["running"]

    def alias(self, alias: str, name: str) -> None:
        self.meaning.append((alias, self._meant(name)))

    def acquire(self, name: str) -> int:
        if name == "__base__":
            return 0
        found = self._meant(name)
        self.clock += 1
        found["used"] = self.clock
        found["running"] += 1
        return 1 + next(n for n, m in enumerate(self.mounts) if m is found)

    def release(self, uid: int) -> None:
        if uid and (uid > len(self.mounts) or not self.mounts[uid - 1]["running"]):
            raise ValueError(uid)
        if uid:
            self.mounts[uid - 1]["running"] -= 1

    def names(self) -> list[str]:
        return sorted(m["name"] for m in self.mounts if m["live"])

    def draining(self) -> list[str]:
        return sorted(m["name"] for m in self.mounts if not m["live"] and m["running"])


def sorted_rows(y: Tensor, x: Tensor, adapters: Sequence[Factors], slots: Tensor) -> Tensor:
    """Sorted by adapter once; each adapter's rows are then a slice."""
    order = slots.argsort(stable=True)
    result, begin = y[order], 0
    values, counts = slots[order].unique_consecutive(return_counts=True)
    for slot, count in zip(values.tolist(), counts.tolist(), strict=True):
        if slot:
            A, B, scaling = adapters[slot - 1]
            own = x[order[begin : begin + count]]
            result[begin : begin + count].addmm_(own @ A.T, B.T, alpha=scaling)
        begin += count
    back = torch.empty_like(result)
    back[order] = result
    return back


def fused_by_kronecker(
    parts: Sequence[Factors | None], widths: Sequence[int]
) -> tuple[Tensor, Tensor, list[tuple[int, int, int, int]]]:
    """Each block lifted into place by unit vectors."""
    ranks = [0 if part is None else len(part[0]) for part in parts]
    r, o = [0, *np.cumsum(ranks).tolist()], [0, *np.cumsum(widths).tolist()]
    B = torch.zeros(o[-1], r[-1])
    for n, part in enumerate(parts):
        if part is not None:
            rows, columns = torch.eye(o[-1])[o[n] : o[n + 1]], torch.eye(r[-1])[r[n] : r[n + 1]]
            B = B + rows.T @ (part[2] * part[1]) @ columns
    stacked = torch.vstack([part[0] for part in parts if part is not None])
    blocks = [(r[n], r[n + 1], o[n], o[n + 1]) for n in range(len(parts))]
    return stacked, B, blocks


@pytest.mark.parametrize(
    ("name", "impl"),
    [
        ("adapter_manager", NaiveManager),
        ("add_grouped", sorted_rows),
        ("fuse_projections", fused_by_kronecker),
    ],
)
def test_other_right_ways_pass(name: str, impl: Callable[..., Any]) -> None:
    assert verdicts(LAB.check(name), impl, SEEDS).message == ""


def small_model() -> MiniLLM:
    """One whose projections are all of different shapes where they can be."""
    config = ModelConfig(
        vocab_size=11, width=12, num_layers=2, num_heads=3, num_kv_heads=1, head_width=4,
        ffn_width=10, max_length=16,
    )  # fmt: skip
    model = MiniLLM(config)
    initialise(model, generator(3))
    return model.eval()


def adapter(model: MiniLLM, rank: int, seed: int) -> recipe.Places:
    """An adapter with no factor zero, as the recipe hands it out; the model stays as it was."""
    config = lora.LoraConfig(rank=rank, alpha=3.0, target_modules=("q_proj", "k_proj", "v_proj"))
    adapted = lora.apply(copy.deepcopy(model), config)
    gen = generator(seed)
    with torch.no_grad():
        for layer in lora.layers(adapted).values():
            layer.lora_A.weight.normal_(generator=gen)
            layer.lora_B.weight.normal_(generator=gen)
    return recipe.places(adapted)


def test_the_fused_reference_adds_what_labkits_bank_adds(tmp_path: Path) -> None:
    model = small_model()
    options = lora.LoraConfig(rank=2, alpha=3.0, target_modules=("q_proj", "v_proj"))
    adapted = lora.apply(model, options, generator=generator(1))
    with torch.no_grad():
        for layer in lora.layers(adapted).values():
            layer.lora_B.weight.normal_(generator=generator(2))
    adapter_files.save(adapted, tmp_path, options)
    found = recipe.places(adapted)
    bank = AdapterBank(model.config, dtype=torch.float32, device="cpu", max_rank=4, max_adapters=2)
    slot = bank.mount("a", tmp_path)
    at = "model.layers.1.self_attn."
    parts = [found[f"{at}q_proj"], None, found[f"{at}v_proj"]]
    x = torch.randn(5, 12, generator=generator(4))
    A, B, _ = reference.fuse_projections(parts, (12, 4, 4))
    y = torch.zeros(5, 20)
    bank.add_fused(y, x, 1, ("q_proj", "k_proj", "v_proj"), bank.group(torch.full((5,), slot)))
    torch.testing.assert_close(x @ A.T @ B.T, y, rtol=1e-5, atol=1e-5)


def test_rows_under_the_recipes_hooks_are_those_of_the_adapted_models() -> None:
    model, ids = small_model(), torch.arange(8).view(2, 4).repeat_interleave(3, 0)
    adapters = [adapter(model, rank, seed) for rank, seed in ((2, 5), (3, 6))]
    slots = [0, 2, 1, 1, 0, 2]
    with recipe.under(model, adapters, slots, reference.add_grouped):
        mixed = model(ids)
    for row, slot in enumerate(slots):
        merged = copy.deepcopy(model)
        for path, (A, B, scaling) in (adapters[slot - 1] if slot else {}).items():
            merged.get_submodule(path).weight.data += scaling * B @ A
        with torch.no_grad():
            alone = merged(ids[row : row + 1])[0]
        torch.testing.assert_close(mixed[row], alone, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        assert torch.equal(model(ids), small_model()(ids))  # the hooks are gone


def test_random_calls_reach_every_kind_of_answer() -> None:
    found: set[tuple[str, str]] = set()
    for seed in SEEDS:
        check = LAB.check("adapter_manager")
        for key, calls in check.expected(check.inputs(np.random.default_rng(seed))).items():
            if key.endswith("any calls: what each call gives"):
                for call in calls:
                    method, _, gave = call.partition(": ")[2].partition("(")
                    gave = call.rpartition(" gives ")[2]
                    found.add((method, "a name" if "@" in gave else gave))
    kinds = {(method, gave) for method, gave in found if not gave.isdecimal()}
    assert kinds == {
        ("mount", "a name"), ("mount", "OverflowError"), ("unmount", "True"), ("unmount", "False"),
        ("unmount", "KeyError"), ("alias", "None"), ("alias", "KeyError"), ("acquire", "KeyError"),
        ("release", "None"), ("release", "ValueError"),
    }  # fmt: skip


def test_every_batch_rule_decides_somewhere() -> None:
    """Skipped requests, full batches and batches of the delay are all in the hidden loads."""
    for seed in HIDDEN_SEEDS:
        drawn = inputs.batches_inputs(np.random.default_rng(seed))
        skipped = full = due = 0
        for case in drawn["cases"]:
            given = {name: value for name, value in case.items() if name != "kind"}
            served: set[int] = set()
            for start, batch in reference.plan_batches(**given):
                here = [n for n, t in enumerate(case["arrivals_ms"]) if t <= start]
                left = [n for n in here if n not in served]
                skipped += left[: len(batch)] != batch
                full += len(batch) == case["max_batch"]
                due += start == case["arrivals_ms"][left[0]] + case["max_delay_ms"]
                served |= {*batch}
        assert min(skipped, full, due) >= 5


def test_products_and_what_they_make_are_counted() -> None:
    x, A = torch.ones(5, 4), torch.ones(3, 4)
    with given.Work() as work:
        torch.nn.functional.linear(x, A)
        torch.einsum("ni,ri->nr", x, A)
        A @ x[0]
        torch.addmm(torch.zeros(5, 3), x, A.T)
        torch.baddbmm(torch.zeros(2, 5, 3), x.expand(2, 5, 4), A.T.expand(2, 4, 3))
    assert work.products == 5
    assert work.multiplications == 3 * 60 + 12 + 120
    assert work.largest == 40


def test_a_bare_tensor_for_three_is_answered_with_their_names() -> None:
    verdict = run_check(LAB.check("fuse_projections"), lambda parts, widths: parts, PUBLIC_SEED)
    assert "(A, B, blocks)" in verdict.message


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ([b"data"], "chunk 0 should be a string"),
        (["data: {}"], "chunk 0 should be a string"),
        (["data: {\n\n"], "chunk 0 holds no JSON"),
        ({"a": {1, 2}}, "cannot be written as JSON"),
        ("text", "expected a list"),
    ],
)
def test_a_body_that_is_none_is_said(body: Any, message: str) -> None:
    verdict = run_check(LAB.check("handle"), lambda request, service: (200, body), PUBLIC_SEED)
    assert message in verdict.message


def servers(width: int) -> list[Callable[[Any], list[Tensor]]]:
    """The servers of all faults, in their order."""
    cases = [{"fault": fault, "width": width} for fault in range(5)]
    return [case["server"] for case in outside.servers({"cases": cases})["cases"]]


@pytest.mark.parametrize("width", [3, 6])
def test_every_fault_can_be_told(width: int) -> None:
    names = [reference.diagnose(server, width) for server in servers(width)]
    assert names == list(inputs.FAULTS)


def test_a_server_whose_customers_never_meet_and_never_reload_seems_healthy() -> None:
    gen = generator(0)
    A, B = torch.randn(2, 3, generator=gen), torch.randn(3, 2, generator=gen)
    x = torch.randn(2, 4, 3, generator=gen)
    script = [("mount", "a", A, B, 2.0), ("ask", "a", x[0]), ("ask", "__base__", x[1])]
    expected = torch.stack([x[0] + x[0] @ A.T @ B.T, x[1]])
    for server in servers(3):
        torch.testing.assert_close(torch.stack(server(script)), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (("mount", "a", torch.zeros(2, 3), torch.zeros(2, 3), 1.0), r"A and B should be \(R, 3\)"),
        (("mount", "__base__", torch.zeros(2, 3), torch.zeros(3, 2), 1.0), "always there"),
        (("mount", "a", torch.zeros(2, 3), torch.zeros(3, 2), -1.0), "alpha"),
        (("mount", "a", torch.full((2, 3), torch.nan), torch.zeros(3, 2), 1.0), "finite"),
        (("ask", "b", torch.zeros(1, 3)), "nothing is mounted under the name 'b'"),
        (("ask", "__base__", torch.zeros(1, 4)), r"x should be \(T, 3\)"),
        (("ask", "__base__", [1.0]), "float32 tensor of 2"),
        (("unmount", "__base__"), "nothing is mounted"),
        (("ask", 3, torch.zeros(1, 3)), "a name is a string"),
        (("stop",), "steps are"),
        ((), "steps are"),
    ],
)
def test_a_server_says_what_it_cannot_take(step: Any, message: str) -> None:
    for server in servers(3):
        with pytest.raises(ValueError, match=f"step 1 of the script: .*{message}"):
            server([("run",), step])


def test_the_envelope_is_the_recipes(real_course: Course) -> None:
    beside = real_course.source(LAB.name).with_name("envelope.json")
    envelope = json.loads(beside.read_text(encoding="utf-8"))
    settings, runs = recipe.Recipe(), np.array(envelope["runs"])
    assert tuple(envelope["checkpoints"]) == settings.checkpoints
    assert runs.shape == (len(recipe.ENVELOPE_SEEDS), len(settings.checkpoints))
    assert (runs[:, 0] == 0).all()  # B is zero at the start
    assert (np.diff(runs, axis=1) < 0).all()
    assert (runs[:, -1] < -1).all()
