"""HR pictures that photos do not have: text, line art, dither, flat colors, pixel art, gradients.

Each generator takes a side and a source of chance, and gives (side, side, 3) uint8 RGB.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from sr_deploy.arrays import Array

Random = np.random.Generator
ContentKind = Literal["text", "line art", "dither", "flat colors", "pixel art", "gradient"]
CONTENT_KINDS: tuple[ContentKind, ...] = get_args(ContentKind)

_LETTERS = "etaoinshrdlucmfwypvbgkjqxzETAOINSHRDLUCMFWYPVBGKJQXZ0123456789.,;:!?()-+/%&"
_BAYER = np.array([[0, 8, 2, 10], [12, 4, 14, 6], [3, 11, 1, 9], [15, 7, 13, 5]], np.float32) / 16


@dataclass(frozen=True)
class GeneratedContent:
    """What of the crops is of generated pictures: their `share`, of which `kinds`, and how many `pictures` there are."""

    share: float
    kinds: tuple[ContentKind, ...] = CONTENT_KINDS
    pictures: int = 240


def generate(kind: ContentKind, side: int, random: Random) -> Array:
    """One picture of that kind."""
    return _GENERATORS[kind](side, random)


def text(side: int, random: Random) -> Array:
    """Lines of letters of one size on a plain ground, straight or slightly turned."""
    from PIL import Image, ImageDraw, ImageFont

    ground, ink = _two_colors(random)
    height = int(random.integers(8, max(9, side // 6)))
    font = ImageFont.load_default(height)
    image = Image.new("RGB", (side, side), ground)
    draw = ImageDraw.Draw(image)
    for top in range(-int(random.integers(height)), side, round(height * random.uniform(1.1, 1.8))):
        letters = "".join(random.choice(list(_LETTERS), 4 * side // height))
        line = "".join(letter if random.random() < 0.83 else " " for letter in letters)
        draw.text((-int(random.integers(height)), top), line, ink, font)
    if random.random() < 0.3:
        image = image.rotate(random.uniform(-20, 20), Image.Resampling.BICUBIC, fillcolor=ground)
    return np.asarray(image)


def line_art(side: int, random: Random) -> Array:
    """Strokes, circles and hatching of one ink."""
    import cv2

    ground, ink = _two_colors(random)
    image = np.full((side, side, 3), ground, np.uint8)
    edge = cv2.LINE_AA if random.random() < 0.7 else cv2.LINE_8
    for _ in range(int(random.integers(6, 16))):
        width = int(random.integers(1, 5))
        shape = random.integers(4)
        points = random.integers(0, side, (int(random.integers(2, 6)), 2)).astype(np.int32)
        if shape == 0:
            cv2.polylines(image, [points], False, ink, width, edge)
        elif shape == 1:
            radius = int(random.integers(2, side // 3))
            cv2.circle(image, points[0].tolist(), radius, ink, width, edge)
        elif shape == 2:
            axes = random.integers(2, side // 3, 2).tolist()
            cv2.ellipse(image, points[0].tolist(), axes, random.uniform(0, 180), 0, random.uniform(90, 360), ink, width, edge)
        else:
            step, slope = int(random.integers(width + 2, width + 8)), int(random.integers(-side, side))
            (left, top), size = points[0].tolist(), int(random.integers(8, side // 2))
            for x in range(left, left + size, step):
                cv2.line(image, (x, top), (x + slope * size // side, top + size), ink, width, edge)
    return image


def dither(side: int, random: Random) -> Array:
    """A soft picture in two colors: by an ordered matrix, by error diffusion, or by chance; pixels may be 2x2."""
    from PIL import Image

    step = int(random.integers(1, 3))
    small = -(-side // step)
    soft = _soft(small, random)
    way = random.integers(3)
    if way == 0:
        tiles = -(-small // len(_BAYER))
        bits = soft > np.tile(_BAYER, (tiles, tiles))[:small, :small]
    elif way == 1:
        bits = np.asarray(Image.fromarray((soft * 255).astype(np.uint8)).convert("1"), bool)
    else:
        bits = soft > random.random(soft.shape, np.float32)
    return _enlarged(np.array(_two_colors(random), np.uint8)[bits.astype(int)], step, side)


def flat_colors(side: int, random: Random) -> Array:
    """Polygons, boxes and disks of plain colors over each other."""
    import cv2

    image = np.full((side, side, 3), _color(random), np.uint8)
    edge = cv2.LINE_AA if random.random() < 0.7 else cv2.LINE_8
    for _ in range(int(random.integers(5, 20))):
        color, shape = _color(random), random.integers(3)
        points = random.integers(-side // 8, side + side // 8, (int(random.integers(3, 7)), 2)).astype(np.int32)
        if shape == 0:
            cv2.fillPoly(image, [points], color, edge)
        elif shape == 1:
            cv2.rectangle(image, points[0].tolist(), points[1].tolist(), color, cv2.FILLED)
        else:
            cv2.circle(image, points[0].tolist(), int(random.integers(2, side // 3)), color, cv2.FILLED, edge)
    return image


def pixel_art(side: int, random: Random) -> Array:
    """Symmetric figures of few colors on a grid of large pixels."""
    step = int(random.integers(2, 9))
    small = -(-side // step)
    palette = np.array([_color(random) for _ in range(int(random.integers(3, 17)))], np.uint8)
    codes = np.zeros((small, small), np.int64)
    figure = int(random.integers(4, 13))
    for top in range(0, small, figure + 1):
        for left in range(0, small, figure + 1):
            half = random.integers(len(palette), size=(figure, -(-figure // 2)))
            half[random.random(half.shape) < 0.4] = 0
            whole = np.concatenate([half, half[:, ::-1][:, figure % 2 :]], axis=1)
            room = codes[top : top + figure, left : left + figure]
            room[:] = whole[: room.shape[0], : room.shape[1]]
    return _enlarged(palette[codes], step, side)


def gradient(side: int, random: Random) -> Array:
    """From color to color, along a line, about a point, or in soft clouds; sometimes in visible bands."""
    y, x = np.mgrid[:side, :side] / side
    way, angle = random.integers(3), random.uniform(0, 2 * math.pi)
    if way == 0:
        share = x * math.cos(angle) + y * math.sin(angle)
        share = (share - share.min()) / np.ptp(share)
    elif way == 1:
        center = random.uniform(-0.2, 1.2, 2)
        share = np.clip(np.hypot(x - center[0], y - center[1]) / random.uniform(0.5, 1.5), 0, 1)
    else:
        share = _soft(side, random)
    if random.random() < 0.3:
        bands = int(random.integers(4, 24))
        share = np.round(share * bands) / bands
    first, second = (np.array(color, np.float64) for color in _two_colors(random))
    return np.asarray(np.rint(first + share[..., None] * (second - first)), np.uint8)


_GENERATORS: dict[ContentKind, Callable[[int, Random], Array]] = {
    "text": text,
    "line art": line_art,
    "dither": dither,
    "flat colors": flat_colors,
    "pixel art": pixel_art,
    "gradient": gradient,
}


def _color(random: Random) -> tuple[int, int, int]:
    """Any, or gray, black or white as graphics often are."""
    kind = random.random()
    red, green, blue = map(int, random.integers(0, 256, 3))
    if kind < 0.3:
        red = 255 * (red > 127)
    return (red, green, blue) if kind > 0.45 else (red, red, red)


def _two_colors(random: Random) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Colors that can be told apart."""
    while True:
        ground, ink = _color(random), _color(random)
        if sum(abs(a - b) for a, b in zip(ground, ink, strict=True)) >= 160:
            return ground, ink


def _soft(side: int, random: Random) -> Array:
    """(side, side) of a few random values, smooth between them, 0 to 1."""
    import cv2

    coarse = random.random((int(random.integers(2, 7)),) * 2, np.float32)
    return np.clip(cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC), 0, 1)


def _enlarged(image: Array, step: int, side: int) -> Array:
    return np.ascontiguousarray(image.repeat(step, 0).repeat(step, 1)[:side, :side])
