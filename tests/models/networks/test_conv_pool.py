"""The fast way of the question's blocks gives what its three layers give, forwards and backwards."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from models.networks.conv_pool import _CELLS, ConvReluPool, LastUp


def both_ways(fast: nn.Module, plain: nn.Module, x: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """(fast, plain) of the output and of each parameter's gradient."""
    plain.load_state_dict(fast.state_dict())
    outs = [fast.train()(x), plain.train()(x)]
    wanted = torch.rand(outs[0].shape, generator=torch.Generator().manual_seed(2))
    for out in outs:
        out.backward(wanted)
    gradients = zip(fast.parameters(), plain.parameters(), strict=True)
    return [(outs[0].detach(), outs[1].detach()), *((a.grad, b.grad) for a, b in gradients)]


def three(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(*ConvReluPool(before, after))


@pytest.mark.parametrize(("channels", "size"), [(1, (8, 16, 24)), (3, (4, 6, 8)), (1, (32, 64, 72))])
def test_a_block_is_its_three_layers(channels, size):
    torch.manual_seed(0)
    if channels == 1 and size[0] == 32:
        assert size[0] * size[1] * size[2] // 8 > 2 * _CELLS  # more than two chunks, the last one not full
    x = torch.rand(2, channels, *size)
    for fast, plain in both_ways(ConvReluPool(channels, 16), three(channels, 16), x):
        torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-4 * float(plain.abs().max()))


def test_even_regions_do_not_count_more_than_once():
    torch.manual_seed(0)
    x = torch.ones(1, 1, 8, 16, 16)
    for fast, plain in both_ways(ConvReluPool(1, 4), three(1, 4), x):
        torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-5)


def test_an_input_that_wants_a_gradient_gets_the_three_layers_one():
    torch.manual_seed(0)
    block = ConvReluPool(1, 4).train()
    x = torch.rand(1, 1, 4, 4, 4, requires_grad=True)
    other = x.detach().clone().requires_grad_()
    block(x).sum().backward()
    three(1, 4).requires_grad_(False)
    nn.Sequential(*block)(other).sum().backward()
    torch.testing.assert_close(x.grad, other.grad)


def test_the_last_step_up_is_the_transposed_convolution():
    torch.manual_seed(0)
    for fast, plain in both_ways(LastUp(5), nn.ConvTranspose3d(5, 1, 2, 2), torch.rand(2, 5, 3, 4, 6)):
        torch.testing.assert_close(fast, plain, rtol=1e-5, atol=1e-5)
