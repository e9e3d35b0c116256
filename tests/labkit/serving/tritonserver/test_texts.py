"""A batch over several adapters gives each request what it gets alone, or its own error."""

import copy

import pytest

from labkit.inference.adapters.errors import UnknownAdapterError, UnsupportedAdapterError
from labkit.inference.sampling import SamplingConfig
from labkit.serving.tritonserver.texts import TextRequest, Texts
from labkit.tuning import adapter_files, prompt_tuning


@pytest.fixture(scope="module")
def texts(long_loaded, adapters):
    return Texts(long_loaded, adapters)


def request(prompt, adapter="", **options):
    options = {"max_new_tokens": 12, **options}
    return TextRequest(prompt=prompt, adapter=adapter, sampling=SamplingConfig(**options))


MIXED = [
    request("Hello", "red"),
    request("Hello"),
    request("a longer prompt, Grüße", "blue", max_new_tokens=5),
    request("x", "red", temperature=1.5, seed=3),
    request("yz", "red"),
    request("x", temperature=1.5, seed=4),
]


def test_mixed_batch_equals_direct_generation(texts, direct):
    for asked, got in zip(MIXED, texts.generate(MIXED), strict=True):
        sampling = asked.sampling
        expected = direct(
            asked.adapter,
            asked.prompt,
            max_new_tokens=sampling.max_new_tokens,
            temperature=sampling.temperature,
            seed=sampling.seed,
        )
        assert got == expected


@pytest.mark.parametrize("asked", MIXED)
def test_steps_equal_the_batch(texts, asked):
    outputs = run(texts, {0: [asked]})[0]
    [whole] = texts.generate([asked])
    assert [output.choice.token for output in outputs] == whole.ids
    assert "".join(output.text for output in outputs) == whole.text
    reasons = [output.finish_reason for output in outputs]
    assert reasons == [None] * (len(whole.ids) - 1) + [whole.finish_reason]


def run(texts, arrivals):
    """The outputs of each request, in order of arrival; `arrivals` has them by step."""
    outputs, step = {}, 0
    while arrivals or outputs_missing(outputs):
        for asked in arrivals.pop(step, []):
            outputs[texts.add(asked)] = []
        for output in texts.step():
            outputs[output.key].append(output)
        step += 1
    return list(outputs.values())


def outputs_missing(outputs):
    return any(not got or got[-1].finish_reason is None for got in outputs.values())


def test_text_does_not_depend_on_neighbours_that_come_and_go(texts):
    """The same seeds beside it, an adapter's switch, a long prompt in chunks: nothing shows."""
    warm = {"temperature": 1.5, "seed": 3}
    watched = request("x", "red", max_new_tokens=20, **warm)
    [alone] = texts.generate([watched])
    neighbours = {
        0: [request("x", **warm), request("x", "blue", **warm)],
        2: [watched],
        5: [request("x", "red", **warm), request("ab" * 700, "blue", max_new_tokens=3)],
        9: [request("x", temperature=0.7, seed=3)],
    }
    outputs = run(texts, neighbours)
    assert [output.choice.token for output in outputs[2]] == alone.ids
    same = outputs[3]  # asked for the same, eight tokens fewer, and began amid the others
    assert [output.choice.token for output in same] == alone.ids[:12]


def test_log_probabilities_come_where_they_are_asked_for(texts):
    asked, plain = texts.generate([request("Hello", "red", logprobs=1), request("Hello", "red")])
    assert plain.logprobs is None
    assert [choice.token for choice in asked.logprobs] == asked.ids == plain.ids
    for choice in asked.logprobs:  # greedy: the likeliest token is the chosen one
        assert choice.top == ((choice.token, choice.logprob),)


def test_same_request_twice_gives_the_same_text(texts):
    """Two users who ask the same with the same seed must not see that they share a batch."""
    first, second, other = texts.generate(
        [request("x", temperature=1.5, seed=3)] * 2 + [request("x", temperature=1.5, seed=4)]
    )
    assert first == second
    assert first != other


def test_all_adapters_share_every_step(texts, monkeypatch):
    sizes = []
    step = texts.step

    def spy():
        outputs = step()
        sizes.append(len(outputs))
        return outputs

    monkeypatch.setattr(texts, "step", spy)
    texts.generate([request(str(i), adapter) for i in range(4) for adapter in ("red", "")])
    assert sizes == [8] * 12


def test_reader_gets_a_token_a_step_while_a_prompt_is_read(texts):
    key = texts.add(request("x", max_new_tokens=10))
    texts.add(request("ab" * 900, "red", max_new_tokens=1))  # longer than three steps hold
    for _ in range(3):
        assert [output.key for output in texts.step()] == [key]
    texts.abort(key)
    [last] = texts.step()
    assert last.finish_reason == "length"


def test_aborted_text_is_gone_and_the_others_go_on(texts):
    gone, kept = texts.add(request("x")), texts.add(request("Hello", "red"))
    texts.step()
    texts.abort(gone)
    texts.abort(gone)
    assert [output.key for output in texts.step()] == [kept]
    with pytest.raises(AssertionError, match="under way"):
        texts.generate([request("x")])
    texts.abort(kept)
    assert texts.step() == []


def test_error_takes_the_place_of_its_request_only(texts):
    good = request("Hello")
    answers = texts.generate(
        [good, request("Hello", "green"), request(""), request("a" * 20_001), good]
    )
    assert answers[0] == answers[4] == texts.generate([good])[0]
    assert isinstance(answers[1], UnknownAdapterError)
    assert str(answers[1]).startswith("no adapter 'green' is mounted: this model has red, blue")
    assert str(answers[2]) == "the prompt is empty: give at least one token"
    assert str(answers[3]) == "the prompt has 20001 tokens, above max_length=20000"
    with pytest.raises(UnknownAdapterError, match="no adapter 'base' is mounted"):
        texts.add(request("Hello", "base"))


def test_adapter_that_cannot_share_a_batch_is_refused_with_the_reason(byte_loaded, tmp_path):
    config = prompt_tuning.PromptTuningConfig(num_virtual_tokens=9)
    model = copy.deepcopy(byte_loaded.model)
    prompt_tuning.apply(model, config)
    adapter_files.save(model, tmp_path, config, "byte")
    with pytest.raises(UnsupportedAdapterError, match="only LoRA shares a batch here: merge it"):
        Texts(byte_loaded, {"soft": tmp_path})


def test_versions_of_one_adapter_are_served_side_by_side(byte_loaded, adapters):
    texts = Texts(byte_loaded, {"a@v1": adapters["red"], "a@v2": adapters["blue"]})
    plain = Texts(byte_loaded, adapters)
    asked = [request("Hello", name) for name in ("a@v1", "a@v2")]
    assert texts.generate(asked) == plain.generate(
        [request("Hello", "red"), request("Hello", "blue")]
    )
