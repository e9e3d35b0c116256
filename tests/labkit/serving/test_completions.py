"""Completions and chats in all their options, against the model's own numbers."""

import json
import math

import openai
import pytest
import torch
from openai import BadRequestError

from labkit.inference import generate as g
from labkit.inference.sampling import SamplingConfig

MESSAGES = [{"role": "user", "content": "What?"}]


def logprobs_of(loaded, ids: list[int]) -> torch.Tensor:
    """log p(ids[t] | ids[:t]), t > 0, by one forward pass over all of it."""
    with torch.no_grad():
        logits = loaded.model(torch.tensor([ids]))[0, :-1]
    return logits.log_softmax(-1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0]


@pytest.mark.parametrize("as_ids", [False, True])
def test_what_lm_eval_asks_for(client, byte_loaded, as_ids):
    text = "The cat, é"
    ids = byte_loaded.tokenizer.encode(text)
    prompts = [ids, ids[:4]] if as_ids else [text, byte_loaded.tokenizer.decode(ids[:4])]
    answer = client.completions.create(
        model="byte", prompt=prompts, echo=True, max_tokens=1, logprobs=1, temperature=0, seed=1
    )
    assert [choice.index for choice in answer.choices] == [0, 1]
    for choice, prompt in zip(answer.choices, (ids, ids[:4]), strict=True):
        found = choice.logprobs
        assert len(found.tokens) == len(found.token_logprobs) == len(prompt) + 1
        assert found.token_logprobs[0] is None
        assert found.top_logprobs[0] is None
        assert choice.text.startswith(byte_loaded.tokenizer.decode(prompt))
        expected = logprobs_of(byte_loaded, prompt)
        # Chunks of other lengths order float32 sums otherwise.
        torch.testing.assert_close(
            torch.tensor(found.token_logprobs[1:-1]), expected, atol=2e-5, rtol=0
        )
        assert found.token_logprobs[-1] == max(found.top_logprobs[-1].values())  # greedy, exactly
        with torch.no_grad():
            likeliest = byte_loaded.model(torch.tensor([prompt]))[0].max(-1)
        greedy = [
            a == max(b.values())
            for a, b in zip(found.token_logprobs[1:-1], found.top_logprobs[1:-1], strict=True)
        ]
        assert greedy == (likeliest.indices[:-1] == torch.tensor(prompt[1:])).tolist()
        assert found.text_offset[0] == 0


def test_echo_alone_generates_nothing_and_adapters_have_their_own_numbers(client):
    request = {"prompt": "Hello", "echo": True, "max_tokens": 0, "logprobs": 0}
    base, red = (client.completions.create(model=name, **request) for name in ("byte", "red"))
    assert base.choices[0].text == red.choices[0].text == "Hello"
    assert base.usage.completion_tokens == 0
    assert base.choices[0].logprobs.tokens == list("Hello")
    assert base.choices[0].logprobs.token_logprobs != red.choices[0].logprobs.token_logprobs
    with pytest.raises(BadRequestError, match="echo=true"):
        client.completions.create(model="byte", prompt="a", max_tokens=0)


def test_echo_with_several_tokens_and_texts(client):
    request = {"model": "byte", "prompt": ["ab", "c"], "max_tokens": 3, "logprobs": 2, "seed": 1}
    plain = client.completions.create(**request, n=2)
    echoed = client.completions.create(**request, n=2, echo=True)
    for choice, other, prompt in zip(
        plain.choices, echoed.choices, ("ab", "ab", "c", "c"), strict=True
    ):
        assert other.text == prompt + choice.text
        assert other.logprobs.tokens[len(prompt) :] == choice.logprobs.tokens
        assert len(choice.logprobs.top_logprobs[0]) == 2


def test_n_texts_differ_by_seed_and_repeat_by_seed(client, byte_loaded):
    request = {"model": "byte", "prompt": "Hello", "max_tokens": 12, "temperature": 1.4, "seed": 5}
    answer = client.completions.create(**request, n=3)
    config = SamplingConfig(max_new_tokens=12, temperature=1.4, seed=5, top_p=1.0)
    expected = g.generate(byte_loaded.model, byte_loaded.tokenizer, "Hello", config, n=3)
    assert [choice.text for choice in answer.choices] == [text.text for text in expected]
    assert answer.usage.prompt_tokens == 5
    assert answer.usage.completion_tokens == sum(len(text.ids) for text in expected)
    best = client.completions.create(**request, n=2, best_of=3)
    ranked = g.generate(byte_loaded.model, byte_loaded.tokenizer, "Hello", config, n=2, best_of=3)
    assert [choice.text for choice in best.choices] == [text.text for text in ranked]
    assert best.choices[0].logprobs is None


@pytest.mark.parametrize(
    ("fields", "changes"),
    [
        ({"presence_penalty": 1.5}, {"presence_penalty": 1.5}),
        ({"frequency_penalty": -1.0}, {"frequency_penalty": -1.0}),
        ({"logit_bias": {"65": 30.0}}, {"logit_bias": {65: 30.0}}),
        ({"extra_body": {"min_p": 0.2}}, {"min_p": 0.2}),
        ({"extra_body": {"repetition_penalty": 1.4}}, {"repetition_penalty": 1.4}),
        (
            {"extra_body": {"min_tokens": 5, "stop_token_ids": [237]}},
            {"min_new_tokens": 5, "stop_token_ids": (237,)},
        ),
        ({"extra_body": {"top_k": 3}}, {"top_k": 3}),
        ({"extra_body": {"stop_token_ids": [1, 180]}}, {"stop_token_ids": (1, 180)}),
        ({"stop": "B"}, {"stop": ("B",)}),
    ],
)
def test_each_field_reaches_the_sampler(client, byte_loaded, fields, changes):
    answer = client.completions.create(
        model="byte", prompt="Hello", max_tokens=30, temperature=1.3, seed=2, **fields
    )
    config = SamplingConfig(max_new_tokens=30, temperature=1.3, seed=2, top_p=1.0, **changes)
    [expected] = g.generate(byte_loaded.model, byte_loaded.tokenizer, "Hello", config)
    assert answer.choices[0].text == expected.text
    plain = SamplingConfig(max_new_tokens=30, temperature=1.3, seed=2)
    [other] = g.generate(byte_loaded.model, byte_loaded.tokenizer, "Hello", plain)
    assert other.ids != expected.ids  # without the field the text is another one


def test_chat_logprobs_whole_and_streamed(client, byte_loaded):
    request = {"model": "byte", "messages": MESSAGES, "max_tokens": 6, "temperature": 0}
    request |= {"logprobs": True, "top_logprobs": 3}
    whole = client.chat.completions.create(**request).choices[0].logprobs.content
    assert len(whole) == 6
    for entry in whole:
        assert entry.logprob == entry.top_logprobs[0].logprob  # greedy
        assert math.exp(entry.logprob) <= 1
        assert len(entry.top_logprobs) == 3
        assert len(entry.bytes) >= 1
    chunks = client.chat.completions.create(**request, stream=True)
    streamed = [c.choices[0].logprobs for c in chunks if c.choices and c.choices[0].logprobs]
    assert [entry.logprob for part in streamed for entry in part.content] == [
        entry.logprob for entry in whole
    ]


def test_streams_of_several_texts_join_to_the_whole_ones(client):
    request = {"model": "red", "prompt": ["Hello", "x"], "max_tokens": 9, "seed": 4, "n": 2}
    whole = [c.text for c in client.completions.create(**request).choices]
    parts = ["", "", "", ""]
    usage = None
    options = {"include_usage": True}
    for chunk in client.completions.create(**request, stream=True, stream_options=options):
        for choice in chunk.choices:
            parts[choice.index] += choice.text
        usage = chunk.usage or usage
    assert parts == whole
    assert usage.prompt_tokens == 6


@pytest.mark.parametrize("chat", [False, True])
def test_every_event_counts_the_tokens_so_far(client, chat):
    call = client.chat.completions if chat else client.completions
    prompt = {"messages": MESSAGES} if chat else {"prompt": "Hello"}
    options = {"continuous_usage_stats": True}
    rest = {"max_tokens": 7, "stream": True, "stream_options": options, "temperature": 0}
    chunks = list(call.create(model="red", **prompt, **rest, extra_body={"ignore_eos": True}))
    counts = [chunk.usage.completion_tokens for chunk in chunks]
    assert counts == sorted(counts)
    assert (counts[0] == 0) is chat
    assert counts[-1] == 7
    assert len({chunk.usage.prompt_tokens for chunk in chunks}) == 1
    assert all(chunk.choices for chunk in chunks)


SCHEMA = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}, "n": {"enum": [1, 22, 333]}},
    "required": ["ok", "n"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("seed", range(5))
def test_json_schema_holds_also_where_max_tokens_is_short(client, seed):
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
    for limit in (30, 100):
        answer = client.chat.completions.create(
            model="byte", messages=MESSAGES, response_format=form, seed=seed, max_tokens=limit
        )
        found = json.loads(answer.choices[0].message.content)
        assert set(found) == {"ok", "n"}
        assert found["ok"] in (True, False)
        assert found["n"] in (1, 22, 333)


def test_json_object_and_regex(client):
    form = {"type": "json_object"}
    answer = client.chat.completions.create(
        model="byte", messages=MESSAGES, response_format=form, seed=1, max_tokens=60, temperature=2
    )
    assert isinstance(json.loads(answer.choices[0].message.content), dict)
    body = {"structured_outputs": {"regex": "(red|blue)-[0-9]{3}"}}
    answer = client.completions.create(model="red", prompt="x", max_tokens=20, extra_body=body)
    assert answer.choices[0].text[-4:-3] == "-"
    assert answer.choices[0].text[-3:].isdecimal()
    assert answer.choices[0].finish_reason == "stop"


@pytest.mark.parametrize(
    "form",
    [
        {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "colour"}}},
        {"type": "json_schema", "json_schema": {"name": "x"}},
        {"type": "yaml"},
    ],
)
def test_a_form_nobody_can_meet_is_400(client, form):
    with pytest.raises(BadRequestError):
        client.chat.completions.create(model="byte", messages=MESSAGES, response_format=form)
    with pytest.raises(BadRequestError):
        client.chat.completions.create(
            model="byte", messages=MESSAGES, response_format=form, stream=True
        )


def test_embeddings_are_mean_hidden_states(client, byte_loaded):
    texts = ["Hello", "a longer text"]
    answer = client.embeddings.create(model="byte", input=texts, encoding_format="float")
    packed = client.embeddings.create(model="byte", input=texts)  # the client asks for base64
    for text, row, same in zip(texts, answer.data, packed.data, strict=True):
        with torch.no_grad():
            ids = torch.tensor([byte_loaded.tokenizer.encode(text)])
            hidden = byte_loaded.model.hidden_states(ids)[0].mean(0)
        torch.testing.assert_close(torch.tensor(row.embedding), hidden / hidden.norm())
        torch.testing.assert_close(torch.tensor(same.embedding), torch.tensor(row.embedding))
    assert answer.usage.prompt_tokens == 18
    with pytest.raises(BadRequestError, match="base model"):
        client.embeddings.create(model="red", input="x")
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="green", input="x")
