"""The tracker against sums done by hand, torch's own tracker, and the profiler."""

import torch
from torch import Tensor, nn
from torch.distributed._tools.mem_tracker import MemTracker

from labkit.model.minillm import MiniLLM
from labkit.objectives.language_modelling import cross_entropy
from labkit.training.efficiency.measured_memory import AllocationTracker, saved_for_backward


class TestAllocationTracker:
    def test_storages_count_once_and_until_they_are_freed(self) -> None:
        with AllocationTracker() as tracker:
            x = torch.ones(10, 7)
            view = x.t()[2:]
            assert tracker.live_bytes == 280
            y = x * 2
            assert tracker.live_bytes == 560
            del x
            assert tracker.live_bytes == 560, "the view holds its storage"
            del view, y
        assert tracker.live_bytes == 0
        assert tracker.peak_bytes == 560
        tracker.reset_peak()
        assert tracker.peak_bytes == 0

    def test_what_was_there_before_counts_once_it_is_watched(self) -> None:
        x = torch.ones(5)
        tracker = AllocationTracker()
        tracker.watch([x, x.view(1, 5), None])
        with tracker:
            x + 1
        assert (tracker.live_bytes, tracker.peak_bytes) == (20, 40)

    def test_it_is_torchs_tracker_over_a_training_step(self, tiny_model: MiniLLM) -> None:
        ids = torch.randint(0, 97, (3, 11), generator=torch.Generator().manual_seed(0))
        optimizer = torch.optim.AdamW(tiny_model.parameters())

        def step() -> None:
            optimizer.zero_grad()
            cross_entropy(tiny_model(ids), ids)[0].backward()
            optimizer.step()

        step()
        ours, theirs = AllocationTracker(), MemTracker()
        theirs.track_external(tiny_model, optimizer, ids)
        states = [x for state in optimizer.state.values() for x in state.values()]
        gradients = [p.grad for p in tiny_model.parameters()]
        ours.watch([ids, *tiny_model.parameters(), *gradients, *states])
        del gradients
        with theirs, ours:
            step()
        (device,) = theirs.get_tracker_snapshot("peak").values()
        assert ours.peak_bytes == device["Total"]


class TestSavedForBackward:
    def saved(self, f: nn.Module, x: Tensor) -> int:
        with saved_for_backward(f.parameters()) as saved:
            f(x)
        return saved.bytes

    def test_a_linear_layer_keeps_its_input_if_its_weight_trains(self) -> None:
        layer, x = nn.Linear(7, 5), torch.ones(3, 7, requires_grad=True)
        assert self.saved(layer, x) == 4 * 3 * 7
        assert self.saved(layer.requires_grad_(False), x) == 0

    def test_a_storage_counts_once(self) -> None:
        x = torch.ones(6, requires_grad=True)
        with saved_for_backward() as saved:
            (x * x.view(6)).exp().sum()
        assert saved.bytes == 2 * 24, "x, and what exp returned"
