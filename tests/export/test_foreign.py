from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from sr_deploy.bundle import Bundle
from sr_deploy.errors import ExportError
from sr_deploy.export import export_bundle
from tests.graphs import image_graph

ECBSR = "ECBSR_M4C16_x2.pth"
BundleOf = Callable[[str], Bundle]
X = np.random.default_rng(5).random((1, 3, 24, 31), dtype=np.float32)


def output_of(bundle: Bundle) -> np.ndarray:
    session = onnxruntime.InferenceSession(bundle.graph("fp32"), providers=["CPUExecutionProvider"])
    return session.run(None, {"input": X})[0]


def test_an_onnx_graph_of_other_names_without_clamp(bundle_of: BundleOf, tmp_path: Path) -> None:
    ours = bundle_of(ECBSR)
    model = onnx.load(ours.graph("fp32"))
    del model.metadata_props[:]
    clip = model.graph.node[-1]
    for node in model.graph.node:
        node.input[:] = ["lr" if name == "input" else name for name in node.input]
    model.graph.input[0].name, model.graph.output[0].name = "lr", clip.input[0]
    model.graph.node.remove(clip)
    onnx.save(model, tmp_path / "theirs.onnx")
    bundle = export_bundle(tmp_path / "theirs.onnx", tmp_path / "net")
    assert (bundle.card.architecture, bundle.card.scale, bundle.card.value_range) == ("ONNX graph", 2, 1)
    assert bundle.card.tiling == "exact"
    np.testing.assert_allclose(output_of(bundle), output_of(ours), atol=1e-6)


def _gives(model: onnx.ModelProto, sizes: list[int | str], kind: int = TensorProto.FLOAT) -> onnx.ModelProto:
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("input", kind, sizes))
    return model


def _of_64_pixels() -> onnx.ModelProto:
    model = _gives(image_graph(), [1, 3, 64, 64])
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 3, 64, 64], np.int64), "shape"))
    model.graph.node[0].input[0] = "shaped"
    model.graph.node.insert(0, helper.make_node("Reshape", ["input", "shape"], ["shaped"]))
    return model


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (_of_64_pixels(), "takes 64x64 pixels only; export it again with dynamic height and width"),
        (_gives(image_graph(), ["n", 4, "h", "w"]), "takes 4 channels; expected 3"),
        (image_graph(float_type=TensorProto.FLOAT16), "start from the fp32 export"),
    ],
)
def test_other_onnx_graphs_are_refused(tmp_path: Path, model: onnx.ModelProto, words: str) -> None:
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(ExportError, match=words):
        export_bundle(tmp_path / "other.onnx", tmp_path / "net")


def test_no_onnx_at_all(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"nothing")
    with pytest.raises(ExportError, match="not readable as ONNX"):
        export_bundle(tmp_path / "broken.onnx", tmp_path / "net")


@pytest.mark.filterwarnings("ignore:.*bicubic has")
def test_interleaved_ports_become_our_own(shared: Path, tmp_path: Path) -> None:
    bundle = export_bundle(shared / "faults" / "on_nhwc.onnx", tmp_path / "net")
    assert (bundle.card.scale, bundle.card.channels, bundle.card.value_range) == (2, 3, 1.0)
    np.testing.assert_allclose(output_of(bundle), X.repeat(2, 2).repeat(2, 3), atol=1e-6)
