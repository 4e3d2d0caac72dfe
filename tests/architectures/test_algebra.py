"""Convs that are one conv, against the convs themselves."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sr_deploy.architectures.algebra import Kernel, chain_of, joint_of, stack_of, sum_of


def _kernel(generator: torch.Generator, outputs: int, inputs: int, size: tuple[int, int], *, biased: bool) -> Kernel:
    weight = torch.randn(outputs, inputs, *size, generator=generator, dtype=torch.float64)
    return weight, torch.randn(outputs, generator=generator, dtype=torch.float64) if biased else None


@pytest.mark.parametrize("biased", [(True, True, True), (False, False, False), (True, False, True), (False, True, False)])
@pytest.mark.parametrize("sizes", [(1, 3, 1), (1, 1, 3), (3, 1, 1), (1, 5, 1), (1, 1, 1)])
def test_a_chain_of_convs_is_one_at_the_borders_too(sizes: tuple[int, int, int], biased: tuple[bool, bool, bool]) -> None:
    generator = torch.Generator().manual_seed(1)
    widths = [(6, 3), (5, 6), (4, 5)]
    kernels = [_kernel(generator, *widths[i], (sizes[i], sizes[i]), biased=biased[i]) for i in range(3)]
    x = torch.randn(1, 3, 7, 6, generator=generator, dtype=torch.float64)
    margin = max(sizes) // 2
    expected = F.pad(x, (margin,) * 4)
    for weight, bias in kernels:
        expected = F.conv2d(expected, weight, bias)
    torch.testing.assert_close(F.conv2d(x, *chain_of(*kernels), padding=margin), expected, rtol=1e-12, atol=1e-12)


def test_two_large_ones_are_no_single_conv() -> None:
    generator = torch.Generator().manual_seed(1)
    large = _kernel(generator, 3, 3, (3, 3), biased=True)
    with pytest.raises(ValueError, match="no single conv at the borders"):
        chain_of(large, large)


@pytest.mark.parametrize("biased", [(True, True, True, True), (True, False, False, True), (False, False, False, False)])
def test_convs_over_parts_of_maps_are_one(biased: tuple[bool, bool, bool, bool]) -> None:
    generator = torch.Generator().manual_seed(3)
    sizes = ((4, 3), (4, 2), (5, 3), (5, 2))
    a, b, c, d = (_kernel(generator, *size, (3, 3), biased=has) for size, has in zip(sizes, biased, strict=True))
    x, y = (torch.randn(1, width, 6, 7, generator=generator, dtype=torch.float64) for width in (3, 2))
    expected = torch.cat([F.conv2d(x, *a) + F.conv2d(y, *b), F.conv2d(x, *c) + F.conv2d(y, *d)], 1)
    found = F.conv2d(torch.cat([x, y], 1), *stack_of(joint_of(a, b), joint_of(c, d)))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("identity", [True, False])
@pytest.mark.parametrize("biased", [True, False])
def test_a_sum_of_convs_is_one(biased: bool, identity: bool) -> None:
    generator = torch.Generator().manual_seed(2)
    kernels = [_kernel(generator, 4, 4, size, biased=biased) for size in ((3, 3), (3, 1), (1, 3), (1, 1))]
    x = torch.randn(1, 4, 5, 6, generator=generator, dtype=torch.float64)
    parts: list[Tensor] = [F.conv2d(x, *kernel, padding=tuple(side // 2 for side in kernel[0].shape[2:])) for kernel in kernels]
    expected = sum(parts, x if identity else torch.zeros_like(x))
    torch.testing.assert_close(F.conv2d(x, *sum_of(kernels, identity=identity), padding=1), expected, rtol=1e-12, atol=1e-12)
