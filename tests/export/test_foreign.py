from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from sr_deploy.bundle import Bundle
from sr_deploy.errors import ExportError
from sr_deploy.export import export_bundle

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


def image_graph(
    *, channels: int = 3, outputs: int = 3, height: int | str = "h", kind: int = TensorProto.FLOAT
) -> onnx.ModelProto:
    source = helper.make_tensor_value_info("x", kind, ["n", channels, height, "w"])
    target = helper.make_tensor_value_info("y", kind, ["n", outputs, "h2", "w2"])
    return helper.make_model(
        helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [source], [target]),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (image_graph(height=64), "pixels only; export it again with dynamic height and width"),
        (image_graph(channels=4, outputs=4), "expected RGB"),
        (image_graph(kind=TensorProto.FLOAT16), "start from the fp32 export"),
    ],
)
def test_other_onnx_graphs_are_refused(tmp_path: Path, model: onnx.ModelProto, words: str) -> None:
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(ExportError, match=words):
        export_bundle(tmp_path / "other.onnx", tmp_path / "net")


def test_no_onnx_at_all(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"nothing")
    with pytest.raises(ExportError, match="not a valid ONNX graph"):
        export_bundle(tmp_path / "broken.onnx", tmp_path / "net")
