"""transformers behind the same routes: texts, scores and adapters are those of our own engine."""

import openai
import pytest

from labkit.serving.backends.build import engine_backend, transformers_backend
from tests.labkit.serving.running import serving

pytestmark = pytest.mark.filterwarnings("ignore")  # of peft and transformers


@pytest.fixture(scope="module")
def theirs(byte_folder, adapters):
    backend = transformers_backend(
        str(byte_folder), adapters, dtype="float32", device="cpu", max_batch=2
    )
    with serving(backend) as served, served.client() as client:
        yield client
        backend.engine.check_integrity()
        assert backend.engine.unfinished == 0


@pytest.mark.parametrize("name", ["byte", "red", "blue"])
def test_texts_are_our_engines(client, theirs, name):
    request = {"model": name, "prompt": ["Hello", "x"], "max_tokens": 9, "temperature": 0}
    ours = client.completions.create(**request)
    other = theirs.completions.create(**request)
    assert [c.text for c in other.choices] == [c.text for c in ours.choices]
    chunks = theirs.completions.create(**{**request, "prompt": "Hello"}, stream=True)
    assert "".join(chunk.choices[0].text for chunk in chunks) == ours.choices[0].text


def test_scores_and_embeddings_are_our_engines(client, theirs):
    request = {"prompt": "Hello", "max_tokens": 1, "echo": True, "logprobs": 2, "temperature": 0}
    for name in ("byte", "red"):
        ours = client.completions.create(model=name, **request).choices[0].logprobs
        other = theirs.completions.create(model=name, **request).choices[0].logprobs
        assert other.tokens == ours.tokens
        # Two implementations in float32; logits of this model are of the order of 10.
        assert other.token_logprobs[1:] == pytest.approx(ours.token_logprobs[1:], abs=2e-3)
    [ours] = client.embeddings.create(model="byte", input="Hello").data
    [other] = theirs.embeddings.create(model="byte", input="Hello").data
    assert other.embedding == pytest.approx(ours.embedding, abs=1e-4)


def test_unknown_models_and_names(theirs, byte_loaded, adapters):
    with pytest.raises(openai.NotFoundError):
        theirs.completions.create(model="green", prompt="a")
    with pytest.raises(ValueError, match="is taken"):
        engine_backend(byte_loaded, {"byte": adapters["red"]})
