from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from sr_deploy.engines import available_backends, open_engine
from sr_deploy.engines.pixels import HEALTH, INPUT, OUTPUT, to_pixel_form, with_health
from sr_deploy.errors import EngineError
from tests.graphs import image_graph

PICTURE = np.random.default_rng(3).integers(0, 256, (2, 7, 10, 3), dtype=np.uint8)


def reference(model: onnx.ModelProto, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels and health: the portable graph by ONNX's own evaluator, quantized and averaged by numpy."""
    x = pixels.transpose(0, 3, 1, 2).astype(np.float32) / 255
    unclamped, clamped = ReferenceEvaluator(model).run(["shuffled", "output"], {"input": x})
    quantized = np.round(clamped.astype(np.float64) * 255).astype(np.uint8).transpose(0, 2, 3, 1)
    return quantized, np.abs(unclamped).mean(axis=(1, 2, 3))


@pytest.mark.parametrize("cast_last", [False, True])
@pytest.mark.parametrize("backend", sorted(available_backends()))
@pytest.mark.parametrize("scale", [1, 2, 3])
def test_the_pixel_form_is_the_portable_graph_in_bytes(scale: int, backend: str, cast_last: bool) -> None:
    model = image_graph(scale=scale)
    form = to_pixel_form(model, cast_last=cast_last)
    onnx.checker.check_model(form, full_check=True)
    with open_engine(form, backend=backend) as engine:
        results = engine.run({INPUT: PICTURE})
    assert results[OUTPUT].dtype == np.uint8
    pixels, health = reference(model, PICTURE)
    difference = np.abs(results[OUTPUT].astype(int) - pixels)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-3
    np.testing.assert_allclose(results[HEALTH], health, atol=1 / 255)


def test_cast_is_first_and_last_where_tensorrt_needs_it() -> None:
    form = to_pixel_form(image_graph(), cast_last=True)
    first = next(node for node in form.graph.node if INPUT in node.input)
    last = next(node for node in form.graph.node if OUTPUT in node.output)
    assert (first.op_type, last.op_type) == ("Cast", "Cast")


def test_the_graph_handed_in_is_left_alone() -> None:
    model = image_graph()
    before = model.SerializeToString()
    to_pixel_form(model)
    with_health(model)
    assert model.SerializeToString() == before


@pytest.mark.parametrize("backend", sorted(available_backends()))
@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("form", ["pixels", "float"])
def test_one_bad_value_anywhere_makes_the_health_of_its_image_non_finite(form: str, poison: float, backend: str) -> None:
    """The poison sits in a bias, so that it reaches one of twelve channels everywhere, before the clamp hides it."""
    model = image_graph(scale=2)
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == "last.bias")
    values = onnx.numpy_helper.to_array(bias).copy()
    values[5] = poison
    bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
    graph = to_pixel_form(model) if form == "pixels" else with_health(model)
    feed = PICTURE if form == "pixels" else PICTURE.transpose(0, 3, 1, 2).astype(np.float32) / 255
    with open_engine(graph, backend=backend) as engine:
        health = engine.run({engine.inputs[0].name: np.ascontiguousarray(feed)})[HEALTH]
    assert not np.isfinite(health).any()


def test_fp16_graphs_have_a_pixel_form_too() -> None:
    form = to_pixel_form(image_graph(float_type=TensorProto.FLOAT16))
    onnx.checker.check_model(form, full_check=True)
    with open_engine(form, backend="onnxruntime", precision="fp16") as engine:
        results = engine.run({INPUT: PICTURE})
    assert np.abs(results[OUTPUT].astype(int) - reference(image_graph(), PICTURE)[0]).max() <= 1
    assert results[HEALTH].dtype == np.float32


def test_a_graph_without_clamp_or_shuffle_at_its_end_still_has_a_pixel_form() -> None:
    model = image_graph()
    del model.graph.node[-2:]
    model.graph.node[-1].output[0] = "output"
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", 12, "height", "width"]))
    with open_engine(with_health(model)) as engine:
        assert np.isfinite(engine.run({"input": PICTURE.transpose(0, 3, 1, 2).astype(np.float32) / 255})[HEALTH]).all()


def test_a_graph_with_two_outputs_is_refused() -> None:
    model = image_graph()
    model.graph.output.append(helper.make_tensor_value_info("shuffled", TensorProto.FLOAT, [None, 3, None, None]))
    with pytest.raises(EngineError, match="1 inputs and 2 outputs"):
        to_pixel_form(model)


@pytest.mark.parametrize("backend", sorted(available_backends()))
def test_graphs_of_older_opsets_have_both_forms(backend: str) -> None:
    model = image_graph(opset=17)
    with open_engine(to_pixel_form(model), backend=backend) as engine:
        results = engine.run({INPUT: PICTURE})
    assert results[HEALTH].shape == (2,)
    assert np.abs(results[OUTPUT].astype(int) - reference(model, PICTURE)[0]).max() <= 1
    with open_engine(with_health(model), backend=backend) as engine:
        assert engine.run({"input": PICTURE.transpose(0, 3, 1, 2).astype(np.float32) / 255})[HEALTH].shape == (2,)


def test_a_split_head_is_the_same_function_to_sixteen_bits_and_exact_in_bf16_terms() -> None:
    model = image_graph(noise=0.3)
    form = to_pixel_form(model, split_head=True)
    onnx.checker.check_model(form, full_check=True)
    with open_engine(form, backend="onnxruntime") as engine:
        assert np.abs(engine.run({INPUT: PICTURE})[OUTPUT].astype(int) - reference(model, PICTURE)[0]).max() <= 1
    split = next(tensor for tensor in form.graph.initializer if tensor.name.endswith(".split"))
    weights = onnx.numpy_helper.to_array(split)
    assert weights.shape == (3, 6, 3, 3)
    assert not (weights.view(np.uint32) & 0xFFFF).any()


@pytest.mark.skipif("bf16" not in available_backends().get("openvino", ()), reason="this CPU has no bf16")
@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (7, 10)])
def test_bf16_is_near_the_graph_on_one_pixel_too(shape: tuple[int, int]) -> None:
    model = image_graph(channels=1, scale=4, depth=4)
    pixels = PICTURE[:, : shape[0], : shape[1], :1].copy()
    with open_engine(to_pixel_form(model, split_head=True), backend="openvino", precision="bf16") as engine:
        assert np.abs(engine.run({INPUT: pixels})[OUTPUT].astype(int) - reference(model, pixels)[0]).max() <= 3
