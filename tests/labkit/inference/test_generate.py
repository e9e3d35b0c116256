"""Generation: token for token transformers', the same in any batch, and streamed without loss."""

import dataclasses
import inspect

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.initialization import no_init_weights

from labkit.inference import generate as g
from labkit.inference.decoding import BatchDecoder
from labkit.inference.sampling import SamplingConfig
from labkit.model import huggingface

PROMPTS = ["Hello", "é😀 a longer prompt, so that rows are padded", "x", "Hello"]


@pytest.fixture(scope="module")
def byte(byte_loaded):
    return byte_loaded.model, byte_loaded.tokenizer


@pytest.fixture(scope="module")
def peer(smollm2) -> LlamaForCausalLM:
    config = LlamaConfig(**huggingface.config_to_json(smollm2.config, torch.float32))
    with no_init_weights():
        model = LlamaForCausalLM(config).eval()
    model.load_state_dict(smollm2.model.state_dict(), strict=True)
    return model


@pytest.mark.parametrize("prompt", ["The capital of France is", "def add(a, b):\n    return"])
def test_greedy_equals_transformers_on_smollm2(smollm2, peer, prompt):
    ids = torch.tensor([smollm2.tokenizer.encode(prompt)])
    expected = peer.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=16, do_sample=False,
        eos_token_id=smollm2.tokenizer.eos_id, pad_token_id=smollm2.tokenizer.pad_id,
    )  # fmt: skip
    [ours] = g.generate(smollm2.model, smollm2.tokenizer, prompt, SamplingConfig(max_new_tokens=16))
    assert ours.ids == expected[0, ids.shape[1] :].tolist()
    assert ours.prompt_tokens == ids.shape[1]
    assert ours.text == smollm2.tokenizer.decode(ours.ids)


def test_chat_answers_and_ends_at_the_end_of_its_turn(smollm2):
    question = [{"role": "user", "content": "What is the capital of France?"}]
    answer = g.chat(smollm2.model, smollm2.tokenizer, question, SamplingConfig(max_new_tokens=40))
    assert "Paris" in answer.text
    assert answer.finish_reason == "stop"
    assert answer.ids[-1] == smollm2.tokenizer.eos_id
    assert "<|im_end|>" not in answer.text


def test_smollm2_batch_equals_each_alone(smollm2):
    prompts = ["Once upon a time", "Water boils at", "In Python, os.path.join does this: it"]
    config = SamplingConfig(max_new_tokens=6)
    together = g.generate(smollm2.model, smollm2.tokenizer, prompts, config)
    for prompt, generation in zip(prompts, together, strict=True):
        assert g.generate(smollm2.model, smollm2.tokenizer, prompt, config) == [generation]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_batch_equals_each_alone(byte, temperature):
    config = SamplingConfig(temperature=temperature, top_p=0.9, max_new_tokens=30, seed=11)
    together = g.generate(*byte, PROMPTS[:3], config)
    for prompt, generation in zip(PROMPTS, together[:3], strict=False):
        assert g.generate(*byte, prompt, config) == [generation]


def test_padding_leaves_every_rows_logits_as_they_are_alone(byte):
    prompts = [[3, 4, 5, 6, 7], [8, 9], [10]]
    batch = BatchDecoder(byte[0], prompts, max_steps=2)
    alone = [BatchDecoder(byte[0], [prompt], max_steps=2) for prompt in prompts]
    expected = torch.cat([decoder.prefill() for decoder in alone])
    torch.testing.assert_close(batch.prefill(), expected, rtol=1e-5, atol=1e-5)
    for token in (40, 41):
        expected = torch.cat([decoder.step(torch.tensor([token])) for decoder in alone])
        logits = batch.step(torch.full((3,), token))
        torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)


def test_decoding_equals_full_recomputation(byte):
    model, tokenizer = byte
    [generation] = g.generate(*byte, "abc", SamplingConfig(max_new_tokens=20, ignore_eos=True))
    ids = tokenizer.encode("abc")
    with torch.no_grad():
        for token in generation.ids:
            assert model(torch.tensor([ids]))[0, -1].argmax().item() == token
            ids.append(token)


def test_seed_decides_the_text_and_repeated_prompts_differ(byte):
    config = SamplingConfig(temperature=1.5, max_new_tokens=12, seed=5)
    first, again = g.generate(*byte, PROMPTS, config), g.generate(*byte, PROMPTS, config)
    assert first == again
    assert first[0].ids != first[3].ids  # "Hello" twice: two samples
    other = SamplingConfig(temperature=1.5, max_new_tokens=12, seed=6)
    assert g.generate(*byte, "Hello", other)[0] == first[3]
    state = torch.random.get_rng_state()
    g.generate(*byte, "Hello", config)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("seed", range(12))
def test_stream_joins_to_the_text(byte, seed):
    config = SamplingConfig(temperature=1.2, max_new_tokens=60, seed=seed, stop=("q", "\x07"))
    [expected] = g.generate(*byte, PROMPTS[1], config)
    parts = list(g.stream(*byte, PROMPTS[1], config))
    assert "".join(parts) == expected.text
    assert all(parts)
    assert "q" not in expected.text
    if expected.finish_reason == "length":
        assert expected.text == byte[1].decode(expected.ids)


def test_stop_string_over_tokens_cuts_the_text_and_ends_the_row(byte):
    free = SamplingConfig(max_new_tokens=40, ignore_eos=True)
    [whole] = g.generate(*byte, "Hello", free)
    text = byte[1].decode(whole.ids[:20])
    stop = text[-5:]
    cut = SamplingConfig(max_new_tokens=40, ignore_eos=True, stop=(stop,))
    [stopped] = g.generate(*byte, "Hello", cut)
    assert stopped.text == whole.text[: whole.text.index(stop)]
    assert stopped.finish_reason == "stop"
    assert len(stopped.ids) < 40
    assert "".join(g.stream(*byte, "Hello", cut)) == stopped.text


def test_eos_ends_a_row_unless_ignored(byte_loaded, byte, monkeypatch):
    [free] = g.generate(*byte, "Hello", SamplingConfig(max_new_tokens=9, ignore_eos=True))
    monkeypatch.setattr(byte_loaded.tokenizer, "eos_id", free.ids[4])
    at = free.ids.index(free.ids[4])
    [ended] = g.generate(*byte, "Hello", SamplingConfig(max_new_tokens=9))
    assert (ended.ids, ended.finish_reason) == (free.ids[: at + 1], "stop")
    [ignored] = g.generate(*byte, "Hello", SamplingConfig(max_new_tokens=9, ignore_eos=True))
    assert (ignored.ids, ignored.finish_reason) == (free.ids, "length")
    # In a batch the ended row does not disturb the one that goes on.
    both = g.generate(*byte, ["Hello", "x"], SamplingConfig(max_new_tokens=9))
    assert both[0] == ended
    assert [both[1]] == g.generate(*byte, "x", SamplingConfig(max_new_tokens=9))


def test_the_context_ends_a_generation(byte):
    prompt = "a" * 187  # max_length is 190
    config = SamplingConfig(max_new_tokens=50, ignore_eos=True)
    [generation] = g.generate(*byte, prompt, config)
    assert (len(generation.ids), generation.finish_reason) == (4, "length")
    long, short = g.generate(*byte, [prompt, "b"], config)
    assert long == generation
    assert [short] == g.generate(*byte, "b", config)
    [full] = g.generate(*byte, "a" * 190, config)
    assert len(full.ids) == 1


def test_generate_ids_needs_no_tokenizer(byte):
    ids = torch.tensor([byte[1].encode("abc"), byte[1].encode("xyz")])
    config = SamplingConfig(max_new_tokens=7)
    new = g.generate_ids(byte[0], ids, config)
    assert new.shape == (2, 7)
    free = SamplingConfig(max_new_tokens=7, ignore_eos=True)
    assert new.tolist() == [x.ids for x in g.generate(*byte, ["abc", "xyz"], free)]
    eos = int(new[0, 2])
    ended = g.generate_ids(byte[0], ids, config, eos_id=eos)
    assert ended[0, list(new[0]).index(eos) :].unique().tolist() == [eos]
    with pytest.raises(ValueError, match="needs a tokenizer"):
        g.generate_ids(byte[0], ids, SamplingConfig(stop=("a",)))
    with pytest.raises(ValueError, match="logprobs=1 has no place"):
        g.generate_ids(byte[0], ids, SamplingConfig(logprobs=1))


RICH = SamplingConfig(
    temperature=1.3, top_k=60, top_p=0.95, min_p=0.001, repetition_penalty=1.2,
    presence_penalty=0.3, frequency_penalty=0.2, logit_bias={70: 2.0, 71: -3.0}, logprobs=2,
    max_new_tokens=25, min_new_tokens=4, stop_token_ids=(80, 81), stop=("q",), seed=8,
)  # fmt: skip


def test_every_option_is_the_same_alone_in_a_batch_and_streamed(byte):
    together = g.generate(*byte, PROMPTS[:3], RICH)
    for prompt, in_batch in zip(PROMPTS, together, strict=False):
        [alone] = g.generate(*byte, prompt, RICH)
        assert (alone.ids, alone.text) == (in_batch.ids, in_batch.text)
        # Padded attention sums in another order.
        assert alone.cumulative_logprob == pytest.approx(in_batch.cumulative_logprob, abs=1e-3)
        pieces = list(g.stream_pieces(*byte, byte[1].encode(prompt), RICH))
        assert "".join(piece.text for piece in pieces) == alone.text
        assert [piece.logprobs for piece in pieces] == alone.logprobs
        assert pieces[-1].finish_reason == alone.finish_reason
        assert "".join(g.stream(*byte, prompt, RICH)) == alone.text
    plain = dataclasses.replace(RICH, stop=(), logprobs=None)
    ids = g.generate_ids(byte[0], torch.tensor([byte[1].encode("abc")]), plain)
    assert (
        ids[0].tolist()
        == g.generate(*byte, "abc", dataclasses.replace(plain, ignore_eos=True))[0].ids
    )


def test_options_reach_the_choice(byte):
    [free] = g.generate(*byte, "Hello", SamplingConfig(max_new_tokens=30, ignore_eos=True))
    repeated = {token for token in free.ids if free.ids.count(token) > 1}
    assert repeated
    for name, value in (("repetition_penalty", 50.0), ("presence_penalty", 1e6)):
        config = SamplingConfig(max_new_tokens=30, ignore_eos=True, **{name: value})
        [changed] = g.generate(*byte, "Hello", config)
        assert len(set(changed.ids)) == 30
    config = SamplingConfig(max_new_tokens=5, ignore_eos=True, logit_bias={65: 1e6})
    assert g.generate(*byte, "Hello", config)[0].ids == [65] * 5
    with pytest.raises(ValueError, match="logit_bias names tokens"):
        g.generate(*byte, "Hello", SamplingConfig(logit_bias={258: 1.0}))


def test_logprobs_equal_a_forward_pass(byte):
    config = SamplingConfig(
        temperature=2.0, top_k=9, repetition_penalty=1.5, logprobs=3, max_new_tokens=12
    )
    [generation] = g.generate(*byte, "Hello", config)
    ids = byte[1].encode("Hello")
    with torch.no_grad():
        logits = byte[0](torch.tensor([ids + generation.ids]))[0, len(ids) - 1 : -1]
    logprobs = logits.double().log_softmax(-1)
    assert [choice.token for choice in generation.logprobs] == generation.ids
    for step, choice in enumerate(generation.logprobs):
        # The cache sums in another order than the whole forward pass.
        assert choice.logprob == pytest.approx(logprobs[step, choice.token].item(), abs=1e-4)
        assert choice.top[0][1] == pytest.approx(logprobs[step].max().item(), abs=1e-4)
    total = logprobs.gather(1, torch.tensor(generation.ids)[:, None]).sum().item()
    assert generation.cumulative_logprob == pytest.approx(total, abs=1e-3)
    [bare] = g.generate(*byte, "Hello", dataclasses.replace(config, logprobs=None))
    assert (bare.ids, bare.logprobs) == (generation.ids, None)
    with pytest.raises(ValueError, match="set logprobs=0"):
        _ = bare.cumulative_logprob


def test_a_stop_token_ends_and_leaves_no_text(byte):
    [free] = g.generate(*byte, "Hello", SamplingConfig(max_new_tokens=9, ignore_eos=True))
    token = free.ids[4]
    at = free.ids.index(token)
    config = SamplingConfig(max_new_tokens=9, ignore_eos=True, stop_token_ids=(token,))
    [ended] = g.generate(*byte, "Hello", config)
    assert (ended.ids, ended.finish_reason) == (free.ids[: at + 1], "stop")
    assert ended.text == byte[1].decode(free.ids[:at])
    later = dataclasses.replace(config, min_new_tokens=7)
    [late] = g.generate(*byte, "Hello", later)
    assert token not in late.ids[:7]
    ids = torch.tensor([byte[1].encode("Hello")])
    assert g.generate_ids(byte[0], ids, config)[0].tolist() == ended.ids


def test_no_stop_string_ends_a_text_before_its_least_length(byte):
    free = SamplingConfig(max_new_tokens=40, ignore_eos=True)
    [whole] = g.generate(*byte, "Hello", free)
    early = byte[1].decode(whole.ids[:6])[-3:]
    [cut] = g.generate(*byte, "Hello", dataclasses.replace(free, stop=(early,)))
    [kept] = g.generate(*byte, "Hello", dataclasses.replace(free, stop=(early,), min_new_tokens=40))
    assert len(cut.ids) < 40
    assert (kept.text, kept.finish_reason) == (whole.text, "length")


def test_n_texts_are_those_of_repeated_prompts(byte):
    config = SamplingConfig(temperature=1.5, max_new_tokens=8, seed=5)
    texts = g.generate(*byte, ["Hello", "x"], config, n=3)
    assert texts == g.generate(*byte, ["Hello"] * 3 + ["x"] * 3, config)
    assert len({tuple(text.ids) for text in texts[:3]}) == 3


def test_the_best_of_several_are_the_likeliest(byte):
    config = SamplingConfig(temperature=1.5, max_new_tokens=8, seed=5)
    drawn = g.generate(*byte, ["Hello", "x"], dataclasses.replace(config, logprobs=0), n=6)
    best = g.generate(*byte, ["Hello", "x"], config, n=2, best_of=6)
    for prompt in range(2):
        group = drawn[6 * prompt : 6 * prompt + 6]
        expected = sorted(group, key=lambda text: text.cumulative_logprob, reverse=True)[:2]
        assert best[2 * prompt : 2 * prompt + 2] == expected
        assert expected[0] != group[0]  # else taking the first would pass
    message = [{"role": "user", "content": "Hi"}]
    answer = g.chat(*byte, message, config, best_of=4)
    assert [answer] == g.generate(*byte, byte[1].apply_chat(message), config, best_of=4)


@pytest.mark.parametrize(
    ("n", "best_of", "temperature", "message"),
    [
        (0, None, 1.0, "n=0"),
        (3, 2, 1.0, "n=3 must be at least 1 and at most best_of=2"),
        (2, None, 0.0, "repeats one text"),
        (1, 2, 0.0, "repeats one text"),
    ],
)
def test_impossible_numbers_of_texts_are_refused(byte, n, best_of, temperature, message):
    config = SamplingConfig(temperature=temperature)
    with pytest.raises(ValueError, match=message):
        g.generate(*byte, "Hello", config, n=n, best_of=best_of)


class Spelled:
    """Allows one text alone."""

    def __init__(self, ids: list[int], vocab_size: int, at: int = 0) -> None:
        self.ids, self.vocab_size, self.at = ids, vocab_size, at

    @property
    def finished(self) -> bool:
        return self.at == len(self.ids)

    def allowed(self) -> torch.Tensor:
        return torch.arange(self.vocab_size) == self.ids[self.at]

    def advance(self, token: int) -> None:
        assert token == self.ids[self.at]
        self.at += 1

    def copy(self) -> "Spelled":
        return Spelled(self.ids, self.vocab_size, self.at)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_constraint_shapes_every_text_and_ends_it(byte, temperature):
    model, tokenizer = byte
    constraint = Spelled(tokenizer.encode("yes é"), model.config.vocab_size)
    config = SamplingConfig(temperature=temperature, max_new_tokens=20)
    for text in g.generate(*byte, PROMPTS[:3], config, constraint=constraint):
        assert (text.text, text.finish_reason) == ("yes é", "stop")
    assert "".join(g.stream(*byte, "x", config, constraint=constraint)) == "yes é"
    message = [{"role": "user", "content": "Hi"}]
    assert g.chat(*byte, message, config, constraint=constraint).text == "yes é"
    ids = torch.tensor([[3, 4], [5, 6]])
    assert (
        g.generate_ids(model, ids, config, constraint=constraint).tolist() == [constraint.ids] * 2
    )
    assert constraint.at == 0
    short = SamplingConfig(max_new_tokens=2)
    [cut] = g.generate(*byte, "x", short, constraint=constraint)
    assert (cut.text, cut.finish_reason) == ("ye", "length")


def test_only_the_last_position_meets_the_head_and_the_cache_is_made_once(byte, monkeypatch):
    model, _ = byte
    seen = []
    hook = model.lm_head.register_forward_pre_hook(lambda m, args: seen.append(args[0].shape[1]))
    decoder = BatchDecoder(model, [[3, 4, 5]], max_steps=5)
    place = decoder._cache.keys.data_ptr()
    decoder.prefill()
    for _ in range(5):
        decoder.step(torch.tensor([6]))
    hook.remove()
    assert seen == [1] * 6
    assert decoder._cache.keys.data_ptr() == place


def test_dropout_is_off_while_generating_and_back_on_after(byte):
    model, _ = byte
    model.model.layers[0].mlp.train()
    try:
        stream = g.stream(*byte, "abc", SamplingConfig(max_new_tokens=9, ignore_eos=True))
        next(stream)
        assert not any(module.training for module in model.modules())
        stream.close()
        assert model.model.layers[0].mlp.training
        assert not model.model.layers[1].training
    finally:
        model.eval()


@pytest.mark.parametrize("run", [g.generate, g.stream])
def test_bad_prompts_are_refused_at_the_call(byte, run):
    with pytest.raises(ValueError, match="prompt 0 is empty"):
        run(*byte, "", SamplingConfig())
    with pytest.raises(ValueError, match="191 tokens, above max_length=190"):
        run(*byte, "a" * 191, SamplingConfig())
    assert not inspect.isgeneratorfunction(g.stream)


def test_no_prompts_give_no_texts(byte):
    assert g.generate(*byte, [], SamplingConfig()) == []
