"""Each drafter proposes what it says it does, and forgets what it is told to."""

import copy

import pytest
import tokenizers
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import models
from transformers.generation.candidate_generator import PromptLookupCandidateGenerator

from labkit.inference.sampling import SamplingConfig, next_token_distribution, sample
from labkit.inference.speculation.drafters import Drafter, ModelDrafter, NgramDrafter
from labkit.inference.speculation.skip_layers import SkipLayerDrafter
from labkit.model.tokenizer import Tokenizer

GREEDY = SamplingConfig()
IDS = [1, 4, 2, 2, 5, 0, 3]


def begun(drafter, config=GREEDY, *, seed=0, max_length=24):
    return drafter.begin(config, torch.Generator().manual_seed(seed), max_length=max_length)


@torch.no_grad()
def last_logits(model, ids):
    return model(torch.tensor([ids]))[:, -1]


def test_all_drafters_keep_the_interface(six):
    for drafter in (ModelDrafter(six), NgramDrafter(), SkipLayerDrafter(six, [0])):
        assert isinstance(drafter, Drafter)
        new = begun(drafter)
        assert type(new) is type(drafter)
        tokens, _ = new.propose(IDS, 3)
        assert len(tokens) <= 3


@pytest.mark.parametrize("k", [1, 3])
def test_a_greedy_model_proposes_its_best_tokens(six_draft, k):
    ids, tokens = list(IDS), []
    for _ in range(k):
        tokens.append(int(last_logits(six_draft, ids + tokens).argmax()))
    proposal = begun(ModelDrafter(six_draft)).propose(ids, k)
    assert proposal.tokens == tokens
    assert proposal.q is None


def test_a_sampling_model_hands_over_the_law_it_drew_from(six_draft):
    config = SamplingConfig(temperature=0.8, top_k=4, top_p=0.9)
    generator = torch.Generator().manual_seed(5)
    proposal = begun(ModelDrafter(six_draft), config, seed=5).propose(IDS, 4)
    ids = list(IDS)
    for token, q in zip(proposal.tokens, proposal.q, strict=True):
        expected = next_token_distribution(last_logits(six_draft, ids), config)
        # The cache changes the order of sums, and no more.
        torch.testing.assert_close(q[None], expected, rtol=1e-4, atol=1e-6)
        assert token == int(sample(q[None], [generator]))
        ids.append(token)


def test_rolled_back_drafters_go_on_like_new_ones(six_draft):
    config = SamplingConfig(temperature=1.0)
    drafter = begun(ModelDrafter(six_draft), config)
    ids = list(IDS)
    for accepted in (2, 0, 1, 3, 2):
        tokens, q = drafter.propose(ids, 3)
        new = begun(ModelDrafter(six_draft), config).propose(ids, 1)
        torch.testing.assert_close(q[:1], new.q, rtol=1e-4, atol=1e-6)
        drafter.rollback(len(ids) + accepted)
        ids += [*tokens[:accepted], 5 - tokens[min(accepted, 2)]]


def test_what_was_not_rolled_back_is_refused(six_draft):
    drafter = begun(ModelDrafter(six_draft))
    tokens = drafter.propose(IDS, 3).tokens
    with pytest.raises(ValueError, match="call rollback first"):
        drafter.propose([*IDS, 5 - tokens[0], 1], 3)
    ngram = begun(NgramDrafter())
    ngram.propose(IDS, 3)
    with pytest.raises(ValueError, match="call rollback first"):
        ngram.propose([*IDS[:-1], 1, 1], 3)
    ngram.rollback(len(IDS) - 1)
    ngram.propose([*IDS[:-1], 1, 1], 3)


def test_the_same_tokens_may_be_asked_for_twice(six_draft):
    drafter = begun(ModelDrafter(six_draft))
    first = drafter.propose(IDS, 2)
    drafter.rollback(len(IDS))
    assert drafter.propose(IDS, 2) == first


def test_a_fork_goes_its_own_way(six_draft):
    config = SamplingConfig(temperature=1.0)
    drafter = begun(ModelDrafter(six_draft), config)
    tokens = drafter.propose(IDS, 2).tokens
    drafter.rollback(len(IDS))
    fork = drafter.copy(torch.Generator().manual_seed(9))
    alone = begun(ModelDrafter(six_draft), config, seed=9).propose([*IDS, 2], 3)
    mine = drafter.propose([*IDS, 1], 3)
    theirs = fork.propose([*IDS, 2], 3)
    assert theirs.tokens == alone.tokens
    torch.testing.assert_close(theirs.q, alone.q, rtol=1e-4, atol=1e-6)
    assert len(mine.tokens) == 3
    assert len(tokens) == 2
    ngram = begun(NgramDrafter())
    ngram.propose([1, 2, 3], 1)
    other = ngram.copy(torch.Generator())
    assert other.propose([1, 2, 3, 1, 2], 1).tokens == [3]
    assert ngram.propose([1, 2, 3, 4, 2], 1).tokens == [3]


def test_begun_requests_do_not_share_state(six_draft):
    first = begun(ModelDrafter(six_draft))
    first.propose(IDS, 2)
    second = begun(first)
    assert second.propose([0, 0, 1], 2) == begun(ModelDrafter(six_draft)).propose([0, 0, 1], 2)
    first.rollback(3)  # still its own tokens


def test_the_end_of_the_drafts_context_ends_the_proposals(six_draft):
    drafter = begun(ModelDrafter(six_draft), max_length=100)  # the model's is 24
    assert len(drafter.propose([1] * 22, 5).tokens) == 3
    drafter.rollback(0)
    assert len(drafter.propose([2] * 24, 5).tokens) == 1
    drafter.rollback(0)
    assert drafter.propose([2] * 25, 5).tokens == []


def test_another_vocabulary_is_refused_by_name(six, byte_loaded, byte_tokenizer):
    drafter = ModelDrafter(six, name="six")
    with pytest.raises(ValueError, match=r"six has another vocabulary \(of 6\) .* \(of 258\)"):
        drafter.check(258, None)
    drafter.check(6, byte_tokenizer)  # no tokenizer of its own to compare
    reordered = models.BPE(vocab={"b": 0, "a": 1, "<eos>": 2}, merges=[])
    other = Tokenizer(tokenizers.Tokenizer(reordered), eos_token="<eos>")
    drafter = ModelDrafter(byte_loaded.model, tokenizer=byte_tokenizer)
    drafter.check(258, byte_tokenizer)
    with pytest.raises(ValueError, match="draft model has another vocabulary"):
        drafter.check(258, other)


def test_a_drafter_must_be_begun_and_in_eval_mode(six):
    with pytest.raises(ValueError, match="call begin"):
        ModelDrafter(six).propose(IDS, 1)
    training = copy.deepcopy(six).train()
    with pytest.raises(ValueError, match=r"eval\(\) first"):
        begun(ModelDrafter(training))


def lookup(ids: list[int], k: int, longest: int, shortest: int) -> list[int]:
    """The definition, by brute force over every place."""
    for n in range(longest, shortest - 1, -1):
        for start in range(len(ids) - n - 1, -1, -1):
            if ids[start : start + n] == ids[len(ids) - n :]:
                text = list(ids)
                for _ in range(k):
                    text.append(text[start + n + len(text) - len(ids)])
                return text[len(ids) :]
    return []


@settings(deadline=None, max_examples=400)
@given(
    st.lists(st.integers(0, 2), min_size=1, max_size=40),
    st.integers(1, 6),
    st.integers(1, 4),
    st.integers(0, 3),
    st.integers(0, 3),
)
def test_ngrams_are_the_latest_longest_match(ids, k, shortest, more, grown):
    drafter = begun(NgramDrafter(longest=shortest + more, shortest=shortest))
    for end in sorted({max(1, len(ids) - grown), len(ids)}):  # the index grows
        expected = lookup(ids[:end], k, shortest + more, shortest)
        assert drafter.propose(ids[:end], k).tokens == expected


def test_ngrams_equal_transformers_where_the_match_is_unique(gen):
    peer = PromptLookupCandidateGenerator(
        num_output_tokens=4, max_matching_ngram_size=3, max_length=200, vocab_size=500
    )
    for _ in range(20):
        ids = torch.randperm(500, generator=gen)[:60].tolist()
        start = int(torch.randint(50, (1,), generator=gen))
        ids += ids[start : start + 3]
        [candidates], _ = peer.get_candidates(torch.tensor([ids]))
        assert begun(NgramDrafter()).propose(ids, 4).tokens == candidates[len(ids) :].tolist()


def test_a_longer_match_beats_a_later_one():
    ids = [1, 2, 3, 0, 2, 1, 2]
    assert begun(NgramDrafter()).propose(ids, 2).tokens == [3, 0]
    assert begun(NgramDrafter(longest=1)).propose(ids, 2).tokens == [1, 2]


def test_a_loop_is_guessed_to_go_on():
    drafter = begun(NgramDrafter())
    assert drafter.propose([7, 7, 7], 5).tokens == [7] * 5
    assert begun(NgramDrafter()).propose([1, 2, 1, 2, 1], 4).tokens == [2, 1, 2, 1]


@pytest.mark.parametrize(("longest", "shortest"), [(2, 3), (3, 0)])
def test_ngram_sizes_are_checked(longest, shortest):
    with pytest.raises(ValueError, match=f"shortest={shortest}"):
        NgramDrafter(longest=longest, shortest=shortest)
