from collections.abc import Sequence

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from sr_deploy.errors import ExportError
from sr_deploy.export.activations import measure_activations
from sr_deploy.export.precision import HalfPrecision, to_fp16
from sr_deploy.export.probes import range_probes
from sr_deploy.export.trace import trace
from tests.export.conftest import Tiny

X = np.random.default_rng(3).random((1, 3, 20, 24), dtype=np.float32)


def graph(
    nodes: Sequence[onnx.NodeProto], weights: dict[str, np.ndarray], *, outputs: Sequence[str] = ("output",)
) -> ModelProto:
    for index, node in enumerate(nodes):
        node.name = node.name or f"{node.op_type}.{index}"
    shape = ["batch", 3, "height", "width"]
    built = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", "c", "h", "w"]) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(built, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


def f32(*values: float) -> np.ndarray:
    return np.array(values if len(values) > 1 else values[0], np.float32)


def half(model: ModelProto, x: np.ndarray = X) -> HalfPrecision:
    return to_fp16(model, measure_activations(model, {"x": x}))


def run(model: ModelProto, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"input": x})[0]


def agree(model: ModelProto, result: HalfPrecision, x: np.ndarray = X, *, atol: float = 2e-3) -> None:
    found = run(result.model, x.astype(np.float16))
    assert found.dtype == np.float16
    np.testing.assert_allclose(found.astype(np.float32), run(model, x), atol=atol, rtol=2e-3)


def kinds(result: HalfPrecision) -> list[str]:
    return [node.op_type for node in result.model.graph.node]


def test_ports_become_fp16_and_the_original_stays() -> None:
    model = graph([helper.make_node("Mul", ["input", "half"], ["output"])], {"half": f32(0.5)})
    before = model.SerializeToString()
    result = half(model)
    assert model.SerializeToString() == before
    assert result.kept == {}
    assert kinds(result) == ["Mul"]
    for value in (*result.model.graph.input, *result.model.graph.output):
        assert value.type.tensor_type.elem_type == TensorProto.FLOAT16
    agree(model, result)


def test_overflow_is_kept_with_its_readers_and_without_round_trips() -> None:
    nodes = [
        helper.make_node("Mul", ["input", "big"], ["a"], name="grow"),
        helper.make_node("Relu", ["a"], ["b"], name="hold"),
        helper.make_node("Mul", ["b", "small"], ["c"], name="shrink"),
        helper.make_node("Relu", ["c"], ["output"], name="end"),
    ]
    model = graph(nodes, {"big": f32(1e6), "small": f32(1e-6)})
    result = half(model)
    assert list(result.kept) == ["grow", "hold", "shrink"]
    assert all("values up to" in why for why in result.kept.values())
    assert kinds(result) == ["Cast", "Mul", "Relu", "Mul", "Cast", "Relu"]
    agree(model, result)


def test_a_cheap_node_between_kept_ones_is_kept() -> None:
    nodes = [
        helper.make_node("Mul", ["input", "big"], ["a"], name="grow"),
        helper.make_node("Mul", ["a", "small"], ["b"], name="shrink"),
        helper.make_node("Relu", ["b"], ["c"], name="between"),
        helper.make_node("Mul", ["c", "big"], ["d"], name="grow again"),
        helper.make_node("Mul", ["d", "small"], ["output"], name="shrink again"),
    ]
    result = half(graph(nodes, {"big": f32(1e6), "small": f32(1e-6)}))
    assert result.kept["between"] == "between two nodes in fp32"
    assert kinds(result).count("Cast") == 2


def test_an_output_made_in_fp32_and_read_again() -> None:
    nodes = [
        helper.make_node("Mul", ["input", "big"], ["a"], name="grow"),
        helper.make_node("Mul", ["a", "small"], ["output"], name="shrink"),
        helper.make_node("Relu", ["output"], ["second"], name="reads the output"),
    ]
    model = graph(nodes, {"big": f32(1e6), "small": f32(1e-6)}, outputs=("output", "second"))
    agree(model, half(model))


def test_means_over_pixels_are_kept_with_squares_and_what_follows() -> None:
    nodes = [
        helper.make_node("ReduceMean", ["input", "axes"], ["mean"], name="mean"),
        helper.make_node("Sub", ["input", "mean"], ["centered"], name="center"),
        helper.make_node("Pow", ["centered", "two"], ["squares"], name="square"),
        helper.make_node("ReduceMean", ["squares", "axes"], ["variance"], name="variance"),
        helper.make_node("Sqrt", ["variance"], ["deviation"], name="root"),
        helper.make_node("Add", ["deviation", "mean"], ["sum"], name="add"),
        helper.make_node("Mul", ["input", "sum"], ["output"], name="scale"),
    ]
    model = graph(nodes, {"axes": np.array([2, 3]), "two": f32(2.0)})
    result = half(model)
    assert list(result.kept) == ["mean", "center", "square", "variance", "root", "add"]
    assert kinds(result).count("Cast") == 2
    agree(model, result)


def test_a_mean_over_channels_is_not_kept() -> None:
    nodes = [helper.make_node("ReduceMean", ["input", "axes"], ["output"])]
    assert half(graph(nodes, {"axes": np.array([1])})).kept == {}


def test_casts_in_the_graph_follow() -> None:
    nodes = [
        helper.make_node("Cast", ["input"], ["integer"], to=TensorProto.INT32),
        helper.make_node("Cast", ["integer"], ["back"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["back"], ["again"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["again", "input"], ["output"]),
    ]
    model = graph(nodes, {})
    result = half(model, 5 * X)
    agree(model, result, np.round(5 * X))


def test_constant_nodes_and_a_cast_scalar() -> None:
    """The form in which torch exports `x + 2` with an integer scalar, and on which other fp16 passes fail."""
    nodes = [
        helper.make_node("Constant", [], ["two"], value=numpy_helper.from_array(np.array(2, np.int64))),
        helper.make_node("Cast", ["two"], ["scalar"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["input", "scalar"], ["output"]),
    ]
    model = graph(nodes, {})
    agree(model, half(model), atol=4e-3)


def test_shape_arithmetic_and_scales_stay_fp32() -> None:
    nodes = [
        helper.make_node("Shape", ["input"], ["shape"]),
        helper.make_node("Cast", ["shape"], ["sizes"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["sizes", "sizes"], ["ones"]),
        helper.make_node("Mul", ["ones", "factors"], ["scales"]),
        helper.make_node("Resize", ["input", "", "scales"], ["output"], mode="linear"),
    ]
    model = graph(nodes, {"factors": f32(1, 1, 2, 2)})
    result = half(model, np.zeros((1, 3, 4, 70_000), np.float32))
    assert result.kept == {}
    assert kinds(result) == [node.op_type for node in nodes]
    agree(model, result)


def test_a_weight_read_in_both_precisions() -> None:
    nodes = [
        helper.make_node("Mul", ["input", "w"], ["a"], name="small"),
        helper.make_node("Mul", ["a", "big"], ["b"], name="large"),
        helper.make_node("Mul", ["b", "w"], ["c"], name="large too"),
        helper.make_node("Div", ["c", "big"], ["output"], name="back"),
    ]
    model = graph(nodes, {"w": f32(0.7), "big": f32(1e6)})
    result = half(model)
    assert "small" not in result.kept
    agree(model, result)


@pytest.mark.parametrize(("value", "why"), [(1e5, "weights up to"), (3e-7, "weights too small")])
def test_weights_that_fp16_cannot_hold_are_kept(value: float, why: str) -> None:
    kernel = np.random.default_rng(0).uniform(0.3, 1, (3, 3, 1, 1)).astype(np.float32) * value
    nodes = [
        helper.make_node("Mul", ["input", "inverse"], ["a"]),
        helper.make_node("Conv", ["a", "kernel"], ["output"], name="conv"),
    ]
    model = graph(nodes, {"kernel": kernel, "inverse": f32(1.0 if value < 1 else 1e-5)})
    assert why in half(model).kept["conv"]


def test_control_flow_is_refused() -> None:
    branch = helper.make_graph(
        [helper.make_node("Identity", ["input"], ["x"])], "b", [], [helper.make_tensor_value_info("x", TensorProto.FLOAT, None)]
    )
    nodes = [
        helper.make_node("Constant", [], ["yes"], value=numpy_helper.from_array(np.array(True))),
        helper.make_node("If", ["yes"], ["output"], then_branch=branch, else_branch=branch),
    ]
    with pytest.raises(ExportError, match="control flow"):
        to_fp16(graph(nodes, {}), {})


@pytest.mark.long
def test_a_traced_network(tiny: Tiny) -> None:
    model = trace(tiny, channels=3)
    probes = range_probes(3)
    result = to_fp16(model, measure_activations(model, probes))
    assert any(why == "mean over all pixels" for why in result.kept.values())
    for name in ("photo", "white", "checkerboard of 4"):
        agree(model, result, probes[name], atol=3e-3)


def test_infinite_activations_keep_everything_that_touches_them() -> None:
    nodes = [
        helper.make_node("Exp", ["input"], ["a"], name="explode"),
        helper.make_node("Clip", ["a", "", "one"], ["output"], name="clip"),
    ]
    assert list(half(graph(nodes, {"one": f32(1.0)}), 1000 * X).kept) == ["explode", "clip"]


def test_exponentials_stay_in_fp32_up_to_their_division() -> None:
    """The mean of what the exponentials of -20 and less weigh: all of them are zero in fp16."""
    window = {"kernel_shape": [3, 3], "strides": [1, 1], "pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Sub", ["input", "far"], ["low"], name="low"),
        helper.make_node("Exp", ["low"], ["weights"], name="exp"),
        helper.make_node("Mul", ["weights", "low"], ["weighted"], name="weigh"),
        helper.make_node("AveragePool", ["weighted"], ["above"], name="above", **window),
        helper.make_node("AveragePool", ["weights"], ["below"], name="below", **window),
        helper.make_node("Div", ["above", "below"], ["mean"], name="divide"),
        helper.make_node("Add", ["mean", "far"], ["output"], name="back"),
    ]
    model = graph(nodes, {"far": f32(20.0)})
    result = half(model)
    assert set(result.kept) == {"exp", "weigh", "above", "below", "divide"}
    agree(model, result, atol=0.03)
