import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import sr_deploy.export as export_module
import sr_deploy.export.graphs as graphs_module
from sr_deploy.bundle import CARD_FILE, PROBE_FILE, REPORT_FILE, Bundle
from sr_deploy.card import GRAPH_METADATA_KEY, ModelCard
from sr_deploy.errors import CertificationError, CheckpointError, ExportError, UnknownArchitectureError, UsageError
from sr_deploy.export import export_bundle
from sr_deploy.export.spandrel import SPANDREL_INSTALL
from tests import short_and_long

FAMILIES = [
    ("rlfn_ntire_x4.pth", "rlfn_ntire_x4"),
    ("ECBSR_M4C16_x2.pth", "ecbsr_m4c16_x2"),
    ("RFDN_AIM.pth", "rfdn_aim_x4"),
    ("reprfn_ntire_x4.pth", "reprfn_ntire_x4"),
    ("net_g_BSRN_x4.pth", "bsrn_x4"),
    ("PANx2_DF2K.pth", "pan_x2"),
]
MEANS_IN_FP32 = {"bsrn_x4": ".cca/"}
ECBSR = "ECBSR_M4C16_x2.pth"
BundleOf = Callable[[str], Bundle]


@pytest.mark.parametrize(("checkpoint", "golden"), short_and_long(FAMILIES, FAMILIES[:2]))
def test_every_family_equals_its_published_implementation(
    shared: Path, bundle_of: BundleOf, checkpoint: str, golden: str
) -> None:
    bundle = bundle_of(checkpoint)
    facts = json.loads((shared / "golden" / "golden.json").read_text())[golden]
    assert (bundle.card.scale, bundle.card.channels, bundle.card.value_range) == (
        facts["scale"],
        facts["channels"],
        facts["value_range"],
    )
    stored = np.load(shared / "golden" / f"{golden}.npz")
    x, y = (stored[key] / np.float32(facts["value_range"]) for key in ("x", "y"))
    expected = np.clip(y, 0, 1)
    for precision, dtype, floor in (("fp32", np.float32, 80.0), ("fp16", np.float16, 50.0)):
        session = onnxruntime.InferenceSession(bundle.folder / f"{precision}.onnx", providers=["CPUExecutionProvider"])
        found = session.run(None, {"input": x.astype(dtype)})[0].astype(np.float64)
        error = np.abs(found - expected)
        psnr = -10 * np.log10((error**2).mean())
        assert psnr > floor, f"{precision}: mean {error.mean():.2e}, max {error.max():.2e}, {psnr:.1f} dB"
    links = bundle.certificate
    assert max(link.max_lsb for link in links if link.target.startswith("fp32.onnx") and "bf16" not in link.target) < 0.1
    assert min(link.psnr for link in links if link.target.startswith("fp16.onnx")) > 55
    assert all(link.passed for link in links if "bf16" not in link.target)
    assert casts_in_a_row(onnx.load(bundle.graph("fp16"))) == []
    if part := MEANS_IN_FP32.get(golden):
        kept = bundle.graphs["fp16"].kept_fp32
        assert kept and all(part in name for name in kept)


def casts_in_a_row(model: onnx.ModelProto) -> list[str]:
    """Casts of what was cast: a value between nodes that stay in fp32 would go through fp16."""
    cast = {name for node in model.graph.node if node.op_type == "Cast" for name in node.output}
    return [node.name for node in model.graph.node if node.op_type == "Cast" and node.input[0] in cast]


def test_a_bundle_has_its_files_and_facts(bundle_of: BundleOf) -> None:
    bundle = bundle_of("rlfn_ntire_x4.pth")
    names = {path.name for path in bundle.folder.iterdir()}
    assert names == {CARD_FILE, PROBE_FILE, REPORT_FILE, "fp32.onnx", "fp16.onnx"}
    assert (bundle.folder / PROBE_FILE).stat().st_size < 1.5e6
    card = bundle.card
    assert (card.architecture, card.scale, card.channels, card.value_range) == ("rlfn", 4, 3, 255)
    assert (card.tiling, card.min_size) == ("approximate", 15)
    assert card.parameters == 317218
    assert card.macs == pytest.approx(19.66e9 / 256**2, rel=0.01)
    assert card.source is not None
    assert card.source.file == "rlfn_ntire_x4.pth"
    assert card.detection is not None
    assert card.detection.decided_by == "recipe"
    assert card.largest_activation is not None
    assert 1000 < card.largest_activation < 32000
    assert bundle.graphs["fp16"].kept_fp32 == ()
    assert {"torch", "onnx", "onnxruntime", "openvino", "sr-deploy"} <= set(bundle.made_with)


def test_the_card_is_in_every_graph(bundle_of: BundleOf) -> None:
    bundle = bundle_of(ECBSR)
    for graph in bundle.graphs.values():
        model = onnx.load(bundle.folder / graph.file)
        onnx.checker.check_model(model, full_check=True)
        (entry,) = model.metadata_props
        assert entry.key == GRAPH_METADATA_KEY
        assert ModelCard.from_json(entry.value, where=graph.file) == bundle.card


def test_two_exports_are_equal_in_every_byte(shared: Path, bundle_of: BundleOf, tmp_path: Path) -> None:
    first = bundle_of(ECBSR)
    again = export_bundle(shared / "checkpoints" / ECBSR, tmp_path / "again", name=first.card.name)
    for name in ("fp32.onnx", "fp16.onnx", PROBE_FILE, CARD_FILE, REPORT_FILE):
        assert (first.folder / name).read_bytes() == (again.folder / name).read_bytes(), name


def test_progress_is_told(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    told: list[str] = []
    bundle = export_bundle(shared / "checkpoints" / ECBSR, value_range=1, progress=told.append)
    assert bundle.folder == Path("ECBSR_M4C16_x2")
    assert bundle.card.detection is not None
    assert bundle.card.detection.decided_by == "flag"
    published = f"{ECBSR} is published: recipe 'ecbsr_m4c16_x2' applies, license Apache-2.0"
    assert told == [published, f"reading {ECBSR}", "tracing", "measuring activations", "certifying", "drawing the report"]


@pytest.mark.parametrize("step", ["trace", "to_fp16", "certify", "write_report"])
@pytest.mark.parametrize("error", [CertificationError, KeyboardInterrupt])
def test_a_failure_leaves_nothing(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, error: type[BaseException]
) -> None:
    monkeypatch.setattr(export_module, "certify", lambda *_, **__: ())
    monkeypatch.setattr(export_module, "graphs_of", _quick(export_module.graphs_of))

    def fail(*_: Any, **__: Any) -> Any:
        raise error("stop")

    monkeypatch.setattr(graphs_module if step in ("trace", "to_fp16") else export_module, step, fail)
    with pytest.raises(error):
        export_bundle(shared / "checkpoints" / ECBSR, tmp_path / "net")
    assert list(tmp_path.iterdir()) == []


_DONE: dict[str, Any] = {}


def _quick(graphs: Callable[..., Any]) -> Callable[..., Any]:
    """Traces once for all tests of failures."""

    def make(*arguments: Any) -> Any:
        if graphs_module.trace.__name__ == "fail" or graphs_module.to_fp16.__name__ == "fail":
            return graphs(*arguments)
        if "graphs" not in _DONE:
            _DONE["graphs"] = graphs(*arguments)
        return _DONE["graphs"]

    return make


def test_an_existing_target_is_refused_before_any_work(shared: Path, bundle_of: BundleOf) -> None:
    target = bundle_of(ECBSR).folder
    told: list[str] = []
    with pytest.raises(UsageError, match="--overwrite"):
        export_bundle(shared / "checkpoints" / ECBSR, target, progress=told.append)
    assert told == []


def test_a_y_network_with_random_weights_passes_with_a_warning(shared: Path, tmp_path: Path) -> None:
    weights = shared / "golden" / "ecbsr_m4c16_train_x2.pth"
    with pytest.raises(ExportError, match=r"no reading of the weights upscales; the best one, value range 1, .* --anyway"):
        export_bundle(weights, tmp_path / "net", value_range=255, variant={"identity": False})
    assert list(tmp_path.iterdir()) == []
    with pytest.warns(UserWarning, match="value range 1, identity no gives"):
        bundle = export_bundle(weights, tmp_path / "net", value_range=255, variant={"identity": False}, anyway=True)
    assert bundle.card.channels == 1
    assert bundle.card.reparameterized
    stored = np.load(shared / "golden" / "ecbsr_m4c16_train_x2.npz")
    session = onnxruntime.InferenceSession(bundle.graph("fp32"), providers=["CPUExecutionProvider"])
    found = session.run(None, {"input": stored["x"] / np.float32(255)})[0]
    np.testing.assert_allclose(found, np.clip(stored["y"] / 255, 0, 1), atol=1e-4)


@pytest.mark.parametrize("checkpoint", ["team41_harn.pth", "bicubic_pp_x3.pth"])
def test_an_unknown_network_gets_one_hint(shared: Path, tmp_path: Path, checkpoint: str) -> None:
    with pytest.raises(UnknownArchitectureError) as raised:
        export_bundle(shared / "checkpoints" / checkpoint, tmp_path / "net")
    text = str(raised.value)
    assert SPANDREL_INSTALL in text or "does not know it either" in text


def test_a_missing_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        export_bundle(tmp_path / "absent.pth", tmp_path / "net")
