from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from sr_deploy.engines import available_backends, open_engine
from sr_deploy.engines.pixels import (
    FEATURES,
    HEALTH,
    INPUT,
    OUTPUT,
    PATCHES,
    SCORES,
    load_float_form,
    load_pixel_form,
    to_pixel_form,
    to_refine_form,
    with_health,
)
from sr_deploy.errors import EngineError
from tests.graphs import image_graph, masked_bundle, masked_graphs

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


LARGE = np.random.default_rng(5).integers(0, 256, (2, 8, 12, 3), dtype=np.uint8)
CUT = np.random.default_rng(6).random((5, 3, 6, 6), dtype=np.float32)


@pytest.mark.parametrize("cast_last", [False, True])
@pytest.mark.parametrize("backend", sorted(available_backends()))
def test_the_base_gives_bytes_beside_its_features_and_scores(backend: str, cast_last: bool) -> None:
    model, _ = masked_graphs()
    form = to_pixel_form(model, cast_last=cast_last)
    onnx.checker.check_model(form, full_check=True)
    assert [value.name for value in form.graph.output] == [OUTPUT, FEATURES, SCORES, HEALTH]
    with open_engine(form, backend=backend) as engine:
        results = engine.run({INPUT: LARGE})
    x = LARGE.transpose(0, 3, 1, 2).astype(np.float32) / 255
    unclamped, coarse, features, scores = ReferenceEvaluator(model).run(
        ["shuffled", "coarse", "features", "scores"], {"input": x}
    )
    assert results[OUTPUT].dtype == np.uint8
    assert np.abs(results[OUTPUT] - np.round(coarse.transpose(0, 2, 3, 1) * 255)).max() <= 1
    np.testing.assert_allclose(results[FEATURES], features, atol=1e-5)
    np.testing.assert_allclose(results[SCORES], scores, atol=1e-5)
    np.testing.assert_allclose(results[HEALTH], np.abs(unclamped).mean(axis=(1, 2, 3)), atol=1 / 255)


@pytest.mark.parametrize("cast_last", [False, True])
@pytest.mark.parametrize("backend", sorted(available_backends()))
def test_the_refine_network_takes_patches_and_gives_bytes(backend: str, cast_last: bool) -> None:
    _, model = masked_graphs(scale=4)
    form = to_refine_form(model, cast_last=cast_last)
    onnx.checker.check_model(form, full_check=True)
    with open_engine(form, backend=backend) as engine:
        results = engine.run({PATCHES: CUT})
    unclamped, pixels = ReferenceEvaluator(model).run(["shuffled", "pixels"], {"patches": CUT})
    assert (results[OUTPUT].shape, results[OUTPUT].dtype) == ((5, 16, 16, 3), np.uint8)
    assert np.abs(results[OUTPUT] - np.round(pixels.transpose(0, 2, 3, 1) * 255)).max() <= 1
    np.testing.assert_allclose(results[HEALTH], np.abs(unclamped).mean(axis=(1, 2, 3)), atol=1 / 255)


@pytest.mark.parametrize("backend", sorted(available_backends()))
@pytest.mark.parametrize("arithmetic", ["fp32", "fp16"])
def test_scores_are_float32_and_features_go_on_as_they_are(backend: str, arithmetic: str, tmp_path: Path) -> None:
    bundle = masked_bundle(tmp_path)
    for load in (load_pixel_form, load_float_form):
        with (
            open_engine(load(bundle, arithmetic, "base"), backend=backend, precision=arithmetic) as base,
            open_engine(load(bundle, arithmetic, "refine"), backend=backend, precision=arithmetic) as refine,
        ):
            dtype = np.float32 if arithmetic == "fp32" else np.float16
            (source,) = base.inputs
            image = LARGE if source.name == INPUT else LARGE.transpose(0, 3, 1, 2).astype(dtype) / dtype(255)
            results = base.run({source.name: np.ascontiguousarray(image)})
            assert (results[SCORES].dtype, results[FEATURES].dtype) == (np.float32, dtype)
            patches = np.ascontiguousarray(results[FEATURES][:, :, 1:7, 2:8])
            assert np.isfinite(refine.run({PATCHES: patches})[HEALTH]).all()


@pytest.mark.skipif("bf16" not in available_backends().get("openvino", ()), reason="this CPU has no bf16")
def test_both_graphs_run_in_bf16(tmp_path: Path) -> None:
    bundle = masked_bundle(tmp_path)
    with open_engine(load_pixel_form(bundle, "bf16", "base"), backend="openvino", precision="bf16") as engine:
        found = engine.run({INPUT: LARGE})
    with open_engine(load_pixel_form(bundle, "fp32", "base"), backend="openvino") as engine:
        expected = engine.run({INPUT: LARGE})
    assert np.abs(found[OUTPUT].astype(int) - expected[OUTPUT]).max() <= 3
    with open_engine(load_pixel_form(bundle, "bf16", "refine"), backend="openvino", precision="bf16") as engine:
        assert engine.run({PATCHES: CUT})[OUTPUT].shape == (5, 8, 8, 3)


@pytest.mark.parametrize("backend", sorted(available_backends()))
def test_a_bad_patch_makes_its_own_health_non_finite(backend: str) -> None:
    _, model = masked_graphs()
    patches = CUT.copy()
    patches[3, 1, 2, 2] = np.nan
    with open_engine(to_refine_form(model), backend=backend) as engine:
        health = engine.run({PATCHES: patches})[HEALTH]
    assert np.isfinite(health).tolist() == [True, True, True, False, True]
