"""The planes form against ONNX's evaluator, and what ONNX Runtime makes of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from sr_deploy.engines import available_backends, open_engine
from sr_deploy.engines.pixels import to_pixel_form
from sr_deploy.engines.planes import LEVELS, PLANES, to_planes_form
from sr_deploy.errors import EngineError
from tests.graphs import image_graph, masked_graphs

PICTURE = np.random.default_rng(3).integers(0, 256, (2, 7, 10, 3), dtype=np.uint8)


@pytest.mark.parametrize("backend", sorted(available_backends()))
@pytest.mark.parametrize("scale", [1, 2, 3])
def test_the_planes_form_is_the_portable_graph_before_shuffle_and_clamp(scale: int, backend: str) -> None:
    model = image_graph(scale=scale)
    form = to_planes_form(model)
    onnx.checker.check_model(form, full_check=True)
    x = PICTURE.transpose(0, 3, 1, 2).astype(np.float32) / 255
    (expected,) = ReferenceEvaluator(model).run(["last"], {"input": x})
    with open_engine(form, backend=backend) as engine:
        (spec,) = engine.outputs
        assert (spec.name, spec.shape[1]) == (LEVELS, 3 * scale**2)
        np.testing.assert_allclose(engine.run({"input": x})[LEVELS], 255 * expected, atol=1e-3)


@pytest.mark.parametrize("float_type", [TensorProto.FLOAT, TensorProto.FLOAT16])
def test_planes_of_a_graph_that_does_not_end_in_a_convolution_are_not_multiplied(float_type: int) -> None:
    model = image_graph(scale=1, pooled=True, float_type=float_type)
    graph = model.graph
    del graph.node[-2:]
    graph.node.append(helper.make_node("Sigmoid", ["last"], ["output"]))
    form = to_planes_form(model)
    onnx.checker.check_model(form, full_check=True)
    x = PICTURE.transpose(0, 3, 1, 2).astype(helper.tensor_dtype_to_np_dtype(float_type)) / 255
    (expected,) = ReferenceEvaluator(model).run(["output"], {"input": x})
    with open_engine(form, backend="onnxruntime", precision="fp16" if float_type == TensorProto.FLOAT16 else "fp32") as engine:
        np.testing.assert_allclose(engine.run({"input": x})[PLANES], expected, atol=2e-3)


def test_onnxruntime_multiplies_the_last_weights_by_255_and_adds_no_node(tmp_path: Path) -> None:
    """What makes levels free, and their bytes those of the pixel form."""
    onnxruntime = pytest.importorskip("onnxruntime")
    kinds = {}
    for name, form in (("planes", to_planes_form(image_graph())), ("pixels", to_pixel_form(image_graph()))):
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(tmp_path / name)
        onnxruntime.InferenceSession(form.SerializeToString(), options, providers=["CPUExecutionProvider"])
        kinds[name] = [node.op_type for node in onnx.load(tmp_path / name).graph.node]
    assert kinds["planes"] == ["Conv"] * 3
    assert kinds["pixels"][:7] == ["Cast", "Transpose", "Mul", *["Conv"] * 3, "Round"]


def test_a_mask_guided_network_has_no_planes_form() -> None:
    with pytest.raises(EngineError, match="use its pixel form"):
        to_planes_form(masked_graphs()[0])
