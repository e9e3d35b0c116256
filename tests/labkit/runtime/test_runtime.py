"""Devices, seeds, timing, scale and progress."""

import mmap
import os
import sys
import time

import numpy as np
import pytest
import torch

from labkit.runtime import device, progress, scale, seeding, timing


def test_auto_device_is_one_that_works() -> None:
    chosen = device.choose_device()
    assert torch.zeros(3, device=chosen).device.type == chosen.type


@pytest.mark.parametrize("name", ["gpu0", "tpu!", ""])
def test_unknown_device_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="use"):
        device.choose_device(name)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_absent_gpu_is_refused_not_replaced() -> None:
    with pytest.raises(ValueError, match="no CUDA GPU"):
        device.choose_device("cuda")


def test_dtype_by_name_and_by_itself() -> None:
    assert device.choose_dtype("bfloat16") is torch.bfloat16
    assert device.choose_dtype(torch.float32) is torch.float32
    assert device.choose_dtype("auto") in (torch.float32, torch.bfloat16)
    with pytest.raises(ValueError, match=r"'int8' is unknown.*float16"):
        device.choose_dtype("int8")


@pytest.mark.parametrize(("fast", "expected"), [(True, torch.bfloat16), (False, torch.float32)])
def test_auto_dtype_follows_the_cpu(
    fast: bool, expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "_cpu_multiplies_bf16", lambda: fast)
    assert device.choose_dtype("auto", torch.device("cpu")) is expected


def test_generators_are_explicit_and_repeatable() -> None:
    before = torch.get_rng_state()
    draws = [torch.rand(5, generator=seeding.generator(11)) for _ in range(2)]
    assert torch.equal(*draws)
    assert not torch.equal(draws[0], torch.rand(5, generator=seeding.generator(12)))
    assert torch.equal(before, torch.get_rng_state())
    with pytest.raises(ValueError, match="seed=-1"):
        seeding.generator(-1)


def test_stopwatch_stops() -> None:
    with timing.stopwatch() as watch:
        running = watch.seconds
    assert 0 <= running <= watch.seconds == watch.seconds


def test_interleave_takes_turns() -> None:
    calls: list[str] = []
    fns = {name: (lambda name=name: calls.append(name)) for name in "abc"}
    result = timing.interleave(fns, 3, warmup=1)
    assert "".join(calls) == "abc" * 4
    assert {name: len(t.samples_s) for name, t in result.items()} == {"a": 3, "b": 3, "c": 3}


def test_timing_summaries_are_those_of_its_samples() -> None:
    samples = (0.5, 0.25, 4.0, 0.75, 1.0)
    result = timing.Timing(samples_s=samples)
    assert (result.median_s, result.min_s) == (np.median(samples), 0.25)
    with pytest.raises(ValueError, match="repeats=0"):
        timing.measure(lambda: None, repeats=0)


def test_peak_memory_sees_what_is_freed_again() -> None:
    size = 200 * 1024**2
    # Fresh pages from the kernel: the allocator could hand out what the process already holds.
    with timing.track_memory() as memory, mmap.mmap(-1, size) as block:
        block.write(b"1" * size)
        time.sleep(0.05)
    assert memory.peak_bytes - memory.start_bytes > 0.8 * size


def test_scale_picks_and_names_the_choices() -> None:
    assert [scale.pick(s, smoke=1, cpu=2, gpu=3) for s in scale.SCALES] == [1, 2, 3]
    with pytest.raises(ValueError, match=r"'tpu' is unknown.*smoke.*cpu.*gpu"):
        scale.pick("tpu", smoke=1, cpu=2, gpu=3)


def test_progress_is_silent_in_ci(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CI", "true")
    assert list(progress.progress(iter("xyz"), total=3)) == ["x", "y", "z"]
    assert capfd.readouterr() == ("", "")


def test_progress_draws_on_stderr_of_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert list(progress.progress(range(7), desc="rows")) == list(range(7))
    out, err = capsys.readouterr()
    assert out == ""
    assert "rows" in err


def test_importing_labkit_loads_nothing_heavy() -> None:
    import subprocess

    code = "import sys, labkit; print('torch' in sys.modules)"
    run = subprocess.run((sys.executable, "-c", code), capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False", os.linesep.join((run.stdout, run.stderr))
