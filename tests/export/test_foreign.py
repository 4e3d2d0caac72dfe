from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from sr_deploy import architectures
from sr_deploy.architectures import REGISTRY, load_checkpoint
from sr_deploy.bundle import Bundle
from sr_deploy.errors import ExportError, MissingDependencyError
from sr_deploy.export import export_bundle
from sr_deploy.export.foreign import SPANDREL_INSTALL, import_spandrel

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


class Scaled(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.network(x / 255) * 255
        return output


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_a_torch_program_of_range_255(shared: Path, bundle_of: BundleOf, tmp_path: Path) -> None:
    loaded = load_checkpoint(shared / "checkpoints" / ECBSR)
    network = Scaled(loaded.network(loaded.readings[0])).eval()
    dynamic = torch.export.Dim.DYNAMIC
    program = torch.export.export(network, (torch.rand(2, 3, 48, 64),), dynamic_shapes=({0: dynamic, 2: dynamic, 3: dynamic},))
    torch.export.save(program, tmp_path / "theirs.pt2")
    bundle = export_bundle(tmp_path / "theirs.pt2", tmp_path / "net")
    assert (bundle.card.scale, bundle.card.value_range) == (2, 255)
    np.testing.assert_allclose(output_of(bundle), output_of(bundle_of(ECBSR)), atol=1e-5)


def test_no_torch_program(tmp_path: Path) -> None:
    (tmp_path / "broken.pt2").write_bytes(b"nothing")
    with pytest.raises(ExportError, match=r"not a torch\.export program"):
        export_bundle(tmp_path / "broken.pt2", tmp_path / "net")


@pytest.mark.filterwarnings("ignore:.*bicubic has")
def test_what_spandrel_knows(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        import_spandrel()
    except MissingDependencyError as exc:
        assert SPANDREL_INSTALL in str(exc)
        pytest.skip("spandrel is not installed")
    checkpoint = shared / "checkpoints" / "sudo_UltraCompact_2x_1.121.175_G.pth"
    ours = load_checkpoint(checkpoint)
    monkeypatch.setattr(architectures, "REGISTRY", tuple(entry for entry in REGISTRY if entry.name != "compact"))
    bundle = export_bundle(checkpoint, tmp_path / "net")
    assert (bundle.card.architecture, bundle.card.scale) == ("Compact", 2)
    assert all(link.passed for link in bundle.certificate if "bf16" not in link.target)
    with torch.inference_mode():
        expected = ours.network(ours.readings[0])(torch.from_numpy(X)).clamp(0, 1)
    np.testing.assert_allclose(output_of(bundle), expected, atol=1e-5)
