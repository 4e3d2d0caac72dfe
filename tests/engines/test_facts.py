from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from sr_deploy.engines import open_engine
from sr_deploy.engines.facts import graph_facts, infer_shapes
from sr_deploy.errors import EngineError
from tests.graphs import image_graph


def measured_halo(depth: int, scale: int) -> int:
    """How far a change of one pixel is seen in the output, in LR pixels, by running the graph."""
    x = np.zeros((1, 3, 31, 31), np.float32)
    y = x.copy()
    y[..., 15, 15] = 1
    with open_engine(image_graph(depth=depth, scale=scale, noise=0.2)) as engine:
        changed = np.abs(engine.run({"input": x})["output"] - engine.run({"input": y})["output"]).max(axis=(0, 1, 2)) > 0
    touched = np.flatnonzero(changed)
    return int(max(15 - touched[0] // scale, touched[-1] // scale - 15))


@pytest.mark.parametrize(("depth", "scale"), [(0, 2), (1, 3), (4, 4)])
def test_the_halo_is_the_measured_receptive_field(depth: int, scale: int) -> None:
    facts = graph_facts(image_graph(depth=depth, scale=scale))
    assert facts.exact
    assert facts.halo == measured_halo(depth, scale) == depth + 1


def reach_of(model: ModelProto, at: int, *, cell: int = 1) -> int:
    """How far a change of one pixel is seen, in LR pixels from the cell of `cell` pixels that sees it."""
    x = np.zeros((1, 3, 32, 32), np.float32)
    y = x.copy()
    y[..., at, at] = 1
    with open_engine(model) as engine:
        changed = np.abs(engine.run({"input": x})["output"] - engine.run({"input": y})["output"]).max(axis=(0, 1, 2)) > 0
    touched = np.flatnonzero(changed) * 32 // len(changed) // cell * cell
    return int(max(at - (touched[0] + cell - 1), touched[-1] - at))


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_a_transposed_convolution_sees_as_far_as_it_does(scale: int) -> None:
    model = image_graph(depth=1, noise=0.2)
    conv, last, clamp = model.graph.node[0], model.graph.node[-2], model.graph.node[-1]
    del model.graph.node[1:]
    kernel = np.random.default_rng(1).normal(0, 0.2, (3, 3, 9, 9)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(kernel, "kernel"))
    sizes = {"strides": [scale] * 2, "pads": [4] * 4, "output_padding": [scale - 1] * 2}
    model.graph.node.append(helper.make_node("ConvTranspose", [conv.output[0], "kernel"], [last.output[0]], **sizes))
    model.graph.node.append(clamp)
    facts = graph_facts(model)
    assert (facts.exact, facts.scale) == (True, scale)
    assert facts.halo == max(reach_of(model, 15), reach_of(model, 16))


@pytest.mark.parametrize(("side", "pad"), [(6, 2), (3, 1), (2, 0)])
def test_strides_are_exact_in_tiles_of_their_multiples(side: int, pad: int) -> None:
    """A strided convolution to half the size, and a pixel shuffle by four."""
    model = image_graph(depth=1, scale=4, noise=0.2)
    kernel = np.random.default_rng(1).normal(0, 0.2, (3, 3, side, side)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(kernel, "kernel"))
    strided = helper.make_node("Conv", ["input", "kernel"], ["conv0"], strides=[2, 2], pads=[pad] * 4)
    model.graph.node[0].CopyFrom(strided)
    assert not graph_facts(model).exact
    facts = graph_facts(model, size_multiple=2)
    assert (facts.exact, facts.scale) == (True, 2)
    assert facts.halo == max(reach_of(model, at, cell=2) for at in (15, 16))


def test_costs_are_those_counted_by_hand() -> None:
    facts = graph_facts(image_graph(scale=2, depth=2))
    assert (facts.scale, facts.channels, facts.min_size) == (2, 3, 1)
    assert facts.macs == 2 * 3 * 3 * 9 + 3 * 12 * 9
    assert facts.parameters == 2 * (3 * 3 * 9 + 3) + 3 * 12 * 9 + 12
    assert facts.activation_bytes == 4 * (12 + 12)


def test_global_pooling_is_never_exact() -> None:
    assert not graph_facts(image_graph(pooled=True)).exact


@pytest.mark.parametrize("operator", ["InstanceNormalization", "MeanVarianceNormalization"])
def test_normalization_over_all_pixels_is_never_exact(operator: str) -> None:
    """Of the same shapes before and after, so the shapes do not tell."""
    model = image_graph(depth=1)
    nodes, weights = model.graph.node, model.graph.initializer
    for name in ("gain", "offset"):
        weights.append(numpy_helper.from_array(np.ones(3, np.float32), name))
    inputs, attributes = (["conv0", "gain", "offset"], {}) if operator[0] == "I" else (["conv0"], {"axes": [2, 3]})
    nodes.insert(1, helper.make_node(operator, inputs, ["normalized"], name="normal", **attributes))
    nodes[2].input[0] = "normalized"
    assert not graph_facts(model).exact


def test_sizes_behind_a_division_and_a_range_are_followed() -> None:
    """Every second row, by its number: ONNX's own inference loses them."""
    model = image_graph(depth=1)
    for name, value in (("zero", 0), ("one", 1), ("two", 2)):
        model.graph.initializer.append(numpy_helper.from_array(np.array(value, np.int64), name))
    rows = [
        helper.make_node("Shape", ["conv0"], ["rows"], start=2, end=3),
        helper.make_node("Squeeze", ["rows"], ["height"]),
        helper.make_node("Div", ["height", "two"], ["half"]),
        helper.make_node("Range", ["zero", "half", "one"], ["numbers"]),
        helper.make_node("Mul", ["numbers", "two"], ["chosen"]),
        helper.make_node("Gather", ["conv0", "chosen"], ["gathered"], axis=2),
        helper.make_node("Shape", ["conv0"], ["full"]),
        helper.make_node("Resize", ["gathered", "", "", "full"], ["resized"], mode="linear"),
    ]
    for position, node in enumerate(rows):
        model.graph.node.insert(1 + position, node)
    model.graph.node[1 + len(rows)].input[0] = "resized"
    assert infer_shapes(model, 10, 6)["gathered"] == (1, 3, 5, 6)
    assert not graph_facts(model).exact


def test_a_strided_window_sets_the_smallest_size() -> None:
    model = image_graph(depth=1)
    pool = helper.make_node("MaxPool", ["conv0"], ["pooled"], kernel_shape=[7, 7], strides=[3, 3], name="maxpool")
    up = helper.make_node("GlobalAveragePool", ["pooled"], ["mean"], name="mean")
    add = helper.make_node("Add", ["conv0", "mean"], ["added"], name="add")
    nodes = list(model.graph.node)
    nodes[1].input[0] = "added"
    del model.graph.node[:]
    model.graph.node.extend([nodes[0], pool, up, add, *nodes[1:]])
    facts = graph_facts(model)
    assert (facts.exact, facts.min_size) == (False, 7)


def test_a_graph_of_fixed_size_that_does_not_scale_is_refused() -> None:
    model = image_graph()
    model.graph.node[-2].op_type = "NoSuchOperator"
    with pytest.raises(EngineError):
        graph_facts(model)


def test_what_has_an_unknown_size_on_its_way_is_never_exact() -> None:
    """As the windows of attention have, where shapes cannot be followed."""
    model = image_graph(depth=1)
    nodes, weights = model.graph.node, model.graph.initializer
    weights.append(numpy_helper.from_array(np.array([4], np.int64), "four"))
    for operator, inputs, output, attributes in (
        ("ReduceMax", ["input"], "largest", {"keepdims": 0}),
        ("Expand", ["largest", "four"], "sizes", {}),
        ("Cast", ["sizes"], "shape", {"to": TensorProto.INT64}),
        ("Shape", ["conv0"], "back", {}),
        ("Reshape", ["conv0", "shape"], "odd", {}),
        ("Reshape", ["odd", "back"], "even", {}),
    ):
        nodes.insert(len(nodes) - 3, helper.make_node(operator, inputs, [output], **attributes))
    assert graph_facts(model).exact is False


@pytest.mark.parametrize(("side", "refused"), [(1, False), (3, True)])
def test_a_window_on_a_size_that_depends_on_pixels_is_refused(side: int, refused: bool) -> None:
    """One of a single pixel fits everywhere."""
    model = image_graph(depth=1)
    nodes, weights = model.graph.node, model.graph.initializer
    weights.append(numpy_helper.from_array(np.array([4], np.int64), "four"))
    weights.append(numpy_helper.from_array(np.ones((3, 3, side, side), np.float32), "kernel"))
    for operator, inputs, output, attributes in (
        ("ReduceMax", ["input"], "largest", {"keepdims": 0}),
        ("Expand", ["largest", "four"], "sizes", {}),
        ("Cast", ["sizes"], "shape", {"to": TensorProto.INT64}),
        ("Reshape", ["input", "shape"], "odd", {}),
        ("Conv", ["odd", "kernel"], "aside", {"pads": [side // 2] * 4}),
    ):
        nodes.append(helper.make_node(operator, inputs, [output], **attributes))
    if refused:
        with pytest.raises(EngineError, match="the size of 'odd' does not follow from the graph's input"):
            graph_facts(model)
    else:
        assert graph_facts(model).min_size == 1


@pytest.mark.parametrize("value", ["input", "output"])
def test_a_graph_that_declares_another_number_of_dimensions_is_refused(value: str) -> None:
    model = image_graph()
    declared = getattr(model.graph, value)[0].type.tensor_type.shape
    del declared.dim[3:]
    with pytest.raises(EngineError, match=f"'{value}' of the graph has 3 dimensions, expected 4"):
        graph_facts(model)


@pytest.mark.parametrize("dims", [[4], [4, 3], [4, 3, 9], [4, 3, 3, 3, 1]])
def test_a_kernel_of_another_number_of_sides_is_refused(dims: list[int]) -> None:
    model = image_graph()
    weight = next(tensor for tensor in model.graph.initializer if len(tensor.dims) == 4)
    del weight.dims[:]
    weight.dims.extend(dims)
    with pytest.raises(EngineError):
        graph_facts(model)
