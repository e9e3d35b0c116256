"""Old text and old logits stay, new rows start where they should, as transformers resizes."""

import copy
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from labkit.model import minillm, vocabulary

NEW = ["北京", "北", "京城", "ж"]


@pytest.fixture
def byte_tokens(byte_tokenizer):
    return byte_tokenizer


def test_missing_tokens_are_whole_foreign_words_in_order(byte_tokens):
    tokens = [b"a", "北京".encode(), b"\xe5\x8c", "北京是大城市".encode(), " 北".encode(),
              "。".encode(), "北".encode(), "x北".encode(), "é".encode(), b"ab",
              "北京".encode()]  # fmt: skip
    assert vocabulary.missing_tokens(byte_tokens, tokens) == ["北京", "北"]
    extended = vocabulary.extend_tokenizer(byte_tokens, ["北京"])
    assert vocabulary.missing_tokens(extended, tokens, most_characters=6) == [
        "北京是大城市",
        "北",
    ]


def test_new_ids_follow_the_old_and_old_text_stays(byte_tokens):
    extended = vocabulary.extend_tokenizer(byte_tokens, NEW)
    V = byte_tokens.vocab_size
    assert extended.vocab_size == V + len(NEW)
    assert [extended.token_id(token) for token in NEW] == list(range(V, V + len(NEW)))
    for text in ("plain words, 12!", "南方", "<|im_start|>user\nhi<|im_end|>"):
        assert extended.encode(text) == byte_tokens.encode(text)
    with pytest.raises(ValueError, match="not in the vocabulary"):
        byte_tokens.token_id("北京")


def test_new_text_is_cut_leftmost_then_longest_and_comes_back(byte_tokens):
    extended = vocabulary.extend_tokenizer(byte_tokens, NEW)
    V = byte_tokens.vocab_size
    assert extended.encode("北京城") == [V, *byte_tokens.encode("城")]
    assert extended.encode("a北b") == [*byte_tokens.encode("a"), V + 1, *byte_tokens.encode("b")]
    for text in ("我爱北京城 жук 北", "<|im_end|>北京"):
        assert extended.decode(extended.encode(text), skip_special=False) == text


def test_transformers_adds_tokens_with_the_same_ids(byte_tokens, tmp_path):
    from transformers import AutoTokenizer

    byte_tokens.save(tmp_path)
    peer = AutoTokenizer.from_pretrained(tmp_path)
    assert peer.add_tokens(NEW) == len(NEW)
    extended = vocabulary.extend_tokenizer(byte_tokens, NEW)
    for text in ("北京城和京城 жук", "南北", "plain <|im_end|>"):
        assert peer.encode(text, add_special_tokens=False) == extended.encode(text)
    extended.save(tmp_path / "extended")
    again = AutoTokenizer.from_pretrained(tmp_path / "extended")
    assert again.encode("北京城", add_special_tokens=False) == extended.encode("北京城")


@pytest.mark.parametrize("tokens", [[], ["北", "北"], ["北", ""], ["北", "<|im_end|>"]])
def test_refuses_tokens(byte_tokens, tokens):
    with pytest.raises(ValueError, match="different, not empty and new"):
        vocabulary.extend_tokenizer(byte_tokens, tokens)


PIECES = [[3, 5], [7], [1, 1, 4]]


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def model(request, tiny_config):
    model = minillm.MiniLLM(replace(tiny_config, tie_embeddings=request.param))
    minillm.initialise(model, torch.Generator().manual_seed(3))
    return model.eval()


def test_rows_are_the_means_of_their_pieces_and_so_are_logits(model, gen):
    before = copy.deepcopy(model)
    assert vocabulary.extend_embeddings(model, PIECES) is model
    assert model.config.vocab_size == 100 == model.lm_head.out_features
    ids = torch.randint(97, (2, 8), generator=gen)
    old, new = before(ids), model(ids)
    torch.testing.assert_close(new[..., :97], old, rtol=1e-5, atol=1e-6)
    means = torch.stack([old[..., p].mean(-1) for p in PIECES], -1)
    torch.testing.assert_close(new[..., 97:], means, rtol=1e-4, atol=1e-6)
    embedded = before.model.embed_tokens(torch.tensor(PIECES[2])).mean(0)
    torch.testing.assert_close(model.model.embed_tokens.weight[99], embedded)


def test_tied_matrices_stay_one_and_untied_two(model):
    vocabulary.extend_embeddings(model, PIECES)
    shared = model.lm_head.weight is model.model.embed_tokens.weight
    assert shared == model.config.tie_embeddings
    assert sum(p.numel() for p in model.parameters()) == model.config.num_parameters


def test_transformers_resizes_to_the_same_logits(model, as_llama, gen):
    peer = as_llama(model)
    peer.resize_token_embeddings(100, mean_resizing=False)
    vocabulary.extend_embeddings(model, PIECES, init="random", generator=gen)
    with torch.no_grad():
        peer.get_input_embeddings().weight[97:] = model.model.embed_tokens.weight[97:]
        peer.get_output_embeddings().weight[97:] = model.lm_head.weight[97:]
    ids = torch.tensor([[5, 98, 99, 40, 97]])
    torch.testing.assert_close(model(ids), peer(ids).logits, rtol=1e-4, atol=1e-5)
    assert peer.config.vocab_size == model.config.vocab_size


def test_other_starts(model, gen):
    other = copy.deepcopy(model)
    vocabulary.extend_embeddings(model, PIECES * 200, init="random", generator=gen)
    rows = model.model.embed_tokens.weight[97:]
    assert rows.std().item() == pytest.approx(0.02, rel=0.05)
    assert abs(rows.mean().item()) < 1e-3
    mean = other.model.embed_tokens.weight.mean(0)
    vocabulary.extend_embeddings(other, PIECES, init="mean")
    torch.testing.assert_close(other.model.embed_tokens.weight[98], mean)


def test_only_new_rows_learn_until_the_handles_go(model):
    vocabulary.extend_embeddings(model, PIECES)
    handles = vocabulary.train_new_rows(model.requires_grad_(False), 97)
    start = {name: p.clone() for name, p in model.state_dict().items()}
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=0.01, weight_decay=0.0
    )
    ids = torch.tensor([[5, 98, 99, 40, 97, 98, 3]])

    def step():
        loss = functional.cross_entropy(model(ids)[0, :-1], ids[0, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    for _ in range(3):
        step()
    for name, parameter in model.named_parameters():
        moved = (parameter != start[name]).reshape(len(parameter), -1).any(1)
        if "embed_tokens" in name or "lm_head" in name:
            assert not moved[:97].any()
            assert moved[97:].all()
        else:
            assert not moved.any()
    for handle in handles:
        handle.remove()
    step()
    assert (model.lm_head.weight != start["lm_head.weight"])[:97].any()


@pytest.mark.parametrize("pieces", [[], [[]], [[97]], [[-1]]])
def test_refuses_pieces(tiny_model, pieces):
    with pytest.raises(ValueError, match=r"ids in \[0, 97\)"):
        vocabulary.extend_embeddings(tiny_model, pieces)


def test_refuses_unknown_init_and_adapted_head(tiny_model):
    with pytest.raises(ValueError, match="init='zero' must be one of pieces, mean, random"):
        vocabulary.extend_embeddings(tiny_model, PIECES, init="zero")
    tiny_model.lm_head = torch.nn.Sequential(tiny_model.lm_head)
    with pytest.raises(ValueError, match="extend the plain model first"):
        vocabulary.extend_embeddings(tiny_model, PIECES)
