from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, get_args

import cv2
import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator
from onnx.reference.ops import op_conv

import sr_deploy
from sr_deploy.bundle import Bundle, sha256_of
from sr_deploy.card import GraphCard, Link, ModelCard
from sr_deploy.engines import Arithmetic, available_backends, open_engine, parity, select_backend
from sr_deploy.engines.difference import compare
from sr_deploy.engines.open import open_bundle
from sr_deploy.engines.parity import read_masked_probes, read_probes, verify
from sr_deploy.errors import BundleError
from tests.graphs import image_graph, masked_bundle, save

MODELS = Path(sr_deploy.__file__).parent / "models"
REFERENCE = np.random.default_rng(4).random((1, 3, 40, 48), dtype=np.float32)


def link(array: np.ndarray, precision: Arithmetic | None = "fp32") -> Link:
    return compare(REFERENCE, array, scale=2, source="a", target="b", probe="p", precision=precision)


def test_the_figures_are_those_of_an_independent_library() -> None:
    array = np.clip(REFERENCE + np.random.default_rng(5).normal(0, 0.01, REFERENCE.shape).astype(np.float32), 0, 1)
    measured = link(array)
    assert measured.psnr == pytest.approx(cv2.PSNR(REFERENCE.ravel(), array.ravel(), 1.0), abs=0.01)
    assert measured.max_lsb == pytest.approx(255 * np.abs(array - REFERENCE).max(), abs=1e-4)


def test_the_border_is_measured_apart() -> None:
    inside, outside = REFERENCE.copy(), REFERENCE.copy()
    inside[..., 20, 20] += 0.1
    outside[..., 0, 20] -= 0.1
    assert link(inside).border_max_lsb == 0
    assert link(outside).border_max_lsb > 0


def test_floors() -> None:
    assert link(REFERENCE).passed
    assert link(REFERENCE).psnr == float("inf")
    assert not link(REFERENCE * 0.99).passed
    assert link(REFERENCE * 0.999, "fp16").passed
    assert not link(REFERENCE * 0.99, "fp16").passed
    assert link(REFERENCE * 0.99, "bf16").passed
    assert link(REFERENCE * 0.5, None).passed


def tf32(array: np.ndarray) -> np.ndarray:
    """Rounded to the nearest of 10 bits of mantissa, as a tensor core reads fp32."""
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    return ((bits + 0xFFF + ((bits >> 13) & 1)) & np.uint32(0xFFFFE000)).view(np.float32)


class Conv(op_conv.Conv):
    """ONNX's own convolution, of what TF32 leaves of its inputs."""

    rounded = staticmethod(tf32)

    def _run(self, x: np.ndarray, w: np.ndarray, b: np.ndarray | None = None, **attributes: Any) -> tuple[np.ndarray]:
        return super()._run(self.rounded(x), self.rounded(w), b, **attributes)


def test_tf32_keeps_ten_bits() -> None:
    assert tf32(np.float32([1 + 2**-10, 1 + 2**-11, 1 + 3 * 2**-11, -3 - 2**-20])).tolist() == [1 + 2**-10, 1, 1 + 2**-9, -3]


@pytest.mark.parametrize("network", ["fast-x2", "fast-x4", "photo-x2", "photo-x4"])
def test_tf32_is_no_fp32(network: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cuDNN computes where it is not kept from TF32 misses the floor on every probe, and fp32 itself is far above it."""
    bundle = open_bundle(network)
    graph = onnx.load(bundle.graph("fp32"))

    def links() -> list[Link]:
        evaluator = ReferenceEvaluator(graph, new_ops=[Conv])
        found = {name: evaluator.run(None, {"input": image})[0] for name, (image, _) in probes.items()}
        return [
            compare(probes[name][1], array, scale=bundle.card.scale, source="a", target="b", probe=name, precision="fp32")
            for name, array in found.items()
        ]

    probes = {name: arrays for name, arrays in read_probes(bundle).items() if arrays[0].size < 3000}
    assert len(probes) > 1
    assert not any(entry.passed for entry in links())
    monkeypatch.setattr(Conv, "rounded", staticmethod(np.asarray))
    assert all(entry.passed and entry.psnr > 120 for entry in links())


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_bad_pixel_fails_every_floor(bad: float) -> None:
    array = REFERENCE.copy()
    array[0, 0, 5, 5] = bad
    for precision in get_args(Arithmetic):
        assert link(array, precision).max_lsb == 255
    assert not link(array, "fp32").passed


def test_outputs_of_another_size_are_an_error() -> None:
    with pytest.raises(BundleError, match=r"\[1, 3, 40, 48\].*\[1, 3, 20, 48\]"):
        link(REFERENCE[:, :, ::2])


def bundle_with_probe(folder: Path, *, factor: float) -> Bundle:
    """A bundle whose probe says that the original gave `factor` times what the graph gives."""
    path = save(image_graph(), folder, "fp32.onnx")
    x = np.round(REFERENCE[..., :13, :17] * 255) / np.float32(255)
    with open_engine(onnx.load(path), backend="onnxruntime") as engine:
        y = engine.run({"input": x})["output"] * np.float32(factor)
    np.savez(folder / "probe.npz", **{"odd.input": x, "odd.output": y})
    graphs = {"fp32": GraphCard(path.name, "fp32", sha256_of(path), 20)}
    return Bundle(folder, ModelCard("net", "test", 2, 3), graphs)


def test_a_good_bundle_verifies_on_every_backend(tmp_path: Path) -> None:
    links = verify(bundle_with_probe(tmp_path, factor=1.0))
    assert {name.split()[0] for name in (entry.target for entry in links)} >= {"openvino", "onnxruntime"}
    assert all(entry.passed for entry in links)


def test_a_bundle_that_computes_something_else_does_not(tmp_path: Path) -> None:
    links = verify(bundle_with_probe(tmp_path, factor=0.9), backend="onnxruntime")
    assert links
    assert not any(entry.passed for entry in links)


@pytest.mark.parametrize("name", ["fast-x2", "fast-x3", "photo-x4"])
def test_planes_are_compared_where_frames_take_them(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = dataclasses.replace(select_backend("onnxruntime"), planes=True)
    bundle = Bundle.open(MODELS / name)
    monkeypatch.setattr(parity, "select_backend", lambda _: backend)
    links = [link for link in verify(bundle, backend="onnxruntime") if link.target.endswith(" planes")]
    probes = len(parity.read_probes(bundle))
    assert [link.target for link in links] == ["onnxruntime fp32 planes"] * probes + ["onnxruntime fp16 planes"] * probes
    assert all(link.passed for link in links)
    whites = {name: 1.01 * white for name, white in parity.WHITE.items()}
    monkeypatch.setattr(parity, "WHITE", whites)
    assert not any(link.passed for link in verify(bundle, backend="onnxruntime") if link.target == "onnxruntime fp32 planes")


def test_without_a_probe_there_is_nothing_to_verify(tmp_path: Path) -> None:
    bundle = bundle_with_probe(tmp_path, factor=1.0)
    (tmp_path / "probe.npz").unlink()
    with pytest.raises(BundleError, match="only a bundle made by `sr-deploy export` can verify itself"):
        verify(bundle)


def masked_bundle_with_probe(folder: Path, chosen: np.ndarray) -> Bundle:
    """A bundle whose probe has what ONNX's own evaluator gives, with these patches refined."""
    bundle = masked_bundle(folder)
    base, refine = (ReferenceEvaluator(onnx.load(bundle.graph("fp32", part))) for part in ("base", "refine"))
    x = np.round(REFERENCE[..., :12, :20] * 255) / np.float32(255)
    coarse, features, scores = base.run(None, {"input": x})
    padded = np.pad(features[0], ((0, 0), (1, 1), (1, 1)))
    corners = [(4 * (number // 5), 4 * (number % 5)) for number in chosen]
    patches = np.stack([padded[:, top : top + 6, left : left + 6] for top, left in corners])
    (pixels,) = refine.run(None, {"patches": patches})
    sample = np.array([0, len(chosen) - 1])
    arrays = {"coarse": coarse, "scores": scores, "chosen": chosen, "pixels": pixels, "patches": patches[sample]}
    arrays |= {"input": x, "sample": sample}
    np.savez(folder / "probe.npz", **{f"odd.{key}": array for key, array in arrays.items()})
    return bundle


def test_a_mask_guided_bundle_verifies_on_every_backend(tmp_path: Path) -> None:
    bundle = masked_bundle_with_probe(tmp_path, np.array([0, 4, 7, 14]))
    links = verify(bundle)
    assert [entry.target for entry in links if not entry.passed and "bf16" not in entry.target] == []
    for backend, precisions in available_backends().items():
        for precision in filter(bundle.runs, precisions):
            for form in ("", " pixels"):
                step = f"{backend} {precision}{form}: "
                kinds = [entry.target.removeprefix(step) for entry in links if entry.target.startswith(step)]
                assert kinds == ["coarse", "features", "scores", "patches", "image"]


def test_other_choices_of_patches_are_counted_and_do_no_harm(tmp_path: Path) -> None:
    bundle = masked_bundle_with_probe(tmp_path, np.array([0, 4, 7, 14]))
    probe = read_masked_probes(bundle)["odd"]
    order = np.argsort(-probe.scores.ravel())
    chosen = np.sort([*order[:2], *order[-2:]])
    links = verify(masked_bundle_with_probe(tmp_path, chosen), backend="onnxruntime")
    assert all(entry.passed for entry in links)
    assert {(entry.selected, entry.moved) for entry in links} == {(0, 0), (4, 2)}


def test_the_image_of_a_probe_has_its_patches_refined(tmp_path: Path) -> None:
    probe = read_masked_probes(masked_bundle_with_probe(tmp_path, np.array([6, 14])))["odd"]
    np.testing.assert_array_equal(probe.output[0, :, 8:16, 8:16], probe.pixels[0])
    np.testing.assert_array_equal(probe.output[0, :, 16:, 32:], probe.pixels[1])
    np.testing.assert_array_equal(probe.output[..., :8, :], probe.coarse[..., :8, :])


@pytest.mark.parametrize("field", ["coarse", "scores", "pixels", "patches"])
def test_a_probe_of_another_network_fails(tmp_path: Path, field: str) -> None:
    bundle = masked_bundle_with_probe(tmp_path, np.array([0, 4, 7, 14]))
    with np.load(tmp_path / "probe.npz") as stored:
        arrays = dict(stored)
    arrays[f"odd.{field}"] = arrays[f"odd.{field}"] * np.float32(0.9)
    np.savez(tmp_path / "probe.npz", **arrays)
    assert not all(entry.passed for entry in verify(bundle, backend="onnxruntime"))


def test_a_probe_that_lacks_something_is_told(tmp_path: Path) -> None:
    bundle = masked_bundle_with_probe(tmp_path, np.array([1]))
    np.savez(tmp_path / "probe.npz", **{"odd.input": REFERENCE, "odd.output": REFERENCE})
    with pytest.raises(BundleError, match="only a bundle made by `sr-deploy export` can verify itself"):
        verify(bundle)
