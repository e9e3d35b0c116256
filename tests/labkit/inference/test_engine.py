"""The engine: texts are those of `generate` in any company, pages come back, errors are told."""

import copy
import random
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from labkit.inference import generate as g
from labkit.inference.adapters.errors import UnknownAdapterError
from labkit.inference.engine import Engine
from labkit.inference.engine_config import EngineConfig
from labkit.inference.native_executor import NativeExecutor
from labkit.inference.sampling import SamplingConfig
from labkit.model.config import ModelConfig, MoeConfig
from labkit.model.minillm import MiniLLM, initialise
from labkit.model.zoo import Loaded
from labkit.tuning import adapter_files, lora

PROMPTS = ["Hello", "é😀 a longer prompt, so that it is run in chunks", "x", "Hello", "Hello, you"]
SMALL = EngineConfig(max_batch=3, token_budget=7, num_pages=60, page_size=5)


def engine(loaded: Loaded, config: EngineConfig = SMALL, **changes: Any) -> Engine:
    return Engine(loaded.model, loaded.tokenizer, replace(config, **changes))


@pytest.mark.parametrize(
    "config",
    [
        SamplingConfig(max_new_tokens=12),
        SamplingConfig(max_new_tokens=12, temperature=0.9, top_p=0.9, seed=3),
        SamplingConfig(max_new_tokens=12, temperature=1.5, top_k=9, ignore_eos=True),
        SamplingConfig(max_new_tokens=9, repetition_penalty=1.3, logprobs=2),
    ],
)
@pytest.mark.parametrize(
    "sizes",
    [
        {},
        {"max_batch": 1, "token_budget": 1},
        {"page_size": 1, "num_pages": 300},
        {"num_pages": 13},  # little more than one request needs: preemption all the time
        {"prefix_cache": False},
    ],
)
def test_texts_do_not_depend_on_the_engines_sizes(
    byte_loaded: Loaded, config: SamplingConfig, sizes: dict[str, Any]
) -> None:
    expected = g.generate(byte_loaded.model, byte_loaded.tokenizer, PROMPTS, config)
    runner = engine(byte_loaded, **sizes)
    got = runner.generate(PROMPTS, config)
    for ours, theirs in zip(got, expected, strict=True):
        assert (ours.text, ours.ids) == (theirs.text, theirs.ids)
        assert ours.finish_reason == theirs.finish_reason
        assert ours.prompt_tokens == theirs.prompt_tokens
    runner.check_integrity()


def test_greedy_equals_transformers_on_a_hundred_prompts_alone_and_mixed(
    smollm2: Any, as_llama: Any
) -> None:
    rng = random.Random(0)
    words = ["the", "of", "capital", "Python", "function", "returns", "list", "17", "is", "when"]
    texts = [" ".join(rng.choices(words, k=rng.randint(1, 30))) for _ in range(100)]
    prompts = [smollm2.tokenizer.encode(text) for text in texts]
    config = SamplingConfig(max_new_tokens=4, ignore_eos=True)
    peer = as_llama(smollm2.model)
    expected = []
    for ids in prompts:
        row = torch.tensor([ids])
        out = peer.generate(
            row, attention_mask=torch.ones_like(row), max_new_tokens=4, do_sample=False,
            eos_token_id=None, pad_token_id=0,
        )  # fmt: skip
        expected.append(out[0, len(ids) :].tolist())
    mixed = engine(smollm2, EngineConfig(max_batch=16, token_budget=64, num_pages=200))
    assert [text.ids for text in mixed.generate(prompts, config)] == expected
    alone = engine(smollm2, EngineConfig(max_batch=1, num_pages=200))
    assert [alone.generate([p], config)[0].ids for p in prompts[:25]] == expected[:25]


def test_requests_may_come_at_any_step(byte_loaded: Loaded) -> None:
    config = SamplingConfig(max_new_tokens=10, temperature=0.8)
    expected = g.generate(byte_loaded.model, byte_loaded.tokenizer, PROMPTS[:3], config)
    runner, texts = engine(byte_loaded), dict[int, str]()
    for prompt in PROMPTS[:3]:
        texts[runner.add_request(prompt, config)] = ""
        for _ in range(3):
            for output in runner.step():
                texts[output.key] += output.text
    while runner.unfinished:
        for output in runner.step():
            texts[output.key] += output.text
    assert list(texts.values()) == [text.text for text in expected]
    assert runner.step() == []


@pytest.mark.parametrize("weights", ["bfloat16", "int8"])
@pytest.mark.usefixtures("native")
def test_native_logits_are_close_to_the_models_own(even_loaded: Loaded, weights: Any) -> None:
    """In the same batches, through prefill, chunks and decoding; the tokens are forced."""
    steps: dict[str, list[torch.Tensor]] = {}
    config = SamplingConfig(max_new_tokens=8, ignore_eos=True)
    for kind in ("model", weights):
        runner = engine(even_loaded, EngineConfig(token_budget=9, max_batch=4, weights=kind))
        steps[kind] = record_logits(runner)
        keys = [runner.add_request(prompt, config) for prompt in PROMPTS]
        while runner.unfinished:
            runner.step()
        assert len(keys) == 5
    error = {"bfloat16": 0.02, "int8": 0.06}[weights]
    first = zip(steps["model"], steps[weights], strict=True)
    near = [float((a - b).norm() / a.norm()) < error for a, b in first]
    assert sum(near) >= 0.8 * len(near)  # until a token differs, both see the same texts


@pytest.mark.parametrize("weights", ["bfloat16", "int8"])
@pytest.mark.parametrize("kv", ["model", "int8"])
@pytest.mark.usefixtures("native")
def test_one_call_for_all_layers_is_the_kernels_one_by_one(
    even_loaded: Loaded, weights: Any, kv: Any
) -> None:
    """An adapter of zeros in the batch makes it run kernel by kernel; the bits must be the same."""
    model = copy.deepcopy(even_loaded.model)
    lora.apply(model, lora.LoraConfig(rank=2, target_modules="all-linear"))  # B = 0
    sizes = EngineConfig(max_batch=5, token_budget=9, weights=weights, kv=kv, max_adapters=1)
    with tempfile.TemporaryDirectory() as folder:
        adapter_files.save(model, folder, lora.LoraConfig(rank=2, target_modules="all-linear"))
        seen = {}
        for adapter in (None, "zeros"):
            runner = engine(even_loaded, sizes)
            assert runner.adapters is not None
            runner.adapters.mount("zeros", folder)
            seen[adapter] = record_logits(runner)
            for prompt in PROMPTS:
                runner.add_request(prompt, SamplingConfig(max_new_tokens=4), adapter=adapter)
            while runner.unfinished:
                runner.step()
    assert len(seen[None]) == len(seen["zeros"]) > 8
    for one, other in zip(seen[None], seen["zeros"], strict=True):
        assert torch.equal(one, other)


def record_logits(runner: Engine) -> list[torch.Tensor]:
    seen: list[torch.Tensor] = []
    run = runner.executor.run

    def recording(batch: Any) -> torch.Tensor:
        logits = run(batch)
        seen.append(logits.float())
        return logits

    runner.executor.run = recording  # type: ignore[method-assign]
    return seen


@pytest.mark.usefixtures("native")
def test_sixteen_bits_are_closer_to_float32_than_pytorchs_bfloat16(smollm2: Any) -> None:
    """Sums and the residual stream stay float32, so only weights and inputs are rounded."""
    ids = smollm2.tokenizer.encode("The capital of France is Paris, and that of Italy is Rome.")
    config = SamplingConfig(max_new_tokens=1)
    logits = {}
    for weights in ("model", "bfloat16", "int8"):
        runner = engine(smollm2, EngineConfig(num_pages=8, weights=weights))
        seen = record_logits(runner)
        for end in range(1, len(ids)):
            runner.generate([ids[:end]], config)
        logits[weights] = torch.cat(seen).log_softmax(-1)
    truth = logits["model"]
    kl = {
        name: float((truth.exp() * (truth - other)).sum(-1).mean())
        for name, other in logits.items()
    }
    assert kl["bfloat16"] < 1e-3
    assert (
        kl["int8"] < 0.1
    )  # a handful of tokens, the first one the worst; benchmarks have the mean


def test_what_the_native_kernels_cannot_run_is_refused_with_the_reason(
    byte_loaded: Loaded, even_loaded: Loaded
) -> None:
    with pytest.raises(ValueError, match="no multiples of 16"):
        engine(byte_loaded, EngineConfig(weights="int8"))
    adapted = MiniLLM(even_loaded.config)
    lora.apply(adapted, lora.LoraConfig(rank=2))
    with pytest.raises(ValueError, match="linear layers are not plain"):
        NativeExecutor(adapted, num_pages=2, bits=8)
    with pytest.raises(ValueError, match="page_size=8: the native kernels take pages of 16"):
        EngineConfig(weights="int8", page_size=8)


@pytest.mark.parametrize(
    "changes",
    [
        {"sliding_window": 11},
        {"norm": "layer"},
        {"norm_position": "post"},
        {"moe": MoeConfig(num_experts=3, top_k=2)},
    ],
)
def test_every_architecture_runs(byte_loaded: Loaded, changes: dict[str, Any]) -> None:
    config = replace(byte_loaded.config, **changes)
    assert isinstance(config, ModelConfig)
    model = MiniLLM(config)
    initialise(model, torch.Generator().manual_seed(5))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 7 if parameter.ndim > 1 else 1
    loaded = replace(byte_loaded, model=model.eval(), config=config)
    sampling = SamplingConfig(max_new_tokens=20, ignore_eos=True)
    expected = g.generate(model, loaded.tokenizer, PROMPTS, sampling)
    got = engine(loaded).generate(PROMPTS, sampling)
    assert [text.ids for text in got] == [text.ids for text in expected]


def test_a_prompt_seen_before_is_not_computed_again(byte_loaded: Loaded) -> None:
    runner = engine(byte_loaded, token_budget=100)
    prompt, config = "a prompt that two requests share, ", SamplingConfig(max_new_tokens=2)
    tokens: list[int] = []
    run = runner.executor.run

    def counting(batch: Any) -> Any:
        tokens.append(len(batch.ids))
        return run(batch)

    runner.executor.run = counting  # type: ignore[method-assign]
    [cold] = runner.generate([prompt + "one"], config)
    before = sum(tokens)
    [warm] = runner.generate([prompt + "one"], config)
    assert cold.ids == warm.ids
    assert before == len(prompt + "one") + 1
    assert sum(tokens) - before <= 5 + 1  # the last page's tokens and the second new one


@pytest.mark.parametrize("folder", [False, True])
def test_pages_that_went_cold_come_back(byte_loaded: Loaded, tmp_path: Path, folder: bool) -> None:
    runner = engine(
        byte_loaded, num_pages=12, cold_pages=30, cold_folder=tmp_path if folder else None
    )
    assert runner.cold is not None
    config = SamplingConfig(max_new_tokens=5, ignore_eos=True)
    first = "the first prompt, of several pages"
    [expected] = runner.generate([first], config)
    runner.generate(["another one that takes up every page there is, every one"], config)
    assert runner.cold.counts.stored > 0
    [again] = runner.generate([first], config)
    assert runner.cold.counts.loaded > 0
    assert again.ids == expected.ids
    runner.check_integrity()
    with pytest.raises(ValueError, match="need prefix_cache=True"):
        EngineConfig(cold_pages=3, prefix_cache=False)


def test_streams_join_to_the_text_and_leaving_early_frees_the_pages(byte_loaded: Loaded) -> None:
    runner, config = engine(byte_loaded), SamplingConfig(max_new_tokens=10, temperature=1.0)
    [whole] = runner.generate(["Hello"], config)
    pieces = list(runner.stream("Hello", config))
    assert "".join(piece.text for piece in pieces) == whole.text
    assert [piece.choice.token for piece in pieces] == whole.ids
    assert [p.finish_reason for p in pieces[:-1]] == [None] * (len(pieces) - 1)
    stream = runner.stream("Hello", config)
    next(stream)
    stream.close()
    assert runner.unfinished == 0
    runner.check_integrity()


def test_aborted_requests_leave_nothing_whenever_it_comes(byte_loaded: Loaded) -> None:
    rng, runner = random.Random(1), engine(byte_loaded, num_pages=14)
    config = SamplingConfig(max_new_tokens=15, ignore_eos=True)
    [expected] = engine(byte_loaded).generate(["survivor"], config)
    survivor, ids = runner.add_request("survivor", config, priority=-1), list[int]()
    keys: list[int] = []
    for _ in range(120):
        if rng.random() < 0.5:
            keys.append(runner.add_request("é" * rng.randint(1, 12), config))
        if keys and rng.random() < 0.4:
            runner.abort(rng.choice(keys))
        ids += [output.choice.token for output in runner.step() if output.key == survivor]
        runner.check_integrity()
    for key in keys:
        runner.abort(key)
    assert ids == expected.ids
    assert runner.unfinished == 0
    assert runner.blocks.used_pages == 0


def test_what_cannot_be_served_is_said_and_changes_nothing(byte_loaded: Loaded) -> None:
    runner, config = engine(byte_loaded), SamplingConfig()
    for prompt, words in (
        ([], "the prompt is empty"),
        ([1] * 200, "the prompt has 200 tokens, above max_length=190"),
    ):
        with pytest.raises(ValueError, match=words):
            runner.add_request(prompt, config)
    few = engine(byte_loaded, num_pages=4)
    with pytest.raises(ValueError, match=r"take 6 pages, and the engine has num_pages=4"):
        few.add_request([1] * 10, SamplingConfig(max_new_tokens=20))
    with pytest.raises(ValueError, match="the prompt is empty"):
        runner.generate([[1, 2], []], config)
    assert runner.unfinished == 0
    with pytest.raises(ValueError, match="max_batch=9 must lie between 1 and token_budget=7"):
        engine(byte_loaded, max_batch=9)


def test_priorities_and_clients_reach_the_scheduler(byte_loaded: Loaded) -> None:
    runner = engine(byte_loaded, max_batch=1)
    config = SamplingConfig(max_new_tokens=3, ignore_eos=True)
    keys = [
        runner.add_request("one", config, client="a", priority=1),
        runner.add_request("two", config, client="a"),
        runner.add_request("three", config, client="a"),
        runner.add_request("four", config, client="b"),
    ]
    finished = []
    while runner.unfinished:
        finished += [output.key for output in runner.step() if output.finish_reason]
    assert finished == [keys[1], keys[3], keys[2], keys[0]]


@pytest.fixture(scope="module")
def adapter_folders(even_loaded: Loaded, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two adapters of unlike rank and reach, both far from the identity."""
    folders = []
    for rank, targets in ((2, "all-linear"), (5, ("q_proj", "v_proj"))):
        model = copy.deepcopy(even_loaded.model)
        config = lora.LoraConfig(rank=rank, alpha=8, target_modules=targets)
        lora.apply(model, config, generator=torch.Generator().manual_seed(rank))
        for layer in lora.layers(model).values():
            torch.nn.init.normal_(
                layer.lora_B.weight, generator=torch.Generator().manual_seed(rank)
            )
        folders.append(tmp_path_factory.mktemp("adapter") / str(rank))
        adapter_files.save(model, folders[-1], config)
    return folders


def with_adapters(loaded: Loaded, folders: list[Path], weights: Any) -> Engine:
    sizes = EngineConfig(token_budget=9, max_batch=5, weights=weights, max_adapters=2)
    runner = engine(loaded, sizes)
    assert runner.adapters is not None
    for name, folder in zip(("two", "five"), folders, strict=True):
        runner.adapters.mount(name, folder)
    return runner


def texts_of(runner: Engine, names: list[str | None]) -> list[list[int]]:
    config = SamplingConfig(max_new_tokens=8, ignore_eos=True)
    prompt = "the very same prompt for all"  # pages may not be shared across adapters
    texts: dict[int, list[int]] = {}
    for name in names:
        texts[runner.add_request(prompt, config, adapter=name)] = []
    while runner.unfinished:
        for output in runner.step():
            texts[output.key].append(output.choice.token)
    runner.check_integrity()
    return list(texts.values())


@pytest.mark.parametrize("weights", ["model", "bfloat16"])
@pytest.mark.usefixtures("native")
def test_adapters_share_a_batch_and_each_text_is_as_if_alone(
    even_loaded: Loaded, adapter_folders: list[Path], weights: Any
) -> None:
    names = [None, "two", "five", "two", None, "five"]
    mixed = texts_of(with_adapters(even_loaded, adapter_folders, weights), names)
    for name, text in zip(names, mixed, strict=True):
        assert text == texts_of(with_adapters(even_loaded, adapter_folders, weights), [name])[0]
    assert len({tuple(text) for text in mixed}) == 3


def test_an_adapters_texts_are_those_of_the_merged_model(
    even_loaded: Loaded, adapter_folders: list[Path]
) -> None:
    names: list[str | None] = [None, "two", "five"]
    mixed = texts_of(with_adapters(even_loaded, adapter_folders, "model"), names)
    for text, folder in zip(mixed[1:], adapter_folders, strict=True):
        model = adapter_files.load(copy.deepcopy(even_loaded.model), folder)
        merged = replace(even_loaded, model=lora.merge_and_unload(model))
        assert texts_of(engine(merged, EngineConfig()), [None]) == [text]
    assert texts_of(engine(even_loaded, EngineConfig()), [None]) == mixed[:1]


def test_a_request_keeps_the_version_it_began_with(
    even_loaded: Loaded, adapter_folders: list[Path]
) -> None:
    runner = engine(even_loaded, EngineConfig(max_adapters=1))
    assert runner.adapters is not None
    runner.adapters.mount("mine", adapter_folders[0])
    config = SamplingConfig(max_new_tokens=6, ignore_eos=True)
    old = runner.add_request("Hello", config, adapter="mine")
    first = runner.step()[0].choice.token
    runner.adapters.mount("mine", adapter_folders[1])
    new = runner.add_request("Hello", config, adapter="mine")
    texts: dict[int, list[int]] = {old: [first], new: []}
    assert runner.adapters.draining == ("mine@v1",)
    while runner.unfinished:
        for output in runner.step():
            texts[output.key].append(output.choice.token)
    assert runner.adapters.draining == ()
    assert texts[old] != texts[new]
    again = engine(even_loaded, EngineConfig(max_adapters=1))
    assert again.adapters is not None
    again.adapters.mount("mine", adapter_folders[1])
    key = again.add_request("Hello", config, adapter="mine")
    ids = []
    while again.unfinished:
        ids += [output.choice.token for output in again.step() if output.key == key]
    assert texts[new] == ids  # the reload served no page of the old weights


def test_an_unknown_adapter_is_named_and_takes_nothing(byte_loaded: Loaded) -> None:
    with pytest.raises(UnknownAdapterError, match="max_adapters=0"):
        engine(byte_loaded).add_request("x", SamplingConfig(), adapter="finance")
    runner = engine(byte_loaded, max_adapters=2)
    with pytest.raises(UnknownAdapterError, match="finance"):
        runner.add_request("x", SamplingConfig(), adapter="finance")
    assert runner.unfinished == 0
