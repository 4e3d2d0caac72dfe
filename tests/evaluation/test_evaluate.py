"""Scores against figures computed by other means."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest

from sr_deploy import ImageError, UsageError
from sr_deploy.bicubic import imresize
from sr_deploy.evaluation.evaluate import Pair, PairFiles, Score, evaluate, find_pairs, mean_score
from sr_deploy.export.probes import probe_picture
from sr_deploy.pictures.image import Picture, write_image


@dataclass
class Bicubic:
    """The field's baseline as an upscaler; counts its calls."""

    scale: int
    calls: int = 0

    def __call__(self, image: np.ndarray, /) -> np.ndarray:
        self.calls += 1
        return imresize(image, image.shape[0] * self.scale, image.shape[1] * self.scale)


def folder_with(folder: Path, **images: np.ndarray) -> Path:
    folder.mkdir()
    for name, pixels in images.items():
        write_image(folder / f"{name}.png", Picture(pixels if pixels.ndim == 3 else pixels[..., None]))
    return folder


def noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(height).integers(0, 256, (height, width, channels), dtype=np.uint8)


def ssim(x: np.ndarray, y: np.ndarray) -> float:
    """Straight from the paper: every window of 11x11 weighed by itself."""
    axis = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    weights = np.outer(axis, axis) / np.outer(axis, axis).sum()
    p, q = (np.lib.stride_tricks.sliding_window_view(image, (11, 11)).reshape(-1, 121) for image in (x, y))
    w = weights.ravel()
    mp, mq = p @ w, q @ w
    dp, dq = p - mp[:, None], q - mq[:, None]
    vp, vq, cov = (dp**2) @ w, (dq**2) @ w, (dp * dq) @ w
    c1, c2 = 6.5025, 58.5225
    return float(np.mean((2 * mp * mq + c1) * (2 * cov + c2) / ((mp**2 + mq**2 + c1) * (vp + vq + c2))))


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_scores_are_those_of_opencv_and_the_paper(tmp_path: Path, scale: int) -> None:
    hr = probe_picture()[:113, :101]
    (files,) = find_pairs(folder_with(tmp_path / "hr", a=hr), scale=scale)
    (score,) = evaluate(Bicubic(scale), [files.read(scale)])
    height, width = 113 // scale * scale, 101 // scale * scale
    small = imresize(hr[:height, :width], height // scale, width // scale)
    large = imresize(small, height, width)
    x, y = (
        (image.astype(float) @ np.array([65.481, 128.553, 24.966]) / 255 + 16)[scale:-scale, scale:-scale]
        for image in (hr[:height, :width], large)
    )
    assert score.name == "a" and score.seconds > 0
    assert score.psnr_y == pytest.approx(cv2.PSNR(x, y, 255.0), abs=1e-6)
    assert score.ssim_y == pytest.approx(ssim(x, y), abs=1e-9)


def test_ssim_is_that_of_scikit_image() -> None:
    metrics = pytest.importorskip("skimage.metrics")
    hr = probe_picture()[:100, :96]
    pair = Pair("a", hr, imresize(hr, 50, 48))
    (score,) = evaluate(Bicubic(2), [pair])
    x, y = (
        (image.astype(float) @ np.array([65.481, 128.553, 24.966]) / 255 + 16)[2:-2, 2:-2]
        for image in (hr, imresize(pair.lr, 100, 96))
    )
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255, "full": True}
    _, every = metrics.structural_similarity(x, y, **options)
    assert score.ssim_y == pytest.approx(every[5:-5, 5:-5].mean(), abs=1e-9)


def test_published_small_images_are_what_imresize_makes(shared: Path) -> None:
    given = find_pairs(shared / "images/Set5/HR", shared / "images/Set5/LR_bicubic/X4", scale=4)
    made = find_pairs(shared / "images/Set5/HR", scale=4)
    assert [files.hr.stem for files in given] == ["baby", "bird", "butterfly", "head", "woman"]
    scores = [evaluate(Bicubic(4), (files.read(4) for files in found[2:4])) for found in (given, made)]
    for published, own in zip(*scores, strict=True):
        assert published.psnr_y == pytest.approx(own.psnr_y, abs=0.005)


def test_small_images_of_either_name(tmp_path: Path) -> None:
    hr = folder_with(tmp_path / "hr", **{"a": noise(33, 35), "é 漢字 [x] 'q'": noise(34, 40)})
    lr = folder_with(tmp_path / "lr", **{"ax2": noise(16, 17), "é 漢字 [x] 'q'": noise(17, 20), "other": noise(5, 5)})
    first, second = find_pairs(hr, lr, scale=2)
    assert (first.lr, second.lr) == (lr / "ax2.png", lr / "é 漢字 [x] 'q'.png")
    pair = first.read(2)
    assert (pair.hr.shape, pair.lr.shape) == ((32, 34, 3), (16, 17, 3))
    np.testing.assert_array_equal(pair.hr, noise(33, 35)[:32, :34])


def test_gray_and_alpha(tmp_path: Path) -> None:
    (tmp_path / "hr").mkdir()
    gray, alpha = noise(20, 20, 1), np.arange(400, dtype=np.uint8).reshape(20, 20)
    write_image(tmp_path / "hr" / "g.png", Picture(gray))
    write_image(tmp_path / "hr" / "t.png", Picture(noise(20, 20), alpha))
    first, second = (files.read(2) for files in find_pairs(tmp_path / "hr", scale=2))
    np.testing.assert_array_equal(first.hr, gray.repeat(3, 2))
    np.testing.assert_array_equal(second.hr, noise(20, 20))


def test_hidden_files_and_subfolders_are_left_out(tmp_path: Path) -> None:
    hr = folder_with(tmp_path / "hr", a=noise(20, 20))
    (hr / "._a.png").write_bytes(b"\0")
    (hr / "notes.txt").write_text("x")
    folder_with(hr / "deeper", b=noise(20, 20))
    assert find_pairs(hr, scale=2) == (PairFiles(hr / "a.png"),)


def test_faults_of_folders(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "HR").mkdir()
    hr = folder_with(tmp_path / "hr", a=noise(20, 20), b=noise(20, 20))
    lr = folder_with(tmp_path / "lr", ax3=noise(10, 10))
    twice = folder_with(tmp_path / "twice", a=noise(10, 10), ax2=noise(10, 10))
    for folders, message in (
        ((tmp_path / "gone",), "gone: no such folder; expected a folder of images"),
        ((hr / "a.png",), "a.png: is a file"),
        ((empty,), "empty: no images in it; expected .avif"),
        ((tree,), "tree: no images in it; its subfolders are HR: name one of them"),
        ((hr, empty), "empty: no images in it"),
        ((hr, lr), "lr: no LR image for a.png; expected a or ax2 in it"),
        ((hr, twice), "twice: a.png and ax2.png could both be the LR image of a.png"),
    ):
        with pytest.raises(UsageError, match=re.escape(message)):
            find_pairs(*folders, scale=2)


def test_faults_of_images(tmp_path: Path) -> None:
    hr = folder_with(tmp_path / "hr", one=noise(1, 1), right=noise(20, 20), small=noise(14, 40))
    one, right, small = (hr / f"{name}.png" for name in ("one", "right", "small"))
    wrong = folder_with(tmp_path / "lr", right=noise(10, 9)) / "right.png"
    deep, torn = hr / "deep.png", hr / "torn.png"
    write_image(deep, Picture(noise(20, 20).astype(np.uint16)))
    torn.write_bytes(right.read_bytes()[:200])
    with pytest.raises(UsageError, match=r"one\.png: 1x1 is too small; SSIM needs 11 pixels inside a border of 2"):
        PairFiles(one).read(2)
    with pytest.raises(UsageError, match=r"small\.png: 40x14 is too small"):
        PairFiles(small).read(2)
    with pytest.raises(UsageError, match=r"right\.png: 9x10 does not match right\.png; expected 10x10 for x2"):
        PairFiles(right, wrong).read(2)
    with pytest.raises(ImageError, match="uint16 samples; PSNR and SSIM are of 8-bit images"):
        PairFiles(deep).read(2)
    with pytest.raises(ImageError, match=r"torn\.png"):
        PairFiles(torn).read(2)
    with pytest.raises(UsageError, match="right: upscaled to 30x30, but HR is 20x20; expected pairs for x3"):
        evaluate(Bicubic(3), [PairFiles(right).read(2)])


def test_the_smallest_image_that_can_be_measured(tmp_path: Path) -> None:
    hr = folder_with(tmp_path / "hr", a=noise(16, 16))
    (score,) = evaluate(Bicubic(2), [PairFiles(hr / "a.png").read(2)])
    assert np.isfinite([score.psnr_y, score.ssim_y]).all()


def test_each_size_is_warmed_up_once_and_told_when_it_is_done() -> None:
    sides = {"a": 20, "b": 20, "c": 30}
    pairs = [
        Pair(name, np.zeros((side, 20, 3), np.uint8), np.zeros((side // 2, 10, 3), np.uint8)) for name, side in sides.items()
    ]
    upscaler, told = Bicubic(2), list[tuple[Pair, np.ndarray, Score]]()
    scores = evaluate(upscaler, iter(pairs), runs=3, observer=lambda *seen: told.append(seen))
    assert upscaler.calls == 2 + 3 * 3
    assert [pair for pair, _, _ in told] == pairs and all(image.shape == pair.hr.shape for pair, image, _ in told)
    assert tuple(score for _, _, score in told) == scores and [score.name for score in scores] == ["a", "b", "c"]
    assert {score.psnr_y for score in scores} == {float("inf")}
    assert {score.ssim_y for score in scores} == {1.0}


def test_nothing_gives_nothing() -> None:
    assert evaluate(Bicubic(2), []) == ()


def test_mean() -> None:
    assert mean_score([Score("a", 30.0, 0.8, 1.0), Score("b", 32.0, 0.9, 3.0)]) == Score("mean", 31.0, pytest.approx(0.85), 2.0)
