"""Degradations as a whole: what is drawn, in which order, and that chance comes from the seed alone."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from sr_deploy.bicubic import imresize
from sr_deploy.export.probes import probe_picture
from sr_deploy.training.degradation import degrade
from sr_deploy.training.degradation.settings import (
    Blur,
    Degradation,
    DegradationRound,
    Jpeg,
    Noise,
    Resampling,
    VideoCompression,
)
from sr_deploy.training.degradation.steps import as_jpeg, blurred, resized

HR = np.ascontiguousarray(probe_picture()[60:156, 40:152])
CLEAN = imresize(HR, 48, 56)
ROUND = DegradationRound(
    Blur(sigma=(0.5, 1.5), anisotropic=0.5), Resampling(factor=(0.6, 1.2), antialias=0.5), Noise(poisson=0.5), Jpeg()
)
TWO = Degradation((ROUND, ROUND))


def drawn(settings: Degradation, count: int = 30) -> list[tuple[str, ...]]:
    return [degrade(HR, CLEAN, settings, np.random.default_rng(seed)).told for seed in range(count)]


def kinds(told: tuple[str, ...]) -> list[str]:
    """The steps without their numbers."""
    words = {"blur": "blur", "noise": "noise", "JPEG": "jpeg", "H.264": "video"}
    return [next((kind for word, kind in words.items() if word in step), "size") for step in told]


def test_lr_has_its_size_and_depends_on_chance_alone() -> None:
    settings = replace(TWO, video=VideoCompression(0.5), clean=0.1, order="shuffled")
    seeds = range(12)

    def make(seed: int) -> np.ndarray:
        image = degrade(HR, CLEAN, settings, np.random.default_rng(seed)).image
        assert image.shape == CLEAN.shape and image.dtype == np.uint8
        return image

    one_by_one = [make(seed) for seed in seeds]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(make, seeds))
    for first, second in zip(one_by_one, together, strict=True):
        np.testing.assert_array_equal(first, second)
    assert len({image.tobytes() for image in one_by_one}) == len(seeds)


def test_nothing_drawn_with_fixed_values_is_the_steps_in_order() -> None:
    """Blur, size and JPEG with ranges of one value, made here by hand."""
    first = DegradationRound(blur=Blur(sigma=(1.1, 1.1)), resize=Resampling(factor=(0.5, 0.5), kernels=("area",)))
    second = DegradationRound(jpeg=Jpeg(quality=(40, 40), subsampling=("4:2:0",)))
    found = degrade(HR, CLEAN, Degradation((first, second)), np.random.default_rng(0))
    by_hand = as_jpeg(resized(blurred(HR, 1.1, 1.1, 0), 48, 56, "area", antialias=True), 40, "4:2:0")
    np.testing.assert_array_equal(found.image, by_hand)
    assert found.told == ("blur 1.1", "56x48 area", "JPEG 40 4:2:0")


def test_two_rounds_come_in_order_and_end_with_the_size_and_a_jpeg() -> None:
    order = ["blur", "size", "noise", "jpeg", "blur", "size", "noise", "size", "jpeg"]
    for told in drawn(TWO, 8):
        assert kinds(told) == order
        assert told[-2].startswith("56x48 ")


def test_shuffled_steps_come_in_any_order_but_the_size_and_the_last_jpeg() -> None:
    found = [kinds(told) for told in drawn(replace(TWO, order="shuffled"))]
    assert len({tuple(steps[:7]) for steps in found}) > 10
    assert all(sorted(steps[:7]) == sorted(["blur", "size", "noise", "jpeg", "blur", "size", "noise"]) for steps in found)
    assert all(steps[-1] == "jpeg" and steps.count("jpeg") == 2 for steps in found)


def test_values_are_drawn_from_their_ranges() -> None:
    text = " ".join(" ".join(told) for told in drawn(TWO, 60))
    qualities = [int(value) for value in re.findall(r"JPEG (\d+)", text)]
    assert 30 <= min(qualities) < 40 and 85 < max(qualities) <= 95
    assert {"4:2:0", "4:4:4"} == set(re.findall(r"4:\d:\d", text))
    blurs = [float(value) for value in re.findall(r"blur (\d\.\d)", text)]
    assert 0.5 <= min(blurs) < max(blurs) <= 1.5
    for words in (
        r"blur \d\.\dx\d\.\d at \d+",
        "gray noise",
        "(?<!gray )noise",
        "shot noise",
        "area",
        "bilinear",
        "bicubic",
        "bicubic aliased",
    ):
        assert re.search(words, text), words


@pytest.mark.parametrize(
    ("settings", "kind", "share"),
    [
        (Degradation((DegradationRound(blur=Blur(0.3)),)), "blur", 0.3),
        (Degradation((DegradationRound(noise=Noise(0.6)),)), "noise", 0.6),
        (Degradation((DegradationRound(jpeg=Jpeg(0.25)),)), "jpeg", 0.25),
        (Degradation((DegradationRound(),), video=VideoCompression(0.2)), "video", 0.2),
    ],
)
def test_a_step_happens_as_often_as_its_probability(settings: Degradation, kind: str, share: float) -> None:
    times = sum(kind in kinds(told) for told in drawn(settings, 200))
    assert times / 200 == pytest.approx(share, abs=0.1)


def test_some_stay_clean() -> None:
    settings = replace(TWO, clean=0.4)
    made = [degrade(HR, CLEAN, settings, np.random.default_rng(seed)) for seed in range(100)]
    clean = [degraded for degraded in made if degraded.told == ("clean",)]
    assert 25 < len(clean) < 55
    np.testing.assert_array_equal(clean[0].image, CLEAN)


def test_video_stands_in_the_place_of_the_last_jpeg() -> None:
    for told in drawn(replace(TWO, video=VideoCompression(1.0, crf=(20, 20))), 4):
        assert told[-1] == "H.264 crf 20" and kinds(told).count("jpeg") == 1
