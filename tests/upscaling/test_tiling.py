from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sr_deploy.upscaling.tiling import plan_tiles, tile_for_memory

sizes = st.integers(1, 150)


@given(sizes, sizes, st.integers(4, 64), st.integers(0, 40), st.booleans(), st.sampled_from([1, 2, 4]))
def test_tiles_cover_every_pixel_once_and_lie_inside(
    height: int, width: int, tile: int, halo: int, blend: bool, multiple: int
) -> None:
    height, width = (-(-side // multiple) * multiple for side in (height, width))
    tiling = plan_tiles(height, width, tile=tile, halo=halo, blend=blend, multiple=multiple)
    tall, wide = tiling.window
    solid = np.zeros((height, width), int)
    for row, column in tiling:
        for region, size, length in ((row, height, tall), (column, width, wide)):
            assert 0 <= region.start <= region.fade_from <= region.solid_from <= region.end <= region.start + length <= size
            assert region.start % multiple == 0
        solid[row.solid_from : row.end, column.solid_from : column.end] += 1
    if not blend:
        assert (solid == 1).all()
    assert len(list(tiling)) == len(tiling)


@given(sizes, sizes, st.integers(4, 64), st.integers(0, 40))
def test_a_hard_cut_keeps_the_halo_away_from_every_inner_border(height: int, width: int, tile: int, halo: int) -> None:
    tiling = plan_tiles(height, width, tile=tile, halo=halo, blend=False)
    for regions in tiling:
        for region, axis in zip(regions, (tiling.rows, tiling.columns), strict=True):
            if region.start > 0:
                assert region.solid_from - region.start >= halo
            if region.start + axis.length < axis.size:
                assert region.start + axis.length - region.end >= halo


@given(sizes, st.integers(1, 64), st.integers(1, 40))
def test_fades_add_up_to_one(size: int, tile: int, halo: int) -> None:
    axis = plan_tiles(size, 1, tile=tile, halo=halo, blend=True).rows
    for index in range(len(axis.seams)):
        before, after = axis.region(index), axis.region(index + 1)
        assert before.end == after.solid_from
        assert before.solid_from <= after.fade_from


@given(sizes, sizes, st.integers(1, 10_000), st.integers(1, 10_000_000), st.integers(0, 40))
def test_the_tile_fits_the_memory_or_is_the_smallest(height: int, width: int, cost: int, memory: int, halo: int) -> None:
    tile = tile_for_memory(height, width, bytes_per_pixel=cost, memory=memory, halo=halo)
    tall, wide = plan_tiles(height, width, tile=tile, halo=halo, blend=False).window
    assert tall * wide * cost <= memory or tile == 32


def test_tile_zero_is_the_whole_image() -> None:
    assert plan_tiles(1000, 2000, tile=0, halo=9, blend=True).window == (1000, 2000)
