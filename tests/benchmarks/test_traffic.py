from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator
from traffic import Step, around, kernel_traffic, node_traffic, table

import sr_deploy
from sr_deploy.bundle import Bundle
from sr_deploy.device.device import Device
from sr_deploy.device.tiling import DeviceTiling
from sr_deploy.engines.pixels import INPUT, to_pixel_form
from sr_deploy.engines.planes import to_planes_form
from sr_deploy.upscaling.tiling import plan_tiles
from tests.graphs import image_graph

MODELS = Path(sr_deploy.__file__).parent / "models"
PIXELS = np.random.default_rng(1).integers(0, 256, (1, 6, 10, 3), dtype=np.uint8)


def bytes_of_tensors(model: ModelProto) -> dict[str, int]:
    """Of every tensor, as ONNX's own evaluator makes it."""
    names = [name for node in model.graph.node for name in node.output]
    arrays = dict(zip(names, ReferenceEvaluator(model).run(names, {INPUT: PIXELS}), strict=True))
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    return {name: array.nbytes for name, array in {**arrays, **weights, INPUT: PIXELS}.items()}


@pytest.mark.parametrize("float_type", [TensorProto.FLOAT, TensorProto.FLOAT16])
@pytest.mark.parametrize("cast_last", [False, True])
def test_every_node_reads_and_writes_what_the_evaluator_gives_it(float_type: int, cast_last: bool) -> None:
    model = to_pixel_form(image_graph(scale=2, float_type=float_type), cast_last=cast_last)
    sizes = bytes_of_tensors(model)
    steps = node_traffic(model, PIXELS.shape)
    for node, step in zip(model.graph.node, steps, strict=True):
        free = node.op_type in ("Reshape", "Shape") or node.output[0] == "pixel_form.scaled"
        assert step == Step(node.name, 0 if free else sum(sizes[name] for name in {*node.input, *node.output}))
    assert sum(step.bytes for step in steps) > sum(step.bytes for step in around(steps)) > 0


def test_a_multiplication_counts_where_no_convolution_comes_before() -> None:
    model = image_graph(scale=2)
    model.graph.node[-3].output[0] = "convolved"
    model.graph.node.insert(3, onnx.helper.make_node("Sigmoid", ["convolved"], ["last"]))
    form = to_pixel_form(model)
    (scaled,) = (step for step in node_traffic(form, PIXELS.shape) if step.name.endswith("pixel_form.scaled"))
    assert scaled.bytes == 2 * 4 * 12 * 6 * 10 + 4


def test_pointwise_nodes_that_follow_one_another_read_once_and_write_once() -> None:
    """Mul, Round, QuantizeLinear and the Cast of the health read the result; others read from it bytes, floats and a shape."""
    form = to_pixel_form(image_graph(scale=2))
    steps = around(node_traffic(form, PIXELS.shape, fused=True))
    planes = 12 * 6 * 10
    (tail,) = (step for step in steps if step.name.endswith("pixel_form.scaled"))
    constants = 2 * 4 + 1
    assert tail.bytes == planes * (4 + 4 + 4 + 1) + constants
    assert sum(step.bytes for step in steps) < sum(step.bytes for step in around(node_traffic(form, PIXELS.shape)))


@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_our_kernels_move_the_arrays_that_they_are_given(dtype: str, scale: int) -> None:
    pytest.importorskip("warp")
    device, tiling = Device("cpu"), plan_tiles(6, 10, tile=0, halo=0, blend=False)
    target = DeviceTiling(device, [tiling.rows.region(0)], [tiling.columns.region(0)], window=(6, 10), scale=scale)
    frame, large = device.array(PIXELS), device.empty((1, 6 * scale, 10 * scale, 3), "uint8")
    tile, planes = device.empty((1, 3, 6, 10), dtype), device.empty((1, 3 * scale**2, 6, 10), dtype)
    magnitudes = target.magnitudes(1)
    target.gather(frame, tile)
    target.scatter(planes, large, magnitudes=magnitudes)
    moved = {
        "gather": (frame, tile),
        "scatter": (planes, large, magnitudes),
        "health": (magnitudes,),
        "brightness": (tile,),
    }
    expected = [Step(name, sum(array.numpy().nbytes for array in arrays)) for name, arrays in moved.items()]
    assert kernel_traffic(6, 10, scale=scale, itemsize=np.dtype(dtype).itemsize) == expected


@pytest.mark.parametrize("name", ["fast-x4", "quality-small-x2"])
def test_the_planes_form_moves_the_fewest_bytes(name: str) -> None:
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in table(Bundle.open(MODELS / name), 96, 54)]
    alone, fused = ([float(row[column]) for row in rows] for column in (2, 3))
    assert [row[1] for row in rows] == ["pixels", "pixels, Cast last", "planes"]
    assert alone[2] < min(alone[:2]) / 3 and fused[2] < min(fused[:2]) / 3


def test_the_planes_form_adds_no_bytes_of_its_own() -> None:
    steps = node_traffic(to_planes_form(image_graph(scale=3)), (1, 3, 6, 10))
    assert [step.bytes for step in around(steps)] == [0]
