"""Each step against a computation that shares nothing with it: formulas in NumPy, torch, Pillow, OpenCV's own FFmpeg."""

from __future__ import annotations

import io
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from sr_deploy.export.probes import probe_picture
from sr_deploy.training.degradation.steps import (
    as_jpeg,
    as_video,
    blurred,
    gaussian_kernel,
    h264_packets,
    jpeg_bytes,
    resized,
    with_gaussian_noise,
    with_shot_noise,
)

PICTURE = np.ascontiguousarray(probe_picture()[60:124, 40:120])


def rotated_gaussian(sigma_x: float, sigma_y: float, angle: float, radius: int) -> np.ndarray:
    """exp(-x^T C^-1 x / 2) with the covariance R diag(sigma^2) R^T, its sum 1."""
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    inverse = np.linalg.inv(turn @ np.diag([sigma_x**2, sigma_y**2]) @ turn.T)
    weights = np.empty((2 * radius + 1,) * 2)
    for y in range(-radius, radius + 1):
        for x in range(-radius, radius + 1):
            place = np.array([x, y])
            weights[y + radius, x + radius] = math.exp(-0.5 * place @ inverse @ place)
    return weights / weights.sum()


@pytest.mark.parametrize(("sigma_x", "sigma_y", "angle"), [(0.3, 0.3, 0.0), (2.0, 2.0, 0.0), (2.4, 0.6, 0.7), (0.5, 1.5, 3.0)])
def test_a_blur_is_the_sum_over_mirrored_neighbors(sigma_x: float, sigma_y: float, angle: float) -> None:
    radius = max(1, math.ceil(3 * max(sigma_x, sigma_y)))
    weights = rotated_gaussian(sigma_x, sigma_y, angle, radius)
    np.testing.assert_allclose(gaussian_kernel(sigma_x, sigma_y, angle), weights, atol=1e-7)
    padded = np.pad(PICTURE.astype(np.float64), ((radius, radius), (radius, radius), (0, 0)), mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, weights.shape, axis=(0, 1))
    expected = np.einsum("hwcyx,yx->hwc", windows, weights)
    np.testing.assert_allclose(blurred(PICTURE, sigma_x, sigma_y, angle), expected, atol=1.25)
    assert np.abs(blurred(PICTURE, sigma_x, sigma_y, angle) - expected).mean() < 0.3


def by_torch(image: np.ndarray, height: int, width: int, mode: str, *, antialias: bool) -> np.ndarray:
    planes = torch.from_numpy(image).permute(2, 0, 1)[None].double()
    scaled = F.interpolate(planes, size=(height, width), mode=mode, align_corners=False, antialias=antialias)
    return scaled[0].permute(1, 2, 0).numpy()


@pytest.mark.parametrize("size", [(23, 31), (64, 80), (90, 113)])
@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("kernel", ["bilinear", "bicubic"])
def test_resampling_is_that_of_torch(kernel: str, antialias: bool, size: tuple[int, int]) -> None:
    found = resized(PICTURE, *size, kernel, antialias=antialias)  # type: ignore[arg-type]
    expected = np.clip(by_torch(PICTURE, *size, kernel, antialias=antialias), 0, 255)
    difference = np.abs(found - expected)
    assert difference.max() < 7 and difference.mean() < 0.5, "8 bits after each axis"


def test_aliased_and_not_are_two_things() -> None:
    ways = [resized(PICTURE, 16, 20, "bicubic", antialias=antialias).astype(int) for antialias in (False, True)]
    assert np.abs(ways[0] - ways[1]).mean() > 2


@pytest.mark.parametrize("size", [(32, 20), (23, 31)])
def test_area_is_the_mean_over_what_a_pixel_covers(size: tuple[int, int]) -> None:
    def shares(source: int, target: int) -> np.ndarray:
        edges = np.arange(target + 1) * source / target
        lows, highs = np.maximum(edges[:-1, None], np.arange(source)), np.minimum(edges[1:, None], np.arange(source) + 1)
        covered = np.clip(highs - lows, 0, None)
        return covered / covered.sum(1, keepdims=True)

    rows, columns = shares(64, size[0]), shares(80, size[1])
    expected = np.einsum("yh,hwc,xw->yxc", rows, PICTURE, columns)
    np.testing.assert_allclose(resized(PICTURE, *size, "area", antialias=True), expected, atol=0.51)


@pytest.mark.parametrize("gray", [False, True])
def test_gaussian_noise_has_its_sigma_and_no_mean(gray: bool) -> None:
    image = np.full((200, 200, 3), 120, np.uint8)
    noise = with_gaussian_noise(image, 9.0, gray=gray, random=np.random.default_rng(1)) - image.astype(float)
    assert noise.std() == pytest.approx(math.hypot(9, 1 / math.sqrt(12)), rel=0.02)
    assert noise.mean() == pytest.approx(0, abs=0.15)
    together = np.corrcoef(noise[..., 0].ravel(), noise[..., 1].ravel())[0, 1]
    assert together == pytest.approx(float(gray), abs=0.02)
    beside = np.corrcoef(noise[:, :-1, 0].ravel(), noise[:, 1:, 0].ravel())[0, 1]
    assert abs(beside) < 0.02


@pytest.mark.parametrize("gray", [False, True])
@pytest.mark.parametrize(("value", "peak"), [(20, 100.0), (20, 1500.0), (200, 60.0), (90, 400.0)])
def test_shot_noise_is_as_wide_as_the_root_of_what_is_counted(value: int, peak: float, gray: bool) -> None:
    image = np.full((300, 300, 3), value, np.uint8)
    noise = with_shot_noise(image, peak, gray=gray, random=np.random.default_rng(2)) - image.astype(float)
    photons = value / 255 * peak
    exact = np.random.default_rng(3).poisson(photons, 200_000) * 255 / peak
    expected = np.clip(np.rint(exact), 0, 255) - value
    assert noise.std() == pytest.approx(expected.std(), rel=0.02)
    assert noise.mean() == pytest.approx(expected.mean(), abs=0.02 * expected.std() + 0.02)
    for share in (5, 50, 95):
        assert np.percentile(noise, share) == pytest.approx(np.percentile(expected, share), abs=1.01)
    assert np.corrcoef(noise[..., 0].ravel(), noise[..., 2].ravel())[0, 1] == pytest.approx(float(gray), abs=0.02)


def test_black_has_no_photons() -> None:
    black = np.zeros((8, 8, 3), np.uint8)
    np.testing.assert_array_equal(with_shot_noise(black, 100, gray=False, random=np.random.default_rng(0)), black)


LUMA_TABLE = """
16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56 14 17 22 29 51 87 80 62
18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92 49 64 78 87 103 121 120 101 72 92 95 98 112 100 103 99
"""
"""Table K.1 of ITU-T T.81, row by row."""


def scaled_table(quality: int) -> list[int]:
    """How the Independent JPEG Group makes a table of a quality."""
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    return [min(255, max(1, (int(value) * percent + 50) // 100)) for value in LUMA_TABLE.split()]


@pytest.mark.parametrize("quality", [1, 25, 50, 77, 95, 100])
def test_a_jpeg_has_the_tables_of_its_quality(quality: int) -> None:
    with Image.open(io.BytesIO(jpeg_bytes(PICTURE, quality, "4:2:0"))) as file:
        assert sorted(file.quantization[0]) == sorted(scaled_table(quality))


@pytest.mark.parametrize(("subsampling", "factors"), [("4:4:4", (1, 1)), ("4:2:2", (2, 1)), ("4:2:0", (2, 2))])
def test_a_jpeg_has_its_chroma_and_shows_what_pillow_shows(subsampling: str, factors: tuple[int, int]) -> None:
    data = jpeg_bytes(PICTURE, 60, subsampling)  # type: ignore[arg-type]
    with Image.open(io.BytesIO(data)) as file:
        (_, *luma, _), *_ = file.layer  # type: ignore[attr-defined]
        assert tuple(luma) == factors
        shown = np.asarray(file.convert("RGB"), int)
    found = as_jpeg(PICTURE, 60, subsampling)  # type: ignore[arg-type]
    assert found.dtype == np.uint8 and np.abs(found - shown).max() <= 2
    assert np.abs(found - PICTURE.astype(int)).mean() > 1


def units(packet: bytes) -> list[int]:
    """The kinds of the NAL units behind each start code, by the H.264 standard: 7 and 8 are parameters, 5 and 1 pictures."""
    return [part[0] & 31 for part in packet.split(b"\0\0\1")[1:]]


def test_video_is_a_key_frame_and_frames_after_it() -> None:
    first, *others = h264_packets([PICTURE] * 3, 25)
    assert {7, 8, 5} <= set(units(first)) and units(first)[-1] == 5
    assert [units(packet)[-1] for packet in others] == [1, 1]


def test_video_shows_what_opencv_shows_of_the_stream(tmp_path: Path) -> None:
    """OpenCV brings an FFmpeg of its own."""
    frames = [np.roll(PICTURE, shift, axis=1) for shift in (0, 1, 2)]
    path = tmp_path / "stream.h264"
    path.write_bytes(b"".join(h264_packets(frames, 24)))
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    read = [capture.read()[1][..., ::-1] for _ in frames]
    assert not capture.read()[0]
    capture.release()
    shown = as_video(PICTURE, 24, 1, (0, 0)).astype(int)
    assert np.abs(shown - read[0]).mean() < 1.5, "colors of chroma are interpolated differently"


def psnr(image: np.ndarray) -> float:
    return 10 * math.log10(255**2 / np.mean((image.astype(float) - PICTURE) ** 2))


def test_video_gets_worse_with_crf() -> None:
    quality = [psnr(as_video(PICTURE, crf, 3, (1, -2))) for crf in (12, 24, 36, 48)]
    assert quality == sorted(quality, reverse=True) and quality[0] > 30 and quality[0] - quality[-1] > 8


@pytest.mark.parametrize("shift", [(0, 0), (2, -2), (-1, 2)])
@pytest.mark.parametrize("size", [(64, 80), (33, 47), (17, 16)])
def test_what_moved_lies_where_it_lay(size: tuple[int, int], shift: tuple[int, int]) -> None:
    image = np.ascontiguousarray(PICTURE[: size[0], : size[1]])
    shown = as_video(image, 10, 4, shift)
    assert shown.shape == image.shape
    assert np.abs(shown.astype(int) - image).mean() < 6
