from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

import sr_deploy.export
from sr_deploy.bundle import Bundle
from sr_deploy.errors import CertificationError

Invoke = Callable[..., Result]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, bundle: Path) -> list[dict[str, Any]]:
    """What `export` is called with; it gives the bundle of the tests."""
    calls: list[dict[str, Any]] = []

    def export(checkpoint: Path, output: Path | None = None, *, progress: Callable[[str], None], **options: Any) -> Bundle:
        calls.append({"checkpoint": checkpoint, "output": output, **options})
        progress("reading")
        if checkpoint.name == "odd.pth":
            warnings.warn("odd.pth: worse than bicubic", UserWarning, stacklevel=1)
        if checkpoint.name == "bad.pth":
            raise CertificationError("bad.pth: fp32.onnx is 3 LSB away, expected 0.5")
        return Bundle.open(bundle)

    monkeypatch.setattr(sr_deploy.export, "export_bundle", export)
    return calls


def test_the_folder_on_stdout_and_progress_on_stderr(invoke: Invoke, calls: list[dict[str, Any]], bundle: Path) -> None:
    result = invoke("export", "net.pth")
    assert (result.exit_code, result.stdout, result.stderr) == (0, f"{bundle}\n", "reading\n")
    assert calls[0] == {
        "checkpoint": Path("net.pth"),
        "output": None,
        "name": None,
        "recipe": None,
        "value_range": None,
        "variant": {},
        "architecture": None,
        "dense_bsconv": False,
        "merge_parallel": False,
        "anyway": False,
        "trust": False,
        "overwrite": False,
        "int8": None,
        "calibration": None,
        "tune": 0.0,
    }
    assert json.loads(invoke("export", "net.pth", "--json").stdout)["card"]["name"] == "double"


@pytest.mark.usefixtures("calls")
def test_a_warning_is_one_line(invoke: Invoke) -> None:
    result = invoke("export", "odd.pth")
    assert (result.exit_code, result.stderr) == (0, "reading\nwarning: odd.pth: worse than bicubic\n")


def test_options(invoke: Invoke, calls: list[dict[str, Any]]) -> None:
    flags = ["--dense-bsconv", "--merge-parallel", "--anyway", "--trust", "--overwrite"]
    named = ["-o", "out", "--name", "mine", "--recipe", "a.toml", "--value-range", "255", "--architecture", "rfdn"]
    variants = ["--variant", "identity=true", "--variant", "blocks=4", "--variant", "form=plain", "--variant", "gain=0.5"]
    assert invoke("export", "net.pth", *flags, *named, *variants).exit_code == 0
    assert calls[0] == {
        "checkpoint": Path("net.pth"),
        "output": Path("out"),
        "name": "mine",
        "recipe": Path("a.toml"),
        "value_range": 255.0,
        "variant": {"identity": True, "blocks": 4, "form": "plain", "gain": 0.5},
        "architecture": "rfdn",
        "dense_bsconv": True,
        "merge_parallel": True,
        "anyway": True,
        "trust": True,
        "overwrite": True,
        "int8": None,
        "calibration": None,
        "tune": 0.0,
    }


def test_errors(invoke: Invoke, calls: list[dict[str, Any]]) -> None:
    result = invoke("export", "bad.pth")
    assert (result.exit_code, result.stderr.splitlines()[-1]) == (1, "error: bad.pth: fp32.onnx is 3 LSB away, expected 0.5")
    for arguments in (["--value-range", "7"], ["--variant", "identity"], ["--variant", "=true"]):
        assert invoke("export", "net.pth", *arguments).exit_code == 2
    assert len(calls) == 1
