from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from click.testing import Result
from onnx import helper

from tests.graphs import masked_bundle

Invoke = Callable[..., Result]


def test_a_bundle(invoke: Invoke, bundle: Path) -> None:
    result = invoke("inspect", bundle)
    assert result.exit_code == 0, result.stderr
    facts = dict(line.split(None, 1) for line in result.stdout.splitlines() if len(line.split(None, 1)) == 2)
    assert (facts["name"], facts["scale"], facts["tiling"]) == ("double", "2", "exact")
    assert "fp32.onnx" in result.stdout and "equal" in result.stdout and "max <= 0.5 LSB" in result.stdout
    document = json.loads(invoke("inspect", bundle, "--json").stdout)
    assert document["kind"] == "bundle"
    assert document["card"]["name"] == "double"
    assert document["certificate"][0]["psnr"] == 999.0


def test_a_mask_guided_bundle(invoke: Invoke, tmp_path: Path) -> None:
    bundle = masked_bundle(tmp_path)
    result = invoke("inspect", tmp_path)
    assert result.exit_code == 0, result.stderr
    facts = dict(line.split(None, 1) for line in result.stdout.splitlines() if len(line.split(None, 1)) == 2)
    assert facts["name"] == "masked"
    assert "refine features" in result.stdout and "refine patch" in result.stdout
    for key, graph in bundle.graphs.items():
        assert key in facts
        assert graph.file in result.stdout
    document = json.loads(invoke("inspect", tmp_path, "--json").stdout)
    assert document["card"]["masked"]["patch"] == 4
    assert set(document["graphs"]) == {"base-fp32", "refine-fp32", "base-fp16", "refine-fp16"}


def test_a_graph(invoke: Invoke, bundle: Path) -> None:
    result = invoke("inspect", bundle / "fp32.onnx")
    assert result.exit_code == 0, result.stderr
    assert "input float[n, 3, h, w]" in result.stdout
    document = json.loads(invoke("inspect", bundle / "fp32.onnx", "--json").stdout)
    assert (document["kind"], document["scale"], document["channels"], document["exact"]) == ("onnx", 2, 3, True)
    assert document["made_by_us"] is False


def test_a_checkpoint(invoke: Invoke, tmp_path: Path) -> None:
    import torch

    from sr_deploy.architectures import REGISTRY

    entry = next(entry for entry in REGISTRY if entry.name == "rlfn")
    torch.save({"params": entry.build(entry.default).state_dict()}, tmp_path / "net.pth")
    result = invoke("inspect", tmp_path / "net.pth")
    assert result.exit_code == 0, result.stderr
    assert "The weights leave 2 readings open" in result.stdout
    document = json.loads(invoke("inspect", tmp_path / "net.pth", "--json").stdout)
    assert (document["architecture"], document["found_in"]) == ("rlfn", "params")
    assert {reading["value_range"] for reading in document["readings"]} == {1.0, 255.0}


def test_what_spandrel_knows_is_told_as_export_takes_it(invoke: Invoke, shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("einops")
    from sr_deploy import architectures
    from sr_deploy.architectures import REGISTRY

    monkeypatch.setattr(architectures, "REGISTRY", tuple(entry for entry in REGISTRY if entry.name != "compact"))
    path = shared / "checkpoints" / "sudo_UltraCompact_2x_1.121.175_G.pth"
    document = json.loads(invoke("inspect", path, "--json").stdout)
    assert (document["kind"], document["architecture"], document["config"]["scale"]) == ("checkpoint", "Compact", 2)
    assert "known by spandrel" in invoke("inspect", path).stdout


def test_a_program_is_told_and_not_loaded(invoke: Invoke, shared: Path) -> None:
    result = invoke("inspect", shared / "faults" / "evil.pt2")
    assert (result.exit_code, "would call posix.system" in result.stderr) == (1, True)
    assert not Path("pwned_by_pt2").exists()


@pytest.mark.parametrize("command", ["inspect", "export"])
def test_a_photo_is_told_before_torch_is_asked_for(command: str, tmp_path: Path) -> None:
    photo = tmp_path / "photo.pth"
    photo.write_bytes(b"\xff\xd8\xff\xe0\0\x10JFIF\0" + bytes(40))
    code = "import sys; sys.modules['torch'] = None; from sr_deploy.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code, command, photo], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == f"error: {photo}: not a network, but a JPEG picture; `sr-deploy upscale` takes it\n"


@pytest.mark.parametrize(
    ("name", "code", "message"),
    [
        ("gone.pth", 2, "error: gone.pth: no such file or folder"),
        ("empty.pth", 1, "error: empty.pth: empty"),
        ("broken.onnx", 1, "error: broken.onnx: not readable as ONNX"),
        ("folder", 1, "error: folder: not a bundle"),
    ],
)
def test_other_things_are_one_line(invoke: Invoke, name: str, code: int, message: str) -> None:
    Path("empty.pth").touch()
    Path("broken.onnx").write_bytes(b"\xff\xff\xff")
    Path("folder").mkdir()
    result = invoke("inspect", name)
    assert (result.exit_code, result.stdout) == (code, "")
    assert result.stderr.startswith(message) and result.stderr.count("\n") == 1


def test_a_graph_of_two_images_is_refused(invoke: Invoke) -> None:
    values = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 3, 8, 8]) for name in ("a", "b", "c")]
    graph = helper.make_graph([helper.make_node("Add", ["a", "b"], ["c"])], "sum", values[:2], values[2:])
    onnx.save(helper.make_model(graph), "two.onnx")
    result = invoke("inspect", "two.onnx")
    assert (result.exit_code, "2 inputs" in result.stderr) == (1, True)
