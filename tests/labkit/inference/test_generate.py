"""Generation: token for token transformers', the same in any batch, and streamed without loss."""

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
