"""Pages of 8 bits: rounded by token and head, the same numbers from both executors."""

import pytest
import torch
from torch import Tensor

from labkit.data import pydoc_corpus
from labkit.inference.executors import ModuleExecutor
from labkit.inference.int8_cache import Int8PagedCache, build_cache, rounded
from labkit.inference.native_executor import NativeExecutor
from labkit.inference.paged_cache import PagedCache
from labkit.inference.paging import Copy
from labkit.model import zoo
from labkit.model.config import ModelConfig
from labkit.model.zoo import Loaded
from tests.labkit.inference.steps import run

CONFIG = ModelConfig(
    vocab_size=5, width=12, num_layers=3, num_heads=6, num_kv_heads=2, head_width=10, ffn_width=8
)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def written(page_size: int = 7) -> tuple[Int8PagedCache, Tensor, Tensor, Tensor]:
    """A cache, the places of nine tokens in it, and their keys and values of layer 1."""
    cache = Int8PagedCache(CONFIG, num_pages=5, page_size=page_size)
    places = torch.tensor([3, 4, 5, 6, 28, 29, 30, 31, 32])
    k, v = normal(9, 2, 10) * 3, normal(9, 2, 10, seed=1)
    k[2] *= 1000  # one token's outlier costs no other token its digits
    cache.write(1, places, k, v)
    return cache, places, k, v


def read_back(cache: Int8PagedCache, places: Tensor) -> tuple[Tensor, Tensor]:
    tables = torch.arange(5, dtype=torch.int32)[None]
    k, v = cache.read(1, tables)
    return k[0].transpose(0, 1)[places], v[0].transpose(0, 1)[places]


def test_a_number_is_off_by_half_a_step_of_its_own_token_and_head_at_most() -> None:
    cache, places, k, v = written()
    for got, want in zip(read_back(cache, places), (k, v), strict=True):
        step = want.abs().amax(-1, keepdim=True) / 127
        assert ((got - want).abs() <= step * 0.5001).all()
        assert ((got - want).abs() > step * 0.4).any()  # it was rounded


def test_the_largest_number_of_a_token_is_kept_and_zeros_stay_zeros() -> None:
    q, scale = rounded(torch.tensor([[[0.0, -5.0, 2.5]], [[0.0, 0.0, 0.0]]]))
    assert q.tolist() == [[[0, -127, 64]], [[0, 0, 0]]]
    torch.testing.assert_close(scale[0] * 127, torch.tensor([5.0]))
    assert scale.isfinite().all()


def test_a_token_takes_two_l_g_k_plus_four_bytes() -> None:
    L, G, K = 3, 2, 10
    tokens = 5 * 7
    int8, bfloat16 = (
        build_cache(CONFIG, kv=kv, num_pages=5, page_size=7, dtype=torch.bfloat16)
        for kv in ("int8", "model")
    )
    assert int8.nbytes == tokens * 2 * L * G * (K + 4)
    assert bfloat16.nbytes == tokens * 4 * L * G * K
    assert bfloat16.keys.dtype == torch.bfloat16


def test_copied_pages_read_the_same() -> None:
    cache, _, _, _ = written()
    cache.copy([Copy(4, 1)])
    k, v = cache.read(1, torch.tensor([[1], [4]], dtype=torch.int32))
    assert torch.equal(k[0], k[1])
    assert torch.equal(v[0], v[1])
    assert k[0].abs().sum() > 0


def test_pages_are_read_in_the_order_of_the_table() -> None:
    cache, _, k, v = written()
    plain = PagedCache(CONFIG, num_pages=5, page_size=7)
    plain.write(1, torch.tensor([3, 4, 5, 6, 28, 29, 30, 31, 32]), k, v)
    tables = torch.tensor([[4, 0], [2, 4]], dtype=torch.int32)
    for got, want in zip(cache.read(1, tables), plain.read(1, tables), strict=True):
        assert got.shape == want.shape == (2, 2, 14, 10)
        torch.testing.assert_close(got, want, rtol=0, atol=float(k.abs().max()) / 254)
        small = want.abs() < 20
        torch.testing.assert_close(got[small], want[small], rtol=0, atol=0.06)


PROMPTS = [list(range(40, 77)), [5, 9, 3], list(range(100, 118))]
TABLES = [[6, 1, 3], [2], [7, 5]]


@pytest.mark.usefixtures("native")
def test_both_executors_keep_the_same_eight_bits(even_loaded: Loaded) -> None:
    """Prefill, then a decoding step that reads what the prefill has rounded."""
    model = even_loaded.model
    module = ModuleExecutor(model, num_pages=8, page_size=16, kv="int8")
    native = NativeExecutor(model, num_pages=8, bits=16, kv="int8")
    wide = ModuleExecutor(model, num_pages=8, page_size=16)
    logits = []
    for executor in (wide, module, native):
        first = run(executor, PROMPTS, tables=TABLES)
        second = run(executor, [[7], [8], [9]], past=[37, 3, 18], tables=TABLES)
        logits.append(torch.cat((first, second)))
    exact, ours, packed = (x.log_softmax(-1) for x in logits)
    assert not torch.equal(exact, ours)
    assert float((exact.exp() * (exact - ours)).sum(-1).max()) < 2e-3
    assert float((ours.exp() * (ours - packed)).sum(-1).max()) < 2e-2  # weights in bfloat16
    difference = module.cache.keys.int() - native.cache.keys.int()
    assert float((difference.abs() <= 2).float().mean()) > 0.98
    assert module.cache.keys.any()


@pytest.mark.usefixtures("native")
def test_smollm2_hardly_notices() -> None:
    """KL per token on held-out documentation; what a model with outlier keys would fail."""
    loaded = zoo.load("smollm2-135m", dtype="bfloat16", device="cpu")
    _, held_out = pydoc_corpus.split(pydoc_corpus.functions(("string", "json")), held_out=0.5)
    ids = loaded.tokenizer.encode("\n\n".join(pydoc_corpus.as_text(held_out)))[:192]
    pages = [list(range(12))]
    wide, ours = (
        run(
            NativeExecutor(loaded.model, num_pages=12, bits=16, kv=kv),
            [ids],
            tables=pages,
            every=True,
        ).log_softmax(-1)
        for kv in ("model", "int8")
    )
    kl = (wide.exp() * (wide - ours)).sum(-1).mean()
    assert float(kl) < 5e-3
    assert float((wide.argmax(-1) == ours.argmax(-1)).float().mean()) > 0.95
