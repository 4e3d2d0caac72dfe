from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from sr_deploy.runtime.selection import Costs, Selection, select_blocks

Array = np.ndarray[Any, np.dtype[Any]]

gains = arrays.arrays(np.float64, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.floats(0, 100))


def costs_of(levels: int, ratio: float) -> Costs:
    """A window is as expensive as its pixels with a border."""
    areas = [float((8 * 2**level + 4) ** 2) for level in range(levels)]
    return Costs(tuple(ratio * area for area in areas), tuple(areas))


def painted(masks: tuple[Array, ...], shape: tuple[int, int]) -> Array:
    """How often each of the smallest blocks is restored."""
    total = np.zeros([length + 16 for length in shape], int)
    for level, mask in enumerate(masks):
        side = 2**level
        for row, column in np.argwhere(mask):
            total[side * row : side * row + side, side * column : side * column + side] += 1
    return total[: shape[0], : shape[1]]


@given(gains, st.integers(1, 4), st.floats(0.02, 0.9), st.floats(0, 1.5))
def test_every_block_is_restored_once_and_refined_at_most_once(gains: Array, levels: int, ratio: float, share: float) -> None:
    costs = costs_of(levels, ratio)
    everything = gains.size * costs.refine[0]
    selection = select_blocks(gains, costs, share * everything)
    base, refine = painted(selection.base, gains.shape), painted(selection.refine, gains.shape)
    assert (base <= 1).all() and (refine <= 1).all() and (base + refine >= 1).all()
    cheapest = select_blocks(gains, costs, 0.0).seconds(costs)
    assert selection.seconds(costs) <= max(share * everything, cheapest) * (1 + 1e-9)
    assert not any(mask.any() for mask in select_blocks(np.zeros_like(gains), costs, everything).refine)


@given(gains, st.floats(0.02, 0.5))
def test_more_time_never_gains_less(gains: Array, ratio: float) -> None:
    costs = costs_of(3, ratio)
    everything = gains.size * costs.refine[0]

    def gained(share: float) -> float:
        selection = select_blocks(gains, costs, share * everything)
        return float((painted(selection.refine, gains.shape) * gains).sum())

    results = [gained(share) for share in (0.2, 0.5, 0.8, 1.5)]
    assert results[-1] == pytest.approx(gains.sum())
    assert results[0] <= results[-1] + 1e-9


def test_it_is_as_good_as_trying_everything() -> None:
    """Of 2x2 blocks: which are refined, and by which windows, tried one by one."""
    random = np.random.default_rng(4)
    costs = Costs((3.0, 8.0), (10.0, 32.0))
    for _ in range(50):
        gains = random.random((2, 2)) * 10
        for seconds in (8.0, 18.0, 28.0, 32.0, 40.0):
            found = select_blocks(gains, costs, seconds)
            gained = float((painted(found.refine, (2, 2)) * gains).sum())
            best = max(
                (float(sum(gains.flat[index] for index in refined)), cost)
                for refined, cost in possible(costs)
                if cost <= seconds
            )
            assert found.seconds(costs) <= seconds
            assert gained >= 0.6 * best[0]
            if seconds in (8.0, 32.0, 40.0):
                assert gained == pytest.approx(best[0])


def possible(costs: Costs) -> list[tuple[tuple[int, ...], float]]:
    """Every set of refined parts, with the least time it takes."""
    result = []
    for count in range(5):
        for refined in itertools.combinations(range(4), count):
            ways = [costs.base[1] + count * costs.refine[0], (4 - count) * costs.base[0] + count * costs.refine[0]]
            result.append((refined, min([*ways, costs.refine[1]] if count == 4 else ways)))
    return result


def test_what_is_selected_depends_on_nothing_else() -> None:
    gains = np.random.default_rng(1).random((13, 17))
    costs = costs_of(4, 0.3)
    first, second = (select_blocks(gains, costs, 0.5 * gains.size * costs.refine[0]) for _ in range(2))
    assert isinstance(first, Selection)
    for mask, same in zip(first.base + first.refine, second.base + second.refine, strict=True):
        np.testing.assert_array_equal(mask, same)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("share", [0.4, 0.6, 0.8, 0.9, 0.97])
def test_no_division_into_blocks_of_one_size_gains_more(seed: int, share: float) -> None:
    gains = np.random.default_rng(seed).random((16, 16))
    sides = [8.0 + 32 * 2**level for level in range(5)]
    costs = Costs(base=tuple(0.27 * side**2 for side in sides), refine=tuple(side**2 for side in sides))
    seconds = share * 520**2
    selection = select_blocks(gains, costs, seconds)
    assert selection.seconds(costs) <= seconds
    found = sum((mask * sums).sum() for mask, sums in zip(selection.refine, pyramid(gains, 5), strict=True))
    for level, sums in enumerate(pyramid(gains, 5)):
        dearer = costs.refine[level] - costs.base[level]
        count = int((seconds - sums.size * costs.base[level]) / dearer)
        assert found >= 0.97 * np.sort(sums.ravel())[::-1][: max(count, 0)].sum()


def pyramid(gains: Array, levels: int) -> list[Array]:
    """Sums over blocks of every size, the smallest first."""
    sums = [gains]
    for _ in range(levels - 1):
        rows, columns = sums[-1].shape
        sums.append(sums[-1].reshape(rows // 2, 2, columns // 2, 2).sum(axis=(1, 3)))
    return sums
