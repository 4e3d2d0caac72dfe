from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

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


@pytest.mark.filterwarnings("ignore:.*bicubic has")
def test_what_spandrel_knows(shared: Path, tmp_path: Path) -> None:
    bundle = export_bundle(shared / "checkpoints" / COMPACT, tmp_path / "net")
    assert (bundle.card.architecture, bundle.card.scale) == ("Compact", 2)
    assert all(link.passed for link in bundle.certificate if "bf16" not in link.target)


def test_what_it_does_not_know_either(shared: Path) -> None:
    with pytest.raises(UnknownArchitectureError, match=r"none of ours\. spandrel .* does not know it either"):
        find(shared / "faults" / "unknown.pth", unknown=UnknownArchitectureError("none of ours"))


def test_a_module_that_takes_its_process_down_is_one_line(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    died = [sys.executable, "-c", f"import os; os.kill(os.getpid(), {int(signal.SIGSEGV)})"]
    run = subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda _, **options: run(died, **options))
    with pytest.raises(ExportError, match=r"spandrel's Compact cannot be traced: it crashed .*SIGSEGV.*use the \.onnx file"):
        export_bundle(shared / "checkpoints" / COMPACT, tmp_path / "net")
    assert not list(tmp_path.iterdir())
