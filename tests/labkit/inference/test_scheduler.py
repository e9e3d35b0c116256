"""Plans: budget, decoding first, chunks, preemption, priorities, fairness; and nobody is lost."""

import random
from collections import Counter

import pytest

from labkit.inference.paging import BlockManager
from labkit.inference.scheduler import Plan, Scheduler, Sequence


class World:
    """A scheduler whose sequences get token 7 whenever their end is reached."""

    def __init__(self, *, pages: int = 50, size: int = 4, budget: int = 10, batch: int = 4) -> None:
        self.blocks = BlockManager(pages, size)
        self.scheduler = Scheduler(self.blocks, token_budget=budget, max_batch=batch)
        self.budget, self.batch = budget, batch
        self.wanted: dict[int, int] = {}
        self.sequences: dict[int, Sequence] = {}
        self.finished: list[int] = []

    def add(self, prompt: int, new: int = 3, *, priority: int = 0, client: str = "") -> int:
        key = len(self.sequences)
        tokens = [key] * prompt  # no two prompts share a page
        self.sequences[key] = Sequence(key, tokens, priority=priority, client=client)
        self.wanted[key] = prompt + new
        self.scheduler.add(self.sequences[key])
        return key

    def step(self) -> Plan:
        plan = self.scheduler.plan()
        assert sum(chunk.count for chunk in plan.chunks) <= self.budget
        assert len({chunk.sequence.key for chunk in plan.chunks}) == len(plan.chunks)
        assert len(self.scheduler.running) <= self.batch
        for chunk in plan.chunks:
            assert chunk.start == chunk.sequence.computed
            assert chunk.count >= 1
        self.scheduler.advance(plan)
        for chunk in plan.chunks:
            if chunk.complete:
                chunk.sequence.tokens.append(7)
                if len(chunk.sequence.tokens) == self.wanted[chunk.sequence.key]:
                    self.scheduler.remove(chunk.sequence.key)
                    self.finished.append(chunk.sequence.key)
        self.blocks.check_integrity()
        return plan

    def run(self, most: int = 10_000) -> None:
        for _ in range(most):
            if not self.step().chunks:
                return
        raise AssertionError(f"{most} steps were not enough: {self.finished}")


def counts(plan: Plan) -> dict[int, int]:
    return {chunk.sequence.key: chunk.count for chunk in plan.chunks}


def test_a_long_prompt_is_run_in_chunks_that_do_not_stall_the_others() -> None:
    world = World()
    short, long = world.add(2, 9), world.add(25)
    assert counts(world.step()) == {short: 2, long: 8}
    assert counts(world.step()) == {short: 1, long: 9}
    assert counts(world.step()) == {short: 1, long: 8}
    assert counts(world.step()) == {short: 1, long: 1}


def test_a_more_important_prompt_does_not_stall_the_others_either() -> None:
    world = World()
    short = world.add(2, 9)
    world.step()
    long = world.add(25, priority=-1)
    assert counts(world.step()) == {short: 1, long: 9}
    assert counts(world.step()) == {short: 1, long: 9}


def test_new_requests_enter_while_others_decode_and_leave_when_done() -> None:
    world = World(batch=2)
    a, b, c = world.add(2, 2), world.add(3, 5), world.add(2, 2)
    assert set(counts(world.step())) == {a, b}
    world.step()
    assert world.finished == [a]
    assert counts(world.step()) == {b: 1, c: 2}


def test_when_pages_run_out_the_last_comer_is_recomputed_and_nobody_is_lost() -> None:
    world = World(pages=6, batch=3)
    keys = [world.add(7, 10) for _ in range(3)]
    preempted = []
    for _ in range(200):
        plan = world.step()
        preempted += [sequence.key for sequence in plan.preempted]
        if not plan.chunks:
            break
    assert world.finished == keys  # in the order of arrival
    assert keys[0] not in preempted
    assert preempted
    assert world.blocks.used_pages == 0
    assert world.sequences[preempted[0]].preemptions >= 1


def test_a_preempted_sequence_finds_its_full_pages_again() -> None:
    world = World(pages=6, size=4, batch=2, budget=20)
    world.add(7, 9)
    second = world.add(8, 6)
    while not world.step().preempted:
        pass
    sequence = world.sequences[second]
    assert sequence.computed == 0
    while sequence.key in world.scheduler.waiting:
        world.step()
    assert sequence.cached >= 4


def test_smaller_priorities_are_served_first() -> None:
    world = World(batch=1)
    world.add(2, 2, priority=5)
    late = world.add(2, 2, priority=-1)
    middle = world.add(2, 2)
    world.run()
    assert world.finished == [late, middle, 0]


def test_the_least_important_one_gives_its_pages_back() -> None:
    world = World(pages=6, batch=2, budget=20)
    cheap, dear = world.add(7, 12, priority=1), world.add(7, 12)
    world.run()
    assert world.sequences[dear].preemptions == 0
    assert world.sequences[cheap].preemptions >= 1
    assert world.finished == [dear, cheap]


def test_a_client_with_many_requests_does_not_shut_out_one_with_few() -> None:
    world = World(batch=1)
    for _ in range(8):
        world.add(5, 3, client="busy")
    quiet = world.add(5, 3, client="quiet")
    world.run()
    assert world.finished.index(quiet) <= 1  # alone by order of arrival it would be the last


def test_two_busy_clients_get_the_same_number_of_tokens() -> None:
    world, served = World(batch=2, budget=8), Counter[str]()
    for index in range(40):
        world.add(4 if index % 2 else 12, 4, client="short" if index % 2 else "long")
    for _ in range(60):
        for chunk in world.step().chunks:
            served[chunk.sequence.client] += chunk.count
    assert 0.8 < served["short"] / served["long"] < 1.25


def test_a_client_that_was_away_has_no_credit() -> None:
    world = World(batch=1)
    for _ in range(6):
        world.add(5, 3, client="steady")
    for _ in range(12):
        world.step()
    for _ in range(6):
        world.add(5, 3, client="new")
    first = len(world.finished)
    world.run()
    owners = [world.sequences[key].client for key in world.finished[first : first + 6]]
    assert owners.count("steady") >= 2  # with credit for its absence "new" would take all six


@pytest.mark.parametrize("seed", range(20))
def test_whatever_comes_everybody_is_served_once(seed: int) -> None:
    rng = random.Random(seed)
    size, batch = rng.randint(1, 5), rng.randint(1, 6)
    world = World(
        pages=rng.randint(-(-40 // size), 60),
        size=size,
        batch=batch,
        budget=batch + rng.randint(0, 9),
    )
    for _ in range(30):
        if rng.random() < 0.6:
            world.add(
                rng.randint(1, 25), rng.randint(1, 14),
                priority=rng.randint(0, 2), client=rng.choice("ab"),
            )  # fmt: skip
        world.step()
        if rng.random() < 0.1 and (under_way := sorted(world.scheduler.waiting)):
            gone = rng.choice(under_way)
            world.scheduler.remove(gone)
            world.finished.append(gone)
    world.run()
    assert sorted(world.finished) == sorted(world.sequences)
    assert not world.scheduler.waiting
    assert not world.scheduler.running
    assert world.blocks.used_pages == 0


@pytest.mark.parametrize("seed", range(6))
def test_under_endless_arrivals_nobody_waits_for_ever(seed: int) -> None:
    rng = random.Random(seed)
    world = World(pages=14, size=4, budget=9, batch=5)
    greedy = [world.add(rng.randint(20, 40), 12, client="greedy") for _ in range(3)]
    for step in range(600):
        if step % 3 == 0:
            new = rng.choice([True, False])
            client = f"new {step}" if new else rng.choice(["a", "b", "greedy"])
            world.add(rng.randint(1, 25), rng.randint(1, 14), client=client)
        plan = world.step()
        for victim in plan.preempted:
            assert any(chunk.sequence.rank < victim.rank for chunk in plan.chunks)
        if set(greedy) <= set(world.finished):
            break
    assert set(greedy) <= set(world.finished)
    assert world.sequences[greedy[0]].preemptions == 0
    assert max(world.sequences[key].preemptions for key in greedy) <= 1


def test_a_budget_below_the_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="max_batch=5 must lie between 1 and token_budget=4"):
        World(budget=4, batch=5)
