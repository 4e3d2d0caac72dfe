from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from sr_deploy import architectures
from sr_deploy.architectures import REGISTRY, load_checkpoint
from sr_deploy.errors import ExportError, MissingDependencyError, UnknownArchitectureError
from sr_deploy.export import export_bundle
from sr_deploy.export.spandrel import SPANDREL_INSTALL, find, import_spandrel

COMPACT = "sudo_UltraCompact_2x_1.121.175_G.pth"


@pytest.fixture(autouse=True)
def _with_spandrel() -> None:
    try:
        import_spandrel()
    except MissingDependencyError as exc:
        assert SPANDREL_INSTALL in str(exc)
        pytest.skip("spandrel is not installed")


def forget_compact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(architectures, "REGISTRY", tuple(entry for entry in REGISTRY if entry.name != "compact"))


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:.*bicubic has")
def test_what_spandrel_knows(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = shared / "checkpoints" / COMPACT
    ours = load_checkpoint(checkpoint)
    forget_compact(monkeypatch)
    bundle = export_bundle(checkpoint, tmp_path / "net")
    assert (bundle.card.architecture, bundle.card.scale) == ("Compact", 2)
    assert all(link.passed for link in bundle.certificate if "bf16" not in link.target)
    picture = torch.rand(1, 3, 24, 31, generator=torch.Generator().manual_seed(5))
    with torch.inference_mode():
        expected = ours.network(ours.readings[0])(picture).clamp(0, 1)
    session = onnxruntime.InferenceSession(bundle.graph("fp32"), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"input": picture.numpy()})[0], expected, atol=1e-5)


def test_what_it_does_not_know_either(shared: Path) -> None:
    with pytest.raises(UnknownArchitectureError, match=r"none of ours\. spandrel .* does not know it either"):
        find(shared / "faults" / "unknown.pth", unknown=UnknownArchitectureError("none of ours"))


def test_a_module_that_takes_its_process_down_is_one_line(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget_compact(monkeypatch)
    died = [sys.executable, "-c", f"import os; os.kill(os.getpid(), {int(signal.SIGSEGV)})"]
    run = subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda _, **options: run(died, **options))
    with pytest.raises(ExportError, match=r"spandrel's Compact cannot be traced: it crashed .*SIGSEGV.*use the \.onnx file"):
        export_bundle(shared / "checkpoints" / COMPACT, tmp_path / "net")
    assert not list(tmp_path.iterdir())
