from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sr_deploy.architectures import ecbsr
from sr_deploy.errors import ExportError
from sr_deploy.export.trace import OPSET, trace


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"input": x})[0]


@pytest.fixture(scope="module")
def traced() -> tuple[nn.Module, onnx.ModelProto]:
    from tests.export.conftest import Tiny

    network = Tiny().eval()
    return network, trace(network, channels=3)


@pytest.mark.parametrize("shape", [(1, 3, 8, 8), (2, 3, 37, 53), (1, 3, 1, 7), (3, 3, 64, 40), (1, 3, 301, 199)])
def test_the_graph_equals_torch_at_any_size(traced: tuple[nn.Module, onnx.ModelProto], shape: tuple[int, ...]) -> None:
    network, model = traced
    x = np.random.default_rng(1).random(shape, dtype=np.float32)
    with torch.inference_mode():
        expected = network(torch.from_numpy(x)).clamp(0, 1).numpy()
    np.testing.assert_allclose(run(model, x), expected, atol=2e-6)


def test_the_graph_is_clean(traced: tuple[nn.Module, onnx.ModelProto]) -> None:
    _, model = traced
    onnx.checker.check_model(model, full_check=True)
    contents = model.SerializeToString()
    for leftover in (b".py", b"pkg.torch", str(Path.cwd()).encode()):
        assert leftover not in contents
    assert not model.metadata_props
    assert not any(item.metadata_props or item.doc_string for item in (*model.graph.node, *model.graph.initializer))
    assert not model.graph.value_info
    assert model.opset_import[0].version == OPSET


def test_ports_and_names(traced: tuple[nn.Module, onnx.ModelProto]) -> None:
    _, model = traced
    (source,), (target,) = model.graph.input, model.graph.output
    assert (source.name, target.name) == ("input", "output")
    dims = [dim.dim_param or dim.dim_value for dim in source.type.tensor_type.shape.dim]
    assert dims == ["batch", 3, "height", "width"]
    assert model.graph.node[-1].op_type == "Clip"
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)
    assert {"head/Conv", "down/Conv", "tail/Conv"} <= set(names)
    assert {"head.weight", "tail.bias"} <= {tensor.name for tensor in model.graph.initializer}


def test_tracing_twice_gives_the_same_bytes(traced: tuple[nn.Module, onnx.ModelProto]) -> None:
    network, model = traced
    assert trace(network, channels=3).SerializeToString() == model.SerializeToString()


class Branching(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2 if float(x.mean()) > 0.5 else x


def test_a_branch_on_pixels_is_explained() -> None:
    with pytest.raises(ExportError, match="dynamic height and width"):
        trace(Branching(), channels=3)


class FixedSize(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.zeros(1, 3, 64, 96))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.position


def test_a_network_of_one_size_is_refused() -> None:
    with pytest.raises(ExportError, match="must take any image size"):
        trace(FixedSize(), channels=3)


def test_tracing_is_silent(tiny: nn.Module, capfd: pytest.CaptureFixture[str]) -> None:
    trace(tiny, channels=3)
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_ecbsr_adds_its_input_before_the_shuffle(scale: int) -> None:
    network = ecbsr.ECBSR(ecbsr.ECBSRConfig(scale=scale, colors=3, channels=8, blocks=1)).eval()
    model = trace(network, channels=3)
    assert [node.op_type for node in model.graph.node][-3:] == ["Add", "DepthToSpace", "Clip"]
    x = torch.rand(1, 3, 9, 7)
    with torch.inference_mode():
        expected = network.shuffle(network.backbone(x)) + F.interpolate(x, scale_factor=scale, mode="nearest")
    np.testing.assert_allclose(run(model, x.numpy()), expected.clamp(0, 1), atol=2e-6)
