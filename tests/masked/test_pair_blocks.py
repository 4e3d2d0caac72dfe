from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from sr_deploy import Upscaler, open_bundle
from sr_deploy.masked.pair_blocks import Grid
from tests.graphs import image_graph, save


@pytest.mark.parametrize("shape", [(1, 1), (2, 9), (17, 300), (128, 137), (129, 1000), (333, 264)])
@pytest.mark.parametrize("multiple", [1, 4])
def test_windows_hold_their_blocks_with_a_border(tmp_path: Path, shape: tuple[int, int], multiple: int) -> None:
    """Each block of both sizes lies once in the image, and in its window with 4 pixels around it, but at the image's border."""
    bundle = open_bundle(save(image_graph(scale=2), tmp_path, "network.onnx"))
    bundle = dataclasses.replace(bundle, card=dataclasses.replace(bundle.card, size_multiple=multiple))
    height, width = shape
    with Upscaler(bundle, backend="onnxruntime", precision="fp32") as network:
        grid = Grid.of(np.zeros((height, width, 3), np.uint8), [network])
    (view,) = grid.views
    for number, (rows, columns) in enumerate(view.sizes):
        seen = np.zeros(shape, int)
        masks = [np.zeros((len(r.edges) - 1, len(c.edges) - 1), bool) for r, c in view.sizes]
        masks[number][:] = True
        [(tiling, tiles)] = view.tiles(masks)
        assert tiling.window == (rows.length, columns.length) == view.windows[number]
        for row, column in tiles:
            seen[row.fade_from : row.end, column.fade_from : column.end] += 1
            for region, length, size in ((row, rows, height), (column, columns, width)):
                assert region.start % multiple == 0 and 0 <= region.start <= max(0, region.fade_from - 4)
                assert min(region.end + 4, size) <= region.start + length.length <= -(-size // multiple) * multiple
        assert (seen == 1).all()
    assert grid.areas.sum() == height * width


def test_engines_that_take_large_windows_only_see_large_blocks(tmp_path: Path) -> None:
    graph = save(image_graph(scale=2), tmp_path, "network.onnx")
    with Upscaler(graph, backend="onnxruntime", precision="fp32") as network:
        network._window_limits = lambda: ((480, 480), (480, 480))  # type: ignore[method-assign]
        grid = Grid.of(np.zeros((960, 1200, 3), np.uint8), [network])
    assert grid.views[0].windows == ((480, 480), (480, 480))
    assert len(grid.rows) == 2 * 3 + 1 and len(grid.columns) == 2 * 3 + 1
