"""Beam search: transformers' texts and scores; the best of all texts where all fit in the beam."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.initialization import no_init_weights

from labkit.inference import generate as g
from labkit.inference.beam import beam_search
from labkit.inference.sampling import SamplingConfig
from labkit.model import huggingface
from labkit.model.minillm import MiniLLM
from labkit.model.tokenizer import Tokenizer
from labkit.tuning import prompt_tuning

PENALTIES = [-1.0, 0.0, 1.0, 2.0]


@pytest.fixture
def byte(byte_loaded):
    return byte_loaded.model, byte_loaded.tokenizer


@pytest.fixture
def ending(byte, monkeypatch):
    """The same model with an end-of-sequence token that it likes to say."""
    model, tokenizer = byte
    [free] = g.generate(*byte, "Hello", SamplingConfig(max_new_tokens=12, ignore_eos=True))
    monkeypatch.setattr(tokenizer, "eos_id", free.ids[5])
    return model, tokenizer


def transformers_beams(llama, tokenizer: Tokenizer, prompt: str, **options):
    ids = torch.tensor([tokenizer.encode(prompt)])
    num_return = options.pop("num_return")
    found = llama.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, eos_token_id=tokenizer.eos_id,
        pad_token_id=tokenizer.pad_id, num_return_sequences=num_return, output_scores=True,
        return_dict_in_generate=True, **options,
    )  # fmt: skip
    new = found.sequences[:, ids.shape[1] :].tolist()
    return new, found.sequences_scores.tolist()


def assert_equal_beams(llama, model: MiniLLM, tokenizer: Tokenizer, prompt: str, **options):
    expected, scores = transformers_beams(llama, tokenizer, prompt, **options)
    ours = beam_search(model, tokenizer, prompt, **options)
    for beam, ids, score in zip(ours, expected, scores, strict=True):
        assert beam.ids == ids[: len(beam.ids)]
        assert set(ids[len(beam.ids) :]) <= {tokenizer.pad_id}
        assert beam.score == pytest.approx(score, rel=1e-5)  # float32 sums of float32 models
        assert beam.text == tokenizer.decode(beam.ids)
    return ours


@pytest.mark.parametrize("early_stopping", [False, True, "never"])
@pytest.mark.parametrize("length_penalty", PENALTIES)
@pytest.mark.parametrize("num_beams", [2, 5])
def test_texts_and_scores_are_transformers(
    ending, as_llama, num_beams, length_penalty, early_stopping
):
    llama = as_llama(ending[0])
    for prompt in ("Hello", "x", "some more"):
        assert_equal_beams(
            llama, *ending, prompt, num_beams=num_beams, num_return=num_beams, max_new_tokens=24,
            length_penalty=length_penalty, early_stopping=early_stopping,
        )  # fmt: skip


def test_without_an_end_all_beams_run_to_the_limit(byte, as_llama):
    ours = assert_equal_beams(
        as_llama(byte[0]), *byte, "Hello", num_beams=4, num_return=3, max_new_tokens=9,
        length_penalty=1.0,
    )  # fmt: skip
    assert [beam.finish_reason for beam in ours] == ["length"] * 3
    assert [beam.score for beam in ours] == pytest.approx(
        [beam.cumulative_logprob / 9 for beam in ours]
    )


def test_the_rules_of_the_end_differ(ending):
    """True ends at the first full set, False when no prefix wins as it is, "never" later still."""
    best = {}
    for rule in (True, False, "never"):
        options = {"num_beams": 3, "max_new_tokens": 60, "length_penalty": 1.0, "num_return": 3}
        best[rule] = beam_search(*ending, "Hello", early_stopping=rule, **options)
    worst = {rule: beams[-1].score for rule, beams in best.items()}
    assert worst[True] <= worst[False] <= worst["never"]
    assert worst[True] < worst["never"]
    assert {beam.finish_reason for beam in best[True]} == {"stop"}


@pytest.mark.parametrize("prompt", ["The capital of France is", "def add(a, b):\n    return"])
def test_it_equals_transformers_on_smollm2(smollm2, prompt):
    config = LlamaConfig(**huggingface.config_to_json(smollm2.config, torch.float32))
    with no_init_weights():
        llama = LlamaForCausalLM(config).eval()
    llama.load_state_dict(smollm2.model.state_dict(), strict=True)
    assert_equal_beams(
        llama, smollm2.model, smollm2.tokenizer, prompt, num_beams=4, num_return=4,
        max_new_tokens=12, length_penalty=1.0,
    )  # fmt: skip


@pytest.mark.parametrize("prompt", ["ab", "Hello", "x"])
def test_a_beam_as_wide_as_can_be_finds_the_best_of_all_texts(byte, prompt):
    model, tokenizer = byte
    V, eos = model.config.vocab_size, tokenizer.eos_id
    [best] = beam_search(*byte, prompt, num_beams=V // 2, max_new_tokens=2, length_penalty=1.5)
    ids = tokenizer.encode(prompt)
    with torch.no_grad():
        first = model(torch.tensor([ids]))[0, -1].double().log_softmax(-1)
        rows = torch.tensor([[*ids, token] for token in range(V)])
        totals = first[:, None] + model(rows)[:, -1].double().log_softmax(-1)
    scores = {(a, b): float(totals[a, b]) / 2**1.5 for a in range(V) for b in range(V) if a != eos}
    scores[eos,] = float(first[eos])
    expected = max(scores, key=lambda text: scores[text])
    assert expected[0] in first.argsort(descending=True)[: V // 2]  # within the beam
    assert tuple(best.ids) == expected
    assert best.score == pytest.approx(scores[expected], abs=1e-4)


def test_scores_are_those_of_a_forward_pass_also_under_a_soft_prompt(byte_folder):
    from labkit.model import zoo

    loaded = zoo.load(byte_folder, dtype="float32", device="cpu")
    model, tokenizer = loaded.model, loaded.tokenizer
    prompt_tuning.apply(model, prompt_tuning.PromptTuningConfig(num_virtual_tokens=5))
    model.eval()
    beams = beam_search(model, tokenizer, "ab", num_beams=3, max_new_tokens=6, num_return=3)
    ids = tokenizer.encode("ab")
    for beam in beams:
        with torch.no_grad():
            logits = model(torch.tensor([ids + beam.ids]))[0, len(ids) - 1 : -1]
        logprobs = logits.log_softmax(-1).gather(1, torch.tensor(beam.ids)[:, None])
        assert beam.cumulative_logprob == pytest.approx(logprobs.sum().item(), abs=1e-4)


def test_ids_or_text_and_the_context_bounds_both(byte):
    options = {"num_beams": 2, "max_new_tokens": 5}
    assert beam_search(*byte, byte[1].encode("ab"), **options) == beam_search(
        *byte, "ab", **options
    )
    [full] = beam_search(*byte, "a" * 189, num_beams=2, max_new_tokens=5)  # max_length is 190
    assert (len(full.ids), full.finish_reason) == (2, "length")


def test_dropout_is_off_and_back_on_after(byte):
    model, _ = byte
    model.train()
    try:
        first = beam_search(*byte, "ab", num_beams=2, max_new_tokens=4)
        assert model.training
    finally:
        model.eval()
    assert beam_search(*byte, "ab", num_beams=2, max_new_tokens=4) == first


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_beams": 1}, "num_beams=1 .* call generate"),
        ({"num_beams": 130}, "num_beams=130"),
        ({"num_beams": 2, "num_return": 3}, "num_return=3"),
        ({"num_return": 0}, "num_return=0"),
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
        ({"length_penalty": float("nan")}, "length_penalty=nan"),
    ],
)
def test_bad_values_are_named(byte, options, message):
    with pytest.raises(ValueError, match=message):
        beam_search(*byte, "ab", **options)


@pytest.mark.parametrize("prompt", ["", "a" * 191])
def test_bad_prompts_are_refused(byte, prompt):
    with pytest.raises(ValueError, match=rf"{len(prompt)} tokens: 1 to max_length=190"):
        beam_search(*byte, prompt)
