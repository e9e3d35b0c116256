"""Names, versions, aliases and counts against a naive model, in any order of operations."""

import itertools
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from labkit.inference.adapters.bank import AdapterBank
from labkit.inference.adapters.errors import (
    AdapterCapacityError,
    AdapterNameError,
    UnknownAdapterError,
)
from labkit.model.config import ModelConfig
from labkit.tuning.adapter_files import Adapter
from labkit.tuning.lora import LoraConfig

CONFIG = ModelConfig(
    vocab_size=7, width=6, num_layers=1, num_heads=3, num_kv_heads=1, head_width=2, ffn_width=10
)
MOST = 3
STEMS = ("a", "t/b", "c")
_values = itertools.count(1)


def adapter(value: int, target: str) -> Adapter:
    """Adds `value` times the sum of its input to the first output of a projection."""
    width = {"q_proj": 6, "o_proj": 6}[target]
    A, B = torch.ones(1, width), torch.zeros(6, 1)
    B[0] = value
    config = LoraConfig(rank=1, alpha=1.0, target_modules=(target,))
    name = f"model.layers.0.self_attn.{target}"
    tensors = {f"{name}.lora_A.weight": A, f"{name}.lora_B.weight": B}
    return Adapter(config, tensors, None, Path("memory"))


@dataclass
class Naive:
    """One mounted version, as anybody would write it down."""

    stem: str
    version: int
    slot: int
    uid: int
    value: int
    target: str
    requests: int = 0
    live: bool = True

    @property
    def name(self) -> str:
        return f"{self.stem}@v{self.version}"


@dataclass
class World:
    held: list[Naive] = field(default_factory=list)
    aliases: dict[str, Naive] = field(default_factory=dict)
    last: dict[str, int] = field(default_factory=dict)
    uids: list[int] = field(default_factory=list)

    def named(self, name: str) -> Naive | None:
        by_name = {one.name: one for one in self.held if one.live}
        return self.aliases.get(name) or by_name.get(name)

    def drop(self, one: Naive) -> bool:
        one.live = False
        self.aliases = {alias: other for alias, other in self.aliases.items() if other is not one}
        self.held = [other for other in self.held if other.live or other.requests]
        return one not in self.held


names = st.sampled_from([*STEMS, "prod", *(f"{s}@v{v}" for s in STEMS for v in (1, 2, 3, 5, 9))])


class Mounting(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.bank = AdapterBank(
            CONFIG, dtype=torch.float32, device="cpu", max_rank=2, max_adapters=MOST
        )
        self.world = World()

    @rule(
        stem=st.sampled_from(STEMS),
        version=st.sampled_from([None, None, 1, 2, 4, 9]),
        keep=st.booleans(),
        projection=st.sampled_from(["q_proj", "o_proj"]),
    )
    def mount(self, stem, version, keep, projection):
        world, value = self.world, next(_values)
        name = stem if version is None else f"{stem}@v{version}"
        last = world.last.get(stem, 0)
        older = [] if keep else [one for one in world.held if one.live and one.stem == stem]
        if version is not None and version <= last:
            with pytest.raises(AdapterNameError):
                self.bank.mount(name, adapter(value, projection), keep_older=keep)
            return
        live = sum(one.live for one in world.held)
        if live - len(older) >= MOST or len(world.held) > MOST:
            with pytest.raises(AdapterCapacityError):
                self.bank.mount(name, adapter(value, projection), keep_older=keep)
            return
        slot = self.bank.mount(name, adapter(value, projection), keep_older=keep)
        assert slot not in {one.slot for one in world.held}
        uid = self.bank.uid(slot)
        assert uid not in world.uids
        world.uids.append(uid)
        new = Naive(stem, version or last + 1, slot, uid, value, projection)
        world.last[stem] = new.version
        world.held.append(new)
        world.aliases[stem] = new
        for one in older:
            world.drop(one)

    @rule(name=names)
    def unmount(self, name):
        one = self.world.named(name)
        if one is None:
            with pytest.raises(UnknownAdapterError):
                self.bank.unmount(name)
        else:
            assert self.bank.unmount(name) == self.world.drop(one)

    @rule(alias=st.sampled_from([*STEMS, "prod"]), name=names)
    def alias(self, alias, name):
        one = self.world.named(name)
        if one is None:
            with pytest.raises(UnknownAdapterError):
                self.bank.alias(alias, name)
        else:
            self.bank.alias(alias, name)
            self.world.aliases[alias] = one

    @rule(name=names)
    def acquire(self, name):
        one = self.world.named(name)
        if one is None:
            with pytest.raises(UnknownAdapterError):
                self.bank.acquire(name)
        else:
            assert self.bank.acquire(name) == one.slot
            one.requests += 1

    @rule(slot=st.integers(1, MOST + 2))
    def acquire_slot(self, slot):
        one = next((one for one in self.world.held if one.slot == slot), None)
        if one is None or not one.live:
            with pytest.raises(UnknownAdapterError):
                self.bank.acquire(slot)
        else:
            assert self.bank.acquire(slot) == slot
            one.requests += 1

    @precondition(lambda self: any(one.requests for one in self.world.held))
    @rule(data=st.data())
    def release(self, data):
        one = data.draw(st.sampled_from([one for one in self.world.held if one.requests]))
        self.bank.release(one.slot)
        one.requests -= 1
        self.world.held = [other for other in self.world.held if other.live or other.requests]

    @rule(slot=st.integers(1, MOST + 2))
    def release_without_a_request(self, slot):
        one = next((one for one in self.world.held if one.slot == slot), None)
        if one is None or not one.requests:
            with pytest.raises(ValueError, match=r"no request|no adapter"):
                self.bank.release(slot)

    @invariant()
    def agrees(self):
        held = sorted(self.world.held, key=lambda one: one.slot)
        assert self.bank.names == tuple(one.name for one in held if one.live)
        assert self.bank.draining == tuple(one.name for one in held if not one.live)
        assert self.bank.aliases == {a: one.name for a, one in self.world.aliases.items()}
        assert [self.bank.uid(one.slot) for one in held] == [one.uid for one in held]
        self.bank.check_integrity()

    @invariant()
    def every_slot_adds_its_own_weights(self):
        held = self.world.held
        slots = torch.tensor([0, *(one.slot for one in held)])
        grouping = self.bank.group(slots)
        for target in ("q_proj", "o_proj"):
            y = torch.zeros(len(slots), 6)
            self.bank.add_delta(y, torch.ones(len(slots), 6), 0, target, grouping)
            values = [0, *(6 * one.value if one.target == target else 0 for one in held)]
            assert y[:, 0].tolist() == values
            assert not y[:, 1:].any()


Mounting.TestCase.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
TestMounting = Mounting.TestCase
