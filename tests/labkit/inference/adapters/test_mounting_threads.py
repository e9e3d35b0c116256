"""Mounts, reloads and unmounts while other threads run batches: nothing is served half."""

import threading
from collections.abc import Callable

import torch

from labkit.inference.adapters.bank import AdapterBank
from labkit.inference.adapters.errors import UnknownAdapterError

from .test_roster import CONFIG, adapter

ROUNDS = 120
VERSIONS = 40


def new_bank() -> AdapterBank:
    return AdapterBank(CONFIG, dtype=torch.float32, device="cpu", max_rank=2, max_adapters=6)


def run_all(*jobs: Callable[[], None]) -> list[BaseException]:
    errors: list[BaseException] = []

    def guarded(job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


def output(bank: AdapterBank, slot: int) -> float:
    """Six times the adapter's value, if the whole of it is there."""
    y = torch.zeros(3, 6)
    grouping = bank.group(torch.tensor([slot, 0, slot]))
    bank.add_delta(y, torch.ones(3, 6), 0, "q_proj", grouping)
    assert not y[1].any()
    assert torch.equal(y[0], y[2])
    return float(y[0, 0])


def test_a_name_is_never_missing_and_never_goes_back_while_it_is_reloaded():
    bank = new_bank()
    bank.mount("a", adapter(1, "q_proj"))
    done = threading.Event()

    def reload() -> None:
        try:
            for value in range(2, VERSIONS):
                # Others grow the stacks and take slots meanwhile.
                bank.mount("other", adapter(1000 + value, "o_proj" if value % 2 else "q_proj"))
                while True:
                    try:
                        bank.mount("a", adapter(value, "q_proj"))
                        break
                    except ValueError:  # every slot drains: wait for the readers
                        continue
                bank.unmount("other")
        finally:
            done.set()

    def read() -> None:
        newest = 0.0
        while not done.is_set():
            slot = bank.acquire("a")
            first = output(bank, slot)
            assert first == output(bank, slot)  # the version it began with, whatever is reloaded
            assert first >= newest
            assert first % 6 == 0
            assert first < 6 * 1000
            newest = first
            bank.release(slot)

    assert run_all(reload, read, read) == []
    assert output(bank, bank.slot("a")) == 6 * (VERSIONS - 1)
    assert bank.draining == ()
    bank.check_integrity()


def test_many_threads_leave_no_request_and_no_adapter_behind():
    bank = new_bank()
    values = {name: index for index, name in enumerate("abcdef", start=1)}

    def churn(name: str) -> None:
        for _ in range(ROUNDS):
            bank.mount(name, adapter(values[name], "q_proj"))
            slot = bank.acquire(name)
            bank.unmount(name)
            try:
                bank.acquire(name)
            except UnknownAdapterError:
                pass
            else:
                raise AssertionError(name)
            assert output(bank, slot) == 6 * values[name]
            bank.release(slot)

    assert run_all(*(lambda name=name: churn(name) for name in values)) == []
    assert bank.names == bank.draining == ()
    bank.check_integrity()
