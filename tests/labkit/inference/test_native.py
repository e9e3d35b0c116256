"""Each kernel against PyTorch in float64, at sizes that leave ragged ends everywhere."""

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from labkit.inference.int8_cache import rounded
from labkit.inference.native import build, ops
from labkit.inference.native.ops import PackedLinear

pytestmark = pytest.mark.usefixtures("native")
TOKENS = (1, 2, 3, 5, 7, 8, 9, 19)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def relative(got: Tensor, want: Tensor) -> float:
    return float((got.double() - want.double()).norm() / want.double().norm())


@pytest.mark.parametrize("N", TOKENS)
@pytest.mark.parametrize(("outputs", "inputs"), [(16, 16), (48, 80), (37, 112), (1, 144)])
def test_sixteen_bits_equal_the_product_of_rounded_numbers(
    N: int, outputs: int, inputs: int
) -> None:
    x, w = normal(N, inputs), normal(outputs, inputs, seed=1)
    want = x.bfloat16().double() @ w.bfloat16().double().T
    got = PackedLinear(w, bits=16)(x)
    assert got.shape == (N, outputs)
    torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-5)  # float32 sums


@pytest.mark.parametrize("N", TOKENS)
@pytest.mark.parametrize(("outputs", "inputs"), [(16, 16), (48, 80), (37, 112), (1, 144)])
def test_eight_bits_equal_the_exact_sums_of_integers(N: int, outputs: int, inputs: int) -> None:
    x, w = normal(N, inputs), normal(outputs, inputs, seed=1)
    sw, sx = w.abs().amax(1, keepdim=True) / 127, x.abs().amax(1, keepdim=True) / 127
    # The kernel multiplies by 1 / scale instead of dividing: a tie may round the other way.
    integers = (x * (127 / x.abs().amax(1, keepdim=True))).round().double()
    want = (integers @ (w / sw).round().double().T) * sw.T.double() * sx.double()
    torch.testing.assert_close(PackedLinear(w, bits=8)(x).double(), want, rtol=1e-5, atol=1e-5)
    size = x.norm(dim=1, keepdim=True) * w.norm(dim=1)
    assert float(((want - x @ w.T).abs() / size).max()) < 0.01


def test_a_row_of_x_has_its_own_scale() -> None:
    x, w = normal(3, 64), normal(32, 64, seed=1)
    x[1] *= 3000.0  # what would drown the others at one scale for all
    got = PackedLinear(w, bits=8)(x)
    for row in range(3):
        assert relative(got[row], x[row] @ w.T) < 0.02


@pytest.mark.parametrize("bits", [8, 16])
def test_rows_are_the_same_alone_and_together(bits: int) -> None:
    x, linear = normal(19, 80), PackedLinear(normal(48, 80, seed=1), bits=bits)
    together = linear(x)
    for n in range(19):
        torch.testing.assert_close(linear(x[n : n + 1])[0], together[n], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("bits", [8, 16])
def test_the_product_can_be_added_to_what_is_there(bits: int) -> None:
    x, linear = normal(5, 80), PackedLinear(normal(48, 80, seed=1), bits=bits)
    y = normal(5, 48, seed=2)
    want = y + linear(x)
    linear(x, into=y)
    torch.testing.assert_close(y, want)


def test_zeros_and_extremes() -> None:
    linear = PackedLinear(torch.zeros(16, 32), bits=8)
    assert torch.equal(linear(normal(2, 32)), torch.zeros(2, 16))
    linear = PackedLinear(normal(16, 32), bits=8)
    assert torch.equal(linear(torch.zeros(2, 32)), torch.zeros(2, 16))
    assert linear(torch.full((1, 32), 1e30)).isfinite().all()


def test_bytes_read_are_those_of_the_format() -> None:
    w = normal(48, 80)
    assert PackedLinear(w, bits=16).nbytes == 48 * 80 * 2
    assert PackedLinear(w, bits=8).nbytes == 48 * 80 + 48 * 4


def test_what_a_packed_linear_refuses() -> None:
    with pytest.raises(ValueError, match="in_features=24 must be a multiple of 16"):
        PackedLinear(normal(16, 24), bits=8)
    with pytest.raises(ValueError, match="bits=4 must be 8 or 16"):
        PackedLinear(normal(16, 32), bits=4)


@pytest.mark.parametrize("N", TOKENS)
def test_rms_norm(N: int) -> None:
    x, weight, eps = normal(N, 48) * 0.01, normal(48, seed=3), 1e-4  # eps matters
    y = x.double()
    want = weight.double() * y / (y.pow(2).mean(-1, keepdim=True) + eps).sqrt()
    torch.testing.assert_close(ops.rms_norm(x, weight, eps).double(), want, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("N", TOKENS)
def test_silu_product(N: int) -> None:
    rows = normal(N, 2 * 48) * 20
    rows[0, 0], rows[0, 1] = 100.0, -100.0
    gate, up = rows.double().chunk(2, dim=1)
    want = torch.nn.functional.silu(gate) * up
    torch.testing.assert_close(ops.silu_product(rows).double(), want, rtol=1e-5, atol=1e-6)


@dataclass
class Scattered:
    """Three sequences of ragged lengths, their pages scattered; prefill and decode in one batch."""

    lengths: ClassVar = (17, 1, 40)
    pages: ClassVar = 11

    def __post_init__(self) -> None:
        order = torch.randperm(self.pages, generator=torch.Generator().manual_seed(5)).tolist()
        self.tables = torch.zeros(3, 3, dtype=torch.int32)
        for row, length in enumerate(self.lengths):
            for page in range(-(-length // 16)):
                self.tables[row, page] = order.pop()
        self.rows = torch.cat([torch.full((n,), row) for row, n in enumerate(self.lengths)])
        self.positions = torch.cat([torch.arange(n) for n in self.lengths])
        pages = self.tables[self.rows, self.positions // 16].long()
        self.places = pages * 16 + self.positions % 16

    def angles(self, K: int) -> Tensor:
        return self.positions[:, None] / 50.0 ** (torch.arange(K // 2) / (K // 2))

    def attention(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Of each sequence alone, in float64."""
        outputs = []
        for row in range(3):
            mine = [x[self.rows == row].double().transpose(0, 1)[None] for x in (q, k, v)]
            y = torch.nn.functional.scaled_dot_product_attention(
                *mine, is_causal=True, enable_gqa=True
            )
            outputs.append(y[0].transpose(0, 1))
        return torch.cat(outputs)


HEADS = pytest.mark.parametrize(("H", "G", "K"), [(6, 2, 16), (9, 3, 64), (4, 4, 32), (5, 1, 48)])


@HEADS
def test_rope_and_attention_over_pages(H: int, G: int, K: int) -> None:
    batch = Scattered()
    qkv, angles = normal(len(batch.rows), (H + 2 * G) * K), batch.angles(K)
    poison = float("nan")  # unwritten rows must not be seen
    keys = torch.full((batch.pages, G, K, 16), poison, dtype=torch.bfloat16)
    values = torch.full((batch.pages, G, 16, K), poison, dtype=torch.bfloat16)
    q, k, v = qkv.double().view(len(qkv), -1, K).split((H, G, G), dim=1)
    q, k = rotated(q, angles), rotated(k, angles).bfloat16()
    ops.rope_and_store(qkv, angles.cos(), angles.sin(), batch.places, keys, values)
    got = ops.paged_attention(qkv, keys, values, batch.tables, batch.rows, batch.positions)
    want = batch.attention(q, k, v.bfloat16())
    # Ties of the rounding to bfloat16 may fall the other way.
    torch.testing.assert_close(got.view(-1, H, K).double(), want, rtol=1e-4, atol=3e-4)


@HEADS
def test_rope_and_attention_over_pages_of_eight_bits(H: int, G: int, K: int) -> None:
    batch = Scattered()
    qkv, angles = normal(len(batch.rows), (H + 2 * G) * K), batch.angles(K)
    qkv *= torch.logspace(-2, 1, len(qkv))[:, None]  # tokens of very different sizes
    qkv[3] = 0
    keys = torch.full((batch.pages, G, K, 16), 77, dtype=torch.int8)
    values = torch.full((batch.pages, G, 16, K), 77, dtype=torch.int8)
    scales = [torch.full((batch.pages, G, 16), float("nan")) for _ in range(2)]
    v = qkv.view(len(qkv), -1, K)[:, H + G :]
    ops.rope_and_store(qkv, angles.cos(), angles.sin(), batch.places, keys, values, *scales)
    q, k = qkv.view(len(qkv), -1, K)[:, : H + G].split((H, G), dim=1)  # rotated in place
    page, row = batch.places // 16, batch.places % 16
    stored = (keys[page, :, :, row], scales[0][page, :, row])
    torch.testing.assert_close(stored, rounded(k), rtol=0, atol=0)
    stored = (values[page, :, row], scales[1][page, :, row])
    torch.testing.assert_close(stored, rounded(v), rtol=0, atol=0)
    untouched = torch.ones(batch.pages * 16, dtype=torch.bool)
    untouched[batch.places] = False
    assert scales[0].transpose(1, 2).reshape(-1, G)[untouched].isnan().all()
    got = ops.paged_attention(qkv, keys, values, batch.tables, batch.rows, batch.positions, *scales)
    want = batch.attention(q, *(x.double() * s[..., None] for x, s in (rounded(k), rounded(v))))
    # Scores of hundreds in float32: their exponentials carry 1e-5 of error.
    torch.testing.assert_close(got.view(-1, H, K).double(), want, rtol=1e-4, atol=1e-4)


def rotated(x: Tensor, angles: Tensor) -> Tensor:
    cos, sin = angles.double().cos()[:, None], angles.double().sin()[:, None]
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


def test_a_machine_without_the_instructions_or_a_compiler_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(build, "_processor", lambda: "avx2 fma")
    with pytest.raises(build.NoKernelsError, match=r"has no avx512f, .*avx512_bf16"):
        build.library.__wrapped__()
    monkeypatch.undo()
    monkeypatch.setattr(build, "COMPILERS", ("no-such-compiler",))
    with pytest.raises(build.NoKernelsError, match="no-such-compiler is installed"):
        build.library.__wrapped__()


def test_a_failed_build_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "kernels.cpp"
    broken.write_text("int main( {")
    monkeypatch.setenv("LABKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(build, "FOLDER", tmp_path)
    with pytest.raises(build.NoKernelsError, match=r"failed: .*error"):
        build.library.__wrapped__()
    assert not list((tmp_path / "cache").glob("*.so"))


def test_the_kernels_use_the_threads_that_pytorch_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second OpenMP runtime beside PyTorch's would make both wait for each other."""
    ops.rms_norm(normal(2, 16), normal(16), 1e-5)
    maps = Path("/proc/self/maps").read_text()
    runtimes = {Path(line.split()[-1]) for line in maps.splitlines() if "libgomp" in line}
    own = [path for path in runtimes if "scikit" not in str(path)]  # which brings one of its own
    assert [path.parent.parent.name for path in own] == ["torch"], own


def test_compiling_is_done_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LABKIT_CACHE", str(tmp_path))
    calls: list[Any] = []
    real = subprocess.run

    def counted(*args: Any, **options: Any) -> Any:
        calls.append(args)
        return real(*args, **options)

    monkeypatch.setattr(subprocess, "run", counted)
    build.library.__wrapped__()
    build.library.__wrapped__()
    assert len(calls) == 1
