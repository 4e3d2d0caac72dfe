from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from sr_deploy.architectures import load_checkpoint
from sr_deploy.bundle import Bundle
from sr_deploy.errors import ExportError
from sr_deploy.export import export_bundle
from sr_deploy.export.program import check_program

ECBSR = "ECBSR_M4C16_x2.pth"
BundleOf = Callable[[str], Bundle]
X = np.random.default_rng(5).random((1, 3, 24, 31), dtype=np.float32)


def output_of(bundle: Bundle) -> np.ndarray:
    session = onnxruntime.InferenceSession(bundle.graph("fp32"), providers=["CPUExecutionProvider"])
    return session.run(None, {"input": X})[0]


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
    with pytest.raises(ExportError, match=r"can run code when it is loaded.*--trust"):
        export_bundle(tmp_path / "theirs.pt2", tmp_path / "net")
    bundle = export_bundle(tmp_path / "theirs.pt2", tmp_path / "net", trust=True)
    assert (bundle.card.scale, bundle.card.value_range) == (2, 255)
    np.testing.assert_allclose(output_of(bundle), output_of(bundle_of(ECBSR)), atol=1e-5)


def test_no_torch_program(tmp_path: Path) -> None:
    (tmp_path / "broken.pt2").write_bytes(b"nothing")
    with pytest.raises(ExportError, match=r"not a torch\.export program"):
        export_bundle(tmp_path / "broken.pt2", tmp_path / "net", trust=True)


@pytest.mark.parametrize("trust", [False, True])
def test_a_program_with_code_in_it_is_never_loaded(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trust: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ExportError, match=r"would call posix\.system.*trusted or not"):
        export_bundle(shared / "faults" / "evil.pt2", tmp_path / "net", trust=trust)
    assert list(tmp_path.iterdir()) == []


class _Payload:
    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("made_by_pickle",)


def _with_class() -> bytes:
    buffer = io.BytesIO()
    torch.save({"x": _Payload()}, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("member", "data"),
    [
        ("ok/data/sample_inputs/model.pt", pickle.dumps(_Payload(), protocol=0)),
        ("ok/data/sample_inputs/model.pt", _with_class()),
        ("ok/serialized_example_inputs.pt", _with_class()),
        ("ok/data/constants/custom_obj_0", pickle.dumps(_Payload())),
        ("ok/data/constants/opaque_obj_0", pickle.dumps(_Payload())),
        ("ok/data/weights/weight_0", _with_class()),
    ],
)
def test_pickles_are_looked_at_wherever_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, member: str, data: bytes
) -> None:
    monkeypatch.chdir(tmp_path)
    config = '{"config": {"a": {"path_name": "weight_0", "use_pickle": true}}}'
    with zipfile.ZipFile("a.pt2", "w") as archive:
        archive.writestr("ok/archive_format", "pt2")
        archive.writestr("ok/data/weights/model_weights_config.json", config)
        archive.writestr(member, data)
    with pytest.raises(ExportError, match=f"its {member} (would call|holds something other)"):
        check_program(Path("a.pt2"))
    assert not Path("made_by_pickle").exists()
