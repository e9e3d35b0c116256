"""Greedy speculation is `generate` token for token; every way to end a text ends it alike."""

import copy
import inspect

import pytest
import torch

from labkit.inference import generate as g
from labkit.inference.sampling import SamplingConfig
from labkit.inference.speculation.decode import speculate, stream, stream_pieces
from labkit.inference.speculation.drafters import ModelDrafter, NgramDrafter
from labkit.inference.speculation.lookahead import LookaheadConfig
from labkit.inference.speculation.skip_layers import SkipLayerDrafter
from labkit.quant.affine import AffineConfig
from labkit.quant.linear import quantize_model
from labkit.tuning import prompt_tuning

PROMPTS = ["Hello", "é😀 a longer prompt, so that rows are padded", "x", "Hello"]
CODE = "def add(a, b):\n    return a + b\n\n\ndef sub(a, b):\n    return"


@pytest.fixture(scope="module")
def byte(byte_loaded):
    return byte_loaded.model, byte_loaded.tokenizer


@pytest.fixture(scope="module")
def drafters(byte, byte_draft):
    return {
        "model": ModelDrafter(byte_draft, tokenizer=byte[1]),
        "itself": ModelDrafter(byte[0]),
        "skip": SkipLayerDrafter(byte[0], [1]),
        "ngram": NgramDrafter(),
    }


KINDS = ["model", "itself", "skip", "ngram"]


def generations(speculations):
    return [one.generation for one in speculations]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("draft_tokens", [1, 3, 8, LookaheadConfig(most=6)])
def test_greedy_equals_generate(byte, drafters, kind, draft_tokens):
    config = SamplingConfig(max_new_tokens=50)
    expected = g.generate(*byte, PROMPTS, config)
    done = speculate(*byte, PROMPTS, drafters[kind], config, draft_tokens=draft_tokens)
    assert generations(done) == expected
    if kind == "itself" and draft_tokens == 3:
        assert [one.statistics.passes for one in done] == [13] * 4  # 49 tokens by fours
        assert all(one.statistics.acceptance == 1 for one in done)
    if kind == "model":
        assert sum(one.statistics.rejected for one in done) > 0
        assert sum(one.statistics.accepted for one in done) > 0


@pytest.mark.parametrize("kind", ["ngram", "skip", "int8"])
def test_greedy_equals_generate_on_smollm2(smollm2, kind):
    model, tokenizer = smollm2.model, smollm2.tokenizer
    if kind == "int8":
        packed = quantize_model(copy.deepcopy(model), AffineConfig(bits=8))
        drafter = ModelDrafter(packed, tokenizer=tokenizer, name="int8")
    else:
        drafter = NgramDrafter() if kind == "ngram" else SkipLayerDrafter(model, [10, 20])
    config = SamplingConfig(max_new_tokens=12)
    [done] = speculate(model, tokenizer, CODE, drafter, config, draft_tokens=3)
    assert [done.generation] == g.generate(model, tokenizer, CODE, config)
    assert done.statistics.accepted > 0
    assert done.statistics.passes < 11


@pytest.mark.parametrize("kind", ["ngram", "skip"])
def test_greedy_equals_generate_on_mini(mini, kind):
    drafter = NgramDrafter() if kind == "ngram" else SkipLayerDrafter(mini.model, [2])
    config = SamplingConfig(max_new_tokens=60)
    prompts = ["os.path.join", "What does list.append do?"]
    done = speculate(mini.model, mini.tokenizer, prompts, drafter, config, draft_tokens=4)
    assert generations(done) == g.generate(mini.model, mini.tokenizer, prompts, config)
    assert sum(one.statistics.accepted for one in done) > 0


@pytest.mark.parametrize("kind", KINDS)
def test_eos_in_the_middle_of_a_run_ends_the_text(byte_loaded, byte, drafters, kind, monkeypatch):
    free = SamplingConfig(max_new_tokens=30, ignore_eos=True)
    [whole] = g.generate(*byte, "Hello", free)
    for place in range(1, 9):
        monkeypatch.setattr(byte_loaded.tokenizer, "eos_id", whole.ids[place])
        config = SamplingConfig(max_new_tokens=30)
        [expected] = g.generate(*byte, "Hello", config)
        [done] = speculate(*byte, "Hello", drafters[kind], config, draft_tokens=5)
        assert done.generation == expected
        assert done.generation.finish_reason == "stop"
        ids = byte[1].encode("Hello")
        pieces = list(stream_pieces(*byte, ids, drafters[kind], config, draft_tokens=5))
        assert [piece.token for piece in pieces] == expected.ids
        assert pieces[-1].finish_reason == "stop"
        [ignored] = speculate(*byte, "Hello", drafters[kind], free, draft_tokens=5)
        assert ignored.generation.ids == whole.ids


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("most", [1, 2, 3, 4, 5, 6, 7])
def test_the_budget_ends_a_run_exactly(byte, drafters, kind, most):
    config = SamplingConfig(max_new_tokens=most, ignore_eos=True)
    [done] = speculate(*byte, "Hello", drafters[kind], config, draft_tokens=4)
    assert [done.generation] == g.generate(*byte, "Hello", config)
    assert len(done.generation.ids) == most
    # Nothing is proposed that could not be used.
    assert done.statistics.accepted + done.statistics.passes == most - 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length", [180, 187, 189, 190])
def test_the_context_ends_a_text(byte, drafters, kind, length):
    prompt = "ab" * 95
    config = SamplingConfig(max_new_tokens=50, ignore_eos=True)
    [done] = speculate(*byte, prompt[:length], drafters[kind], config, draft_tokens=4)
    assert [done.generation] == g.generate(*byte, prompt[:length], config)
    assert len(done.generation.ids) == 191 - length  # max_length is 190


@pytest.mark.parametrize("kind", KINDS)
def test_a_stop_string_over_tokens_cuts_the_text(byte, drafters, kind):
    [whole] = g.generate(*byte, "Hello", SamplingConfig(max_new_tokens=40, ignore_eos=True))
    text = byte[1].decode(whole.ids[:20])
    stop = SamplingConfig(max_new_tokens=40, ignore_eos=True, stop=(text[-5:],))
    [done] = speculate(*byte, "Hello", drafters[kind], stop, draft_tokens=4)
    assert [done.generation] == g.generate(*byte, "Hello", stop)
    assert done.generation.finish_reason == "stop"
    assert "".join(stream(*byte, "Hello", drafters[kind], stop)) == done.generation.text


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("kind", ["model", "ngram"])
def test_stream_joins_to_the_text(byte, drafters, kind, seed):
    config = SamplingConfig(temperature=1.2, top_k=60, max_new_tokens=60, seed=seed, stop=("q",))
    [done] = speculate(*byte, PROMPTS[1], drafters[kind], config)
    parts = list(stream(*byte, PROMPTS[1], drafters[kind], config))
    assert "".join(parts) == done.generation.text
    assert all(parts)
    assert "q" not in done.generation.text
    pieces = list(stream_pieces(*byte, byte[1].encode(PROMPTS[1]), drafters[kind], config))
    assert [piece.token for piece in pieces] == done.generation.ids
    assert [piece.finish_reason for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
    assert pieces[-1].finish_reason == done.generation.finish_reason


def test_seed_decides_the_text_and_repeated_prompts_differ(byte, drafters):
    config = SamplingConfig(temperature=1.5, max_new_tokens=12, seed=5)
    run = [generations(speculate(*byte, PROMPTS, drafters["model"], config)) for _ in range(2)]
    assert run[0] == run[1]
    assert run[0][0].ids != run[0][3].ids  # "Hello" twice: two samples
    other = SamplingConfig(temperature=1.5, max_new_tokens=12, seed=6)
    assert generations(speculate(*byte, "Hello", drafters["model"], other)) == [run[0][3]]
    # The prompt's pass draws as `generate` does, so the first tokens are the same.
    plain = g.generate(*byte, PROMPTS, config)
    assert [one.ids[0] for one in run[0]] == [one.ids[0] for one in plain]


def test_no_global_random_number_is_used(byte, drafters):
    state = torch.random.get_rng_state()
    speculate(*byte, "Hello", drafters["model"], SamplingConfig(temperature=1.0))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_target_with_a_soft_prompt(tiny_model, byte, byte_draft):
    model = copy.deepcopy(byte[0])
    config = prompt_tuning.PromptTuningConfig(num_virtual_tokens=5)
    prompt_tuning.apply(model, config, generator=torch.Generator().manual_seed(2))
    model.eval()
    greedy = SamplingConfig(max_new_tokens=20)
    expected = g.generate(model, byte[1], "Hello", greedy)
    assert expected != g.generate(*byte, "Hello", greedy)
    for drafter in (ModelDrafter(byte_draft), ModelDrafter(model), NgramDrafter()):
        done = speculate(model, byte[1], "Hello", drafter, greedy)
        assert generations(done) == expected
        if isinstance(drafter, ModelDrafter) and drafter.model is model:
            assert done[0].statistics.acceptance == 1
    long = SamplingConfig(max_new_tokens=50, ignore_eos=True)
    [end] = speculate(model, byte[1], "a" * 180, ModelDrafter(model), long)
    assert [end.generation] == g.generate(model, byte[1], "a" * 180, long)
    assert len(end.generation.ids) == 6  # 190 less 5 virtual tokens


def test_dropout_is_off_while_decoding_and_back_on_after(byte, drafters):
    model, _ = byte
    model.model.layers[0].mlp.train()
    try:
        config = SamplingConfig(max_new_tokens=9, ignore_eos=True)
        pieces = stream(*byte, "abc", drafters["skip"], config)
        next(pieces)
        assert not any(module.training for module in model.modules())
        pieces.close()
    finally:
        model.eval()


@pytest.mark.parametrize("run", [speculate, stream])
def test_bad_calls_are_refused_at_the_call(byte, drafters, run, six):
    config = SamplingConfig()
    with pytest.raises(ValueError, match="prompt 0 is empty"):
        run(*byte, "", drafters["model"], config)
    with pytest.raises(ValueError, match="191 tokens, above max_length=190"):
        run(*byte, "a" * 191, drafters["model"], config)
    with pytest.raises(ValueError, match="from 0 to 0"):
        run(*byte, "a", drafters["model"], config, draft_tokens=0)
    with pytest.raises(ValueError, match="six has another vocabulary"):
        run(*byte, "a", ModelDrafter(six, name="six"), config)
    for asked, name in (
        ({"repetition_penalty": 1.2}, "penalties"),
        ({"logit_bias": {1: 2.0}}, "logit_bias"),
        ({"min_new_tokens": 2}, "min_new_tokens"),
        ({"logprobs": 1}, "logprobs"),
    ):
        with pytest.raises(ValueError, match=f"speculation does not do {name}"):
            run(*byte, "a", drafters["model"], SamplingConfig(**asked))
    assert not inspect.isgeneratorfunction(run)


def test_no_prompts_give_no_texts(byte, drafters):
    assert speculate(*byte, [], drafters["model"], SamplingConfig()) == []
