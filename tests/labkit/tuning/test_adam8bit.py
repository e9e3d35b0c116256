"""8-bit AdamW against bitsandbytes' on the CPU and torch's in float32."""

import io

import bitsandbytes
import pytest
import torch
from bitsandbytes.functional import create_dynamic_map
from torch import nn

from labkit.tuning.adam8bit import Adam8bit

SHAPE = (37, 131)  # 4,847 weights: 18 whole blocks and a short one


def weights(gen: torch.Generator, *shape: int) -> torch.Tensor:
    return torch.randn(*(shape or SHAPE), generator=gen)


def gradient(gen: torch.Generator) -> torch.Tensor:
    """Sizes over five decades, as gradients have."""
    return weights(gen) * 10 ** -(5 * torch.rand(SHAPE, generator=gen))


OPTIONS = {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-7, "weight_decay": 0.1}


def test_each_step_equals_bitsandbytes_from_the_same_state(gen: torch.Generator) -> None:
    """The states are ours at every step: bitsandbytes rounds with a coarser table on the CPU."""
    start = weights(gen)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    optimizer = Adam8bit([ours], **OPTIONS)
    oracle = bitsandbytes.optim.AdamW8bit([theirs], **OPTIONS)
    pairs = (("exp_avg", "state1", "absmax1"), ("exp_avg_sq", "state2", "absmax2"))
    for step in range(1, 8):
        ours.grad = gradient(gen)
        theirs.grad = ours.grad.clone()
        optimizer.step()
        oracle.step()
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6, msg=f"step {step}")
        state, other = optimizer.state[ours], oracle.state[theirs]
        for moment, codes, absmax in pairs:
            assert other[codes].dtype == state[moment].dtype == torch.uint8
            torch.testing.assert_close(other[absmax], state[f"{moment}_absmax"])
            other[codes].copy_(state[moment].view_as(other[codes]))
            other[absmax].copy_(state[f"{moment}_absmax"])


def test_stored_moments_are_the_nearest_codes(gen: torch.Generator) -> None:
    parameter = nn.Parameter(weights(gen))
    optimizer = Adam8bit([parameter], **OPTIONS)
    parameter.grad = gradient(gen)
    parameter.grad[3] = 0
    optimizer.step()
    one, two = OPTIONS["betas"]
    moments = {
        "exp_avg": ((1 - one) * parameter.grad, create_dynamic_map()),
        "exp_avg_sq": ((1 - two) * parameter.grad**2, create_dynamic_map(signed=False)),
    }
    for name, (moment, table) in moments.items():
        state = optimizer.state[parameter]
        for block, codes in zip(moment.flatten().split(256), state[name].split(256), strict=True):
            absmax = block.abs().max().double()
            distance = (block.double()[:, None] - absmax * table.double()).abs()
            if name == "exp_avg_sq":
                distance[block > 0, 0] = torch.inf  # what is above zero must stay so
            got = distance.gather(1, codes.long()[:, None])[:, 0]
            torch.testing.assert_close(got, distance.amin(1), rtol=1e-5, atol=1e-7 * absmax.item())


def test_small_second_moments_do_not_blow_up_the_step(gen: torch.Generator) -> None:
    """Sizes persist for most weights, but some gradients fall by decades from step to step."""
    start = weights(gen)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    optimizer, oracle = Adam8bit([ours], **OPTIONS), torch.optim.AdamW([theirs], **OPTIONS)
    for _ in range(6):
        ours.grad = gradient(gen)
        theirs.grad = ours.grad.clone()
        optimizer.step()
        oracle.step()
    assert (theirs - start).abs().max() < 1
    assert (ours - start).abs().max() < 1


def test_small_parameters_are_plain_adamw(gen: torch.Generator) -> None:
    start = weights(gen, 13, 7)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    optimizer, oracle = Adam8bit([ours], **OPTIONS), torch.optim.AdamW([theirs], **OPTIONS)
    for _ in range(5):
        ours.grad = weights(gen, 13, 7)
        theirs.grad = ours.grad.clone()
        optimizer.step()
        oracle.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_two_bytes_a_weight_and_four_for_each_block_and_moment(gen) -> None:
    parameter = nn.Parameter(weights(gen))
    parameter.grad = gradient(gen)
    optimizer = Adam8bit([parameter])
    optimizer.step()
    assert optimizer.nbytes == 2 * (37 * 131 + 4 * 19)


def test_an_outlier_spoils_only_its_own_block(gen: torch.Generator) -> None:
    parameter = nn.Parameter(torch.zeros(40 * 256))
    grad = torch.full((40 * 256,), 1e-3)
    grad[5] = 1e6
    parameter.grad = grad
    optimizer = Adam8bit([parameter], betas=(0.5, 0.9))
    optimizer.step()
    held = optimizer.state[parameter]
    assert held["exp_avg_absmax"][0] > 1e5
    assert torch.all(held["exp_avg_absmax"][1:] < 1)
    assert torch.all(held["exp_avg"][256:] == held["exp_avg"][-1])


def test_reaches_the_loss_of_float32_adamw(gen: torch.Generator) -> None:
    target, x = weights(gen), weights(gen, 300, SHAPE[1])
    losses = []
    for kind in (torch.optim.AdamW, Adam8bit):
        weight = nn.Parameter(torch.zeros(SHAPE))
        optimizer = kind([weight], lr=0.05, weight_decay=0.0)
        for _ in range(60):
            optimizer.zero_grad()
            loss = (x @ (weight - target).T).square().mean()
            loss.backward()
            optimizer.step()
        losses.append(loss.item())
    assert losses[1] < 1.1 * losses[0] + 1e-2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_resumes_bit_for_bit_from_a_file(dtype: torch.dtype, gen) -> None:
    first = nn.Parameter(weights(gen).to(dtype))
    grads = [gradient(gen).to(dtype) for _ in range(6)]
    optimizer = Adam8bit([first], **OPTIONS)
    for grad in grads[:3]:
        first.grad = grad
        optimizer.step()
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    second = nn.Parameter(first.detach().clone())
    resumed = Adam8bit([second], **OPTIONS)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for grad in grads[3:]:
        first.grad, second.grad = grad, grad.clone()
        optimizer.step()
        resumed.step()
        assert torch.equal(first, second)
    assert resumed.state[second]["exp_avg"].dtype == torch.uint8


def test_wrong_options_are_refused() -> None:
    parameter = nn.Parameter(torch.zeros(2))
    with pytest.raises(ValueError, match=r"lr=-1\.0"):
        Adam8bit([parameter], lr=-1.0)
    with pytest.raises(ValueError, match=r"betas=\(0.9, 1.0\)"):
        Adam8bit([parameter], betas=(0.9, 1.0))
