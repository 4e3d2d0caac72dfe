"""Bundles of mask-guided networks: the golden RFDN-MGA, and a small PAN-MGA with random weights."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, numpy_helper
from torch.utils.flop_counter import FlopCounterMode

from sr_deploy import Upscaler, open_bundle
from sr_deploy.architectures import Reading, load_checkpoint, reparameterize
from sr_deploy.architectures.mga import MaskGuided, MGAConfig, reference_parts
from sr_deploy.architectures.pan_mga import PANMGA
from sr_deploy.bundle import CARD_FILE, PROBE_FILE, REPORT_FILE, Bundle
from sr_deploy.card import GRAPH_METADATA_KEY, Masked, ModelCard
from sr_deploy.engines import open_engine
from sr_deploy.engines.parity import parts_of, read_masked_probes, verify
from sr_deploy.engines.patches import best, crops
from sr_deploy.errors import AmbiguousCheckpointError, BundleError, CertificationError
from sr_deploy.export import export_bundle
from sr_deploy.export.masked import certify_masked, run_masked_original, write_masked_probes
from sr_deploy.export.probes import parity_probes
from tests.export.test_report import Checker
from tests.graphs import masked_graphs

KINDS = ("coarse", "features", "scores", "patches", "image")


@pytest.fixture(scope="module")
def golden(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    with pytest.warns(UserWarning, match="on the test picture, bicubic has"):
        folder = tmp_path_factory.mktemp("golden") / "mga"
        return export_bundle(shared / "golden" / "rfdn_mga_x4.pth", folder, value_range=1, anyway=True)


@pytest.fixture(scope="module")
def pan(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Path]:
    """Four blocks of 8 channels at scale 2, trained for nothing, in a range of 255; and its checkpoint."""
    folder = tmp_path_factory.mktemp("pan")
    torch.manual_seed(3)
    network = PANMGA(MGAConfig(scale=2, colors=3, channels=8, blocks=4, refine_blocks=1))
    checkpoint = folder / "pan_mga.pth"
    torch.save(network.state_dict(), checkpoint)
    with pytest.warns(UserWarning, match="on the test picture"):
        return export_bundle(checkpoint, folder / "pan_mga", value_range=255, variant={"scale": 2}, anyway=True), checkpoint


def run(bundle: Bundle, key: str, x: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(bundle.folder / f"{key}.onnx", providers=["CPUExecutionProvider"])
    return list(session.run(None, {session.get_inputs()[0].name: x}))


@pytest.mark.long
@pytest.mark.parametrize(("precision", "dtype", "tolerance"), [("fp32", np.float32, 1e-4), ("fp16", np.float16, 4e-3)])
def test_the_golden_image_comes_out_of_the_graphs(
    shared: Path, golden: Bundle, precision: str, dtype: type[np.floating], tolerance: float
) -> None:
    expected = dict(np.load(shared / "golden" / "rfdn_mga_x4.npz"))
    coarse, features, scores = run(golden, f"base-{precision}", expected["x"].astype(dtype))
    np.testing.assert_allclose(coarse, np.clip(expected["coarse"], 0, 1), atol=tolerance)
    np.testing.assert_allclose(scores, expected["mask"], atol=tolerance)
    _, rows, columns = expected["selected"]
    if precision == "fp32":
        assert best(scores, 24).tolist() == sorted((rows * scores.shape[-1] + columns).tolist())
    padded = np.pad(features[0], ((0, 0), (1, 1), (1, 1)))
    patches = np.stack([padded[:, 4 * i : 4 * i + 6, 4 * j : 4 * j + 6] for i, j in zip(rows, columns, strict=True)])
    (pixels,) = run(golden, f"refine-{precision}", patches)
    for patch, i, j in zip(pixels, rows, columns, strict=True):
        coarse[0, :, 16 * i : 16 * i + 16, 16 * j : 16 * j + 16] = patch
    np.testing.assert_allclose(coarse, np.clip(expected["y"], 0, 1), atol=tolerance)


@pytest.mark.long
def test_a_bundle_has_its_files_and_facts(golden: Bundle) -> None:
    graphs = {f"{part}-{precision}.onnx" for part in ("base", "refine") for precision in ("fp32", "fp16")}
    assert {path.name for path in golden.folder.iterdir()} == {CARD_FILE, PROBE_FILE, REPORT_FILE, *graphs}
    card = golden.card
    assert (card.architecture, card.scale, card.tiling, card.min_size, card.size_multiple) == (
        "rfdn_mga",
        4,
        "approximate",
        4,
        4,
    )
    assert card.masked is not None
    assert (card.masked.patch, card.masked.padding, card.masked.features) == (4, 1, 50)
    assert (golden.folder / PROBE_FILE).stat().st_size < 1.5e6
    for graph in golden.graphs.values():
        (entry,) = onnx.load(golden.folder / graph.file).metadata_props
        assert entry.key == GRAPH_METADATA_KEY
        assert ModelCard.from_json(entry.value, where=graph.file) == card


@pytest.mark.long
def test_costs_are_those_that_torch_counts(shared: Path, golden: Bundle) -> None:
    loaded = load_checkpoint(shared / "golden" / "rfdn_mga_x4.pth")
    network = reparameterize(loaded.network(loaded.readings[0]), 1.0).module
    assert isinstance(network, MaskGuided)
    masked = golden.card.masked
    assert masked is not None
    with torch.inference_mode(), FlopCounterMode(display=False) as base:
        network.look(torch.rand(1, 3, 192, 192))
    with torch.inference_mode(), FlopCounterMode(display=False) as refine:
        network.refine(torch.rand(1, 50, 6, 6))
    assert golden.card.macs == pytest.approx(base.get_total_flops() / 2 / 192**2, rel=0.001)
    assert masked.macs == pytest.approx(refine.get_total_flops() / 2 / 16, rel=0.001)
    assert masked.parameters == pytest.approx(sum(weight.numel() for weight in network.refine.parameters()), abs=20)


def test_random_weights_do_not_tell_their_range(shared: Path, tmp_path: Path) -> None:
    with pytest.raises(AmbiguousCheckpointError, match=r"Say which: `--value-range 1\|255`"):
        export_bundle(shared / "golden" / "rfdn_mga_x4.pth", tmp_path / "mga", anyway=True)


@pytest.mark.long
def test_the_parts_and_the_image_are_certified(golden: Bundle) -> None:
    steps = {link.target.rpartition(": ")[0] for link in golden.certificate}
    assert {"reparameterized", "fp32 on onnxruntime", "fp16 on onnxruntime", "fp32 on openvino", "fp16 on openvino"} <= steps
    assert {link.target for link in golden.certificate} == {f"{step}: {kind}" for step in steps for kind in KINDS}
    assert all(link.passed for link in golden.certificate if "bf16" not in link.target)
    for link in golden.certificate:
        assert (link.selected > 0) == link.target.endswith(": image")
        if link.target.startswith("fp32 on onnxruntime"):
            assert link.max_lsb < 0.01
            assert link.moved == 0
    checker = Checker()
    page = (golden.folder / REPORT_FILE).read_text(encoding="utf-8")
    checker.feed(page)
    assert checker.open == []
    assert len(checker.references) == 5
    selected, moved = (sum(getattr(link, name) for link in golden.certificate) for name in ("selected", "moved"))
    assert f"{moved} of {selected} would have been others" in checker.text
    assert "Activations and fp16: refine" in checker.text


def test_it_verifies_without_torch(pan: tuple[Bundle, Path]) -> None:
    links = verify(pan[0])
    assert all(link.passed for link in links if "bf16" not in link.target)
    targets = {link.target for link in links}
    for backend in ("onnxruntime", "openvino"):
        assert {f"{backend} fp32{form}: {kind}" for kind in KINDS for form in ("", " pixels")} <= targets


@pytest.mark.parametrize(
    ("kind", "field"), [("coarse", "coarse"), ("scores", "scores"), ("features", "patches"), ("patches", "pixels")]
)
def test_each_part_is_verified(pan: tuple[Bundle, Path], kind: str, field: str, tmp_path: Path) -> None:
    bundle = Bundle(tmp_path, pan[0].card, pan[0].graphs)
    for graph in bundle.graphs.values():
        (tmp_path / graph.file).symlink_to(pan[0].folder / graph.file)
    probes = read_masked_probes(pan[0])
    changed: dict[str, Any] = {
        name: dataclasses.replace(probe, **{field: getattr(probe, field) * np.float32(0.9)}) for name, probe in probes.items()
    }
    write_masked_probes(tmp_path, changed)
    missed = {link.target.rpartition(": ")[2] for link in verify(bundle, backend="onnxruntime") if not link.passed}
    assert kind in missed
    assert set(KINDS) - missed


def test_the_graphs_are_the_original_in_the_unit_range(pan: tuple[Bundle, Path]) -> None:
    bundle, checkpoint = pan
    loaded = load_checkpoint(checkpoint)
    assert bundle.card.config == vars(loaded.readings[0].config)
    reading = Reading(loaded.readings[0].config, 255.0)
    network = loaded.network(reading)
    assert isinstance(network, MaskGuided)
    original = reference_parts(network, 255.0)
    for size in ((1, 3, 4, 4), (2, 3, 8, 20), (1, 3, 36, 12)):
        x = np.random.default_rng(1).random(size, dtype=np.float32)
        with torch.inference_mode():
            coarse, features, scores = original.look(torch.from_numpy(x))
            patches = crops(features[:1].numpy(), np.arange(size[2] * size[3] // 16), patch=4, padding=1)
            pixels = original.refine(torch.from_numpy(patches))
        found = run(bundle, "base-fp32", x)
        np.testing.assert_allclose(found[0], coarse.clamp(0, 1).numpy(), atol=1e-5)
        np.testing.assert_allclose(found[1], features.numpy(), atol=1e-5 * float(features.abs().max()))
        np.testing.assert_allclose(found[2], scores.numpy(), atol=1e-5 * float(scores.abs().max()))
        (refined,) = run(bundle, "refine-fp32", patches)
        np.testing.assert_allclose(refined, pixels.clamp(0, 1).numpy(), atol=1e-5)


def test_the_halo_holds_for_all_that_the_base_gives(pan: tuple[Bundle, Path]) -> None:
    card = pan[0].card
    assert card.tiling == "exact"
    halo, tile = card.halo, 8
    assert halo % 4 == 0
    x = np.random.default_rng(2).random((1, 3, 2 * halo + tile + 8, 2 * halo + tile + 8), dtype=np.float32)
    whole = run(pan[0], "base-fp32", x)
    part = run(pan[0], "base-fp32", np.ascontiguousarray(x[..., 4:-4, 4:-4]))
    for all_of_it, cut, unit in zip(whole, part, (card.scale, 1, 0.25), strict=True):
        first, count = int((halo + 4) * unit), int(tile * unit)
        wanted = all_of_it[..., first : first + count, first : first + count]
        first = int(halo * unit)
        np.testing.assert_allclose(cut[..., first : first + count, first : first + count], wanted, atol=1e-6, rtol=1e-5)


def test_other_ways_in_are_refused_with_the_right_one(pan: tuple[Bundle, Path]) -> None:
    image = np.zeros((16, 16, 3), np.uint8)
    with pytest.raises(BundleError, match="in two graphs, base and refine; open it with MaskedUpscaler"):
        Upscaler(pan[0], backend="openvino", precision="fp32")(image)
    for graph in pan[0].graphs.values():
        with pytest.raises(BundleError, match=r"one of the two graphs of pan_mga, .* open the folder"):
            open_bundle(pan[0].folder / graph.file)


def test_a_broken_graph_is_found() -> None:
    """The refine network is another one; its patches are found, and the base is not blamed."""
    base, refine = masked_graphs()
    halves = masked_graphs(float_type=TensorProto.FLOAT16)
    probes = parity_probes(3, min_size=4, size_multiple=4)
    with open_engine(base, backend="onnxruntime") as looking, open_engine(refine, backend="onnxruntime") as refining:
        parts = parts_of(looking, refining)
        chain: dict[str, Any] = {
            "probes": run_masked_original(parts, probes),
            "masked": Masked(4, 1, 3),
            "scale": 2,
            "reparameterized": parts,
        }
        links = certify_masked(graphs={"fp32": (base, refine), "fp16": halves}, **chain)
        assert all(link.passed for link in links if "bf16" not in link.target)
        bias = next(item for item in refine.graph.initializer if item.name == "last.bias")
        bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(0.01), bias.name))
        with pytest.raises(CertificationError, match=r"breaks at 'fp32 on onnxruntime: (patches|image)'"):
            certify_masked(graphs={"fp32": (base, refine), "fp16": halves}, **chain)


@pytest.mark.parametrize("broken", [0, 1])
def test_an_original_with_nan_is_refused(broken: int) -> None:
    def look(image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return image * (np.float32("nan") if broken == 0 else 1), image, image[:, :1, ::4, ::4]

    def refine(patches: np.ndarray) -> np.ndarray:
        return patches[..., 1:-1, 1:-1] * (np.float32("nan") if broken == 1 else 1)

    with pytest.raises(CertificationError, match="original network gives NaN or Inf on the probe"):
        run_masked_original((look, refine), parity_probes(3, min_size=4, size_multiple=4))
