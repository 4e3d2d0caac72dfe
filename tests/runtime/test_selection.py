from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from sr_deploy.runtime.selection import Costs, Selection, _Bands, painted, select

Array = np.ndarray[Any, np.dtype[Any]]

gains = arrays.arrays(np.float64, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.floats(0, 100))


def costs_of(shape: tuple[int, ...], ratio: float, *, leaf: int = 8, border: int = 4) -> Costs:
    """A window is as expensive as its pixels with a border."""
    tall, wide = (np.where(np.arange(length + 1), leaf * np.arange(length + 1) + border, 0.0) for length in shape)
    areas = np.outer(tall, wide)
    return Costs(ratio * areas, areas)


def counted(boxes: Array, shape: tuple[int, int]) -> Array:
    """How often each of the smallest blocks is restored."""
    total = np.zeros(shape, int)
    for top, left, bottom, right in boxes:
        assert 0 <= top < bottom <= shape[0] and 0 <= left < right <= shape[1]
        total[top:bottom, left:right] += 1
    return total


@given(gains, st.integers(1, 4), st.floats(0.02, 0.9), st.floats(0, 1.5))
def test_every_block_is_restored_once_and_refined_at_most_once(gains: Array, sizes: int, ratio: float, share: float) -> None:
    costs = costs_of(gains.shape, ratio)
    everything = gains.size * float(costs.refine[1, 1])
    selection = select(gains, costs, share * everything, sizes=sizes)
    base, refine = counted(selection.base, gains.shape), counted(selection.refine, gains.shape)
    assert (base <= 1).all() and (refine <= 1).all() and (base + refine >= 1).all()
    cheapest = select(gains, costs, 0.0, sizes=sizes).seconds(costs)
    assert selection.seconds(costs) <= max(share * everything, cheapest) * (1 + 1e-9)
    for boxes, restored in ((selection.base, base), (selection.refine, refine)):
        np.testing.assert_array_equal(painted(boxes, gains.shape), restored)
    assert selection.gain(gains) == pytest.approx(float(gains[refine == 1].sum()))


@given(gains, st.floats(0.02, 0.5))
def test_more_time_never_gains_less(gains: Array, ratio: float) -> None:
    costs = costs_of(gains.shape, ratio)
    everything = gains.size * float(costs.refine[1, 1])
    results = [select(gains, costs, share * everything, sizes=3).gain(gains) for share in (0.2, 0.5, 0.8, 1.5)]
    assert results[-1] == pytest.approx(gains.sum())
    assert results[0] <= results[-1] + 1e-9


def test_it_is_as_good_as_trying_everything() -> None:
    """Of 2x2 blocks: which are refined, and by which windows, tried one by one."""
    random = np.random.default_rng(4)
    base, refine = (
        np.array([[0, 0, 0], [0, part, 2 * part], [0, 2 * part, whole]]) for part, whole in ((3.0, 8.0), (10.0, 32.0))
    )
    costs = Costs(base, refine)
    for _ in range(50):
        gains = random.random((2, 2)) * 10
        for seconds in (8.0, 18.0, 28.0, 32.0, 40.0):
            found = select(gains, costs, seconds, sizes=2)
            best = max(
                float(sum(gains.flat[index] for index in refined)) for refined, cost in possible(costs) if cost <= seconds
            )
            assert found.seconds(costs) <= seconds
            assert found.gain(gains) >= 0.6 * best
            if seconds in (8.0, 32.0, 40.0):
                assert found.gain(gains) == pytest.approx(best)


def possible(costs: Costs) -> list[tuple[tuple[int, ...], float]]:
    """Every set of refined parts, with the least time it takes."""
    result = []
    part_base, part_refine = float(costs.base[1, 1]), float(costs.refine[1, 1])
    for count in range(5):
        for refined in itertools.combinations(range(4), count):
            ways = [float(costs.base[2, 2]) + count * part_refine, (4 - count) * part_base + count * part_refine]
            result.append((refined, min([*ways, float(costs.refine[2, 2])] if count == 4 else ways)))
    return result


def test_what_is_selected_depends_on_nothing_else() -> None:
    gains = np.random.default_rng(1).random((13, 17))
    costs = costs_of(gains.shape, 0.3)
    first, second = (select(gains, costs, 0.5 * gains.size * costs.refine[1, 1], sizes=4) for _ in range(2))
    assert isinstance(first, Selection)
    np.testing.assert_array_equal(first.base, second.base)
    np.testing.assert_array_equal(first.refine, second.refine)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("share", [0.4, 0.6, 0.8, 0.9, 0.97])
def test_no_division_into_blocks_of_one_size_gains_more(seed: int, share: float) -> None:
    gains = np.random.default_rng(seed).random((16, 16))
    costs = costs_of(gains.shape, 0.27, leaf=32, border=8)
    seconds = share * 520**2
    selection = select(gains, costs, seconds, sizes=5)
    assert selection.seconds(costs) <= seconds
    for level, sums in enumerate(pyramid(gains, 5)):
        base, refine = (float(table[2**level, 2**level]) for table in (costs.base, costs.refine))
        count = int((seconds - sums.size * base) / (refine - base))
        assert selection.gain(gains) >= 0.97 * np.sort(sums.ravel())[::-1][: max(count, 0)].sum()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("price", [0.0002, 0.0005, 0.001])
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("widest", [2, 16])
def test_no_other_bands_and_boxes_are_worth_more(seed: int, price: float, turned: bool, widest: int) -> None:
    """All ways to cut the image into bands, and each band into boxes, tried one by one."""
    gains = np.random.default_rng(seed).random((4, 5)) ** 3
    costs = costs_of(gains.shape, 0.27, leaf=32, border=8)
    values, base, refine = (array.T if turned else array for array in (gains, costs.base, costs.refine))
    rows, columns = values.shape

    def band(top: int, bottom: int) -> float:
        return max(
            sum(
                max(values[top:bottom, left:right].sum() - price * refine[size], -price * base[size])
                for left, right in itertools.pairwise(cuts)
                for size in [(bottom - top, right - left)]
            )
            for cuts in divisions(columns)
        )

    best = max(
        sum(band(*span) for span in itertools.pairwise(cuts))
        for cuts in divisions(rows)
        if all(bottom - top <= widest for top, bottom in itertools.pairwise(cuts))
    )
    found = _Bands(gains, costs, turned=turned, widest=widest).select(price)
    assert found.gain(gains) - price * found.seconds(costs) == pytest.approx(best)
    assert (counted(found.base, gains.shape) + counted(found.refine, gains.shape) == 1).all()


def divisions(length: int) -> list[tuple[int, ...]]:
    inner = range(1, length)
    return [(0, *cuts, length) for count in range(length) for cuts in itertools.combinations(inner, count)]


def test_a_smooth_corner_is_left_out_in_one_piece() -> None:
    """At nine tenths of the time, borders around many blocks would cost what is left out."""
    gains = np.ones((16, 16))
    gains[10:, 9:] = 0.01
    costs = costs_of(gains.shape, 0.27, leaf=32, border=8)
    selection = select(gains, costs, 0.9 * float(costs.refine[16, 16]), sizes=5)
    assert selection.gain(gains) > 0.99 * gains.sum()
    assert len(selection.refine) < 12


def pyramid(gains: Array, levels: int) -> list[Array]:
    """Sums over blocks of every size, the smallest first."""
    sums = [gains]
    for _ in range(levels - 1):
        rows, columns = sums[-1].shape
        sums.append(sums[-1].reshape(rows // 2, 2, columns // 2, 2).sum(axis=(1, 3)))
    return sums
