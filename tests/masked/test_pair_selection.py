from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from sr_deploy.masked.pair_selection import Costs, Selection, _at_price, select

Array = np.ndarray[Any, np.dtype[Any]]

gains = arrays.arrays(
    np.float64, st.tuples(st.integers(1, 5), st.integers(1, 5)).map(lambda n: (2 * n[0], 2 * n[1])), elements=st.floats(0, 100)
)


def costs_of(shape: tuple[int, ...], ratio: float, *, small: int = 64, border: int = 8) -> Costs:
    """A window is as expensive as its pixels with a border; the whole image needs none."""
    large_window, small_window = float(2 * small + border) ** 2, float(small + border) ** 2
    whole = float(np.prod(shape)) * small**2
    return Costs(ratio * whole, (ratio * large_window, ratio * small_window), (large_window, small_window))


def everything(shape: tuple[int, ...], costs: Costs) -> float:
    """Seconds that refining all large blocks takes."""
    return float(np.prod(shape)) / 4 * costs.refine[0]


def spread(mask: Array) -> Array:
    return mask.repeat(2, axis=0).repeat(2, axis=1)


@given(gains, st.floats(0.02, 0.9), st.floats(0, 1.5))
def test_every_block_is_restored_and_the_time_is_kept(gains: Array, ratio: float, share: float) -> None:
    costs = costs_of(gains.shape, ratio)
    seconds = share * everything(gains.shape, costs)
    selection = select(gains, costs, seconds)
    base, refine = (spread(large).astype(int) + small for large, small in (selection.base, selection.refine))
    assert (base <= 1).all() and (refine <= 1).all() and (base + refine + selection.whole >= 1).all()
    assert not (selection.whole and base.any())
    np.testing.assert_array_equal(selection.refined, refine == 1)
    if seconds >= costs.whole:
        assert selection.seconds(costs) <= seconds * (1 + 1e-9)
    else:
        assert not refine.any() or selection.seconds(costs) <= seconds


@given(gains, st.floats(0.02, 0.5))
def test_with_time_for_everything_everything_is_refined(gains: Array, ratio: float) -> None:
    costs = costs_of(gains.shape, ratio)
    selection = select(gains, costs, 1.01 * everything(gains.shape, costs))
    assert gains[selection.refined].sum() == pytest.approx(gains.sum())


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("price", [1e-4, 3e-4, 1e-3])
def test_nothing_else_is_worth_more_at_that_price(seed: int, price: float) -> None:
    """All that can be done with a large block, tried one by one."""
    gains = np.random.default_rng(seed).random((2, 4)) ** 3 * 5
    costs = costs_of(gains.shape, 0.2)
    for whole in (False, True):
        found = _at_price(gains, costs, price, whole=whole)
        best = -price * costs.whole * whole
        for blocks in (gains[:, :2], gains[:, 2:]):
            best += max(value - price * seconds for value, seconds in possible(blocks.ravel(), costs, whole=whole))
        assert gains[found.refined].sum() - price * found.seconds(costs) == pytest.approx(best)


def possible(blocks: Array, costs: Costs, *, whole: bool) -> list[tuple[float, float]]:
    """Gain and seconds of every way to restore a large block of four small ones."""
    ways = [(float(blocks.sum()), costs.refine[0])]
    for count in range(5):
        for refined in itertools.combinations(range(4), count):
            value, seconds = float(sum(blocks[index] for index in refined)), count * costs.refine[1]
            if whole:
                ways.append((value, seconds))
            else:
                ways += [(value, seconds + costs.base[0]), (value, seconds + (4 - count) * costs.base[1])]
    return ways


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("share", [0.3, 0.5, 0.7, 0.9, 0.97])
def test_no_choice_of_blocks_of_one_size_gains_more(seed: int, share: float) -> None:
    gains = np.random.default_rng(seed).random((16, 16))
    costs = costs_of(gains.shape, 0.16)
    seconds = share * everything(gains.shape, costs)
    selection = select(gains, costs, seconds)
    assert selection.seconds(costs) <= seconds
    large = gains.reshape(8, 2, 8, 2).sum(axis=(1, 3))
    for sums, base, refine in zip((large, gains), costs.base, costs.refine, strict=True):
        for spent, extra in ((costs.whole, refine), (sums.size * base, refine - base)):
            count = max(0, int((seconds - spent) / extra))
            assert gains[selection.refined].sum() >= 0.97 * np.sort(sums.ravel())[::-1][:count].sum()


def test_a_refine_network_that_is_the_faster_one_does_everything() -> None:
    costs = Costs(100.0, (30.0, 10.0), (20.0, 6.0))
    selection = select(np.zeros((4, 4)), costs, 1.0)
    assert selection.refined.all() and selection.seconds(costs) == 80


def test_what_is_selected_depends_on_nothing_else() -> None:
    gains = np.random.default_rng(1).random((14, 18))
    costs = costs_of(gains.shape, 0.3)
    first, second = (select(gains, costs, 0.5 * everything(gains.shape, costs)) for _ in range(2))
    assert isinstance(first, Selection)
    for one, other in zip((*first.base, *first.refine), (*second.base, *second.refine), strict=True):
        np.testing.assert_array_equal(one, other)
