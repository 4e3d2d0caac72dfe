"""Draw docs/demo.png, a small picture, and docs/demo.jpg, the same as people have them, which `make demo` upscales.

    python benchmarks/make_demo_picture.py [OUTPUT] [--hr HR.png]

Gabled houses on a canal, with bricks, tiles, windows, a tree and their reflection in the water: edges at many angles, fine
regular patterns and irregular texture. Drawn large, averaged to HR, and reduced by four as SR networks know it; the same bytes
on every run.
"""

from __future__ import annotations

import argparse
import io
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from sr_deploy.bicubic import imresize

Array = np.ndarray[Any, np.dtype[Any]]
Color = tuple[float, float, float]

SCALE, OVERSAMPLING = 4, 2
WIDTH, HEIGHT = 1216, 768
OUTPUT = Path(__file__).resolve().parents[1] / "docs" / "demo.png"

QUAY = 520
"""Height of the quay's edge from above, in HR pixels; the water is below."""

QUALITY = 50
"""Of the JPEG."""

SUBPIXEL = 4
WALLS = ((0.55, 0.22, 0.17), (0.86, 0.80, 0.68), (0.36, 0.42, 0.46), (0.72, 0.46, 0.26), (0.44, 0.17, 0.16), (0.62, 0.64, 0.58))
WHITE: Color = (0.95, 0.94, 0.9)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("output", type=Path, nargs="?", default=OUTPUT)
    parser.add_argument("--hr", type=Path, help="write the picture in full resolution too")
    options = parser.parse_args()
    hr = draw()
    if options.hr:
        options.hr.write_bytes(as_png(hr))
    data = as_png(imresize(hr, HEIGHT // SCALE, WIDTH // SCALE))
    options.output.write_bytes(data)
    print(f"{options.output}: {len(data)} bytes")
    Image.open(io.BytesIO(data)).save(options.output.with_suffix(".jpg"), quality=QUALITY)


def as_png(rgb: Array) -> bytes:
    done, data = cv2.imencode(".png", rgb[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 9])
    if not done:
        raise SystemExit("the picture could not be encoded")
    return data.tobytes()


def draw() -> Array:
    """Draw the picture in full resolution: (768, 1216, 3) uint8 RGB."""
    random = np.random.Generator(np.random.PCG64(5))
    scene = Scene(random)
    scene.draw_sky()
    left, index = -30.0, 0
    while left < WIDTH:
        width = float(random.uniform(118, 176))
        scene.draw_house(left, width, float(random.uniform(250, 330)), WALLS[index % len(WALLS)], index)
        left, index = left + width, index + 1
    scene.draw_quay()
    scene.draw_tree(300, 320, 105)
    scene.draw_tree(985, 350, 85)
    scene.draw_bunting(((-20, 190), (330, 262), (640, 175), (960, 300), (1240, 170)))
    scene.draw_grain()
    scene.reflect()
    scene.draw_boat(560, 640)
    fine = scene.canvas.reshape(HEIGHT, OVERSAMPLING, WIDTH, OVERSAMPLING, 3).mean(axis=(1, 3))
    return np.asarray(np.floor(np.clip(fine, 0, 1) * 255 + 0.5), np.uint8)


class Scene:
    """A canvas in HR coordinates, drawn in `OVERSAMPLING` times as many pixels."""

    def __init__(self, random: np.random.Generator) -> None:
        self.random = random
        self.canvas = np.zeros((HEIGHT * OVERSAMPLING, WIDTH * OVERSAMPLING, 3), np.float32)
        self.texture = natural_texture(random, *self.canvas.shape[:2])

    def polygon(self, points: Any, color: Color) -> None:
        scaled = np.round(np.asarray(points, np.float64) * OVERSAMPLING * 2**SUBPIXEL).astype(np.int32)
        cv2.fillPoly(self.canvas, [scaled], color, cv2.LINE_8, SUBPIXEL)

    def box(self, left: float, top: float, right: float, bottom: float, color: Color) -> None:
        self.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], color)

    def line(self, points: Any, color: Color, width: float) -> None:
        scaled = np.round(np.asarray(points, np.float64) * OVERSAMPLING * 2**SUBPIXEL).astype(np.int32)
        cv2.polylines(self.canvas, [scaled], False, color, max(1, round(width * OVERSAMPLING)), cv2.LINE_8, SUBPIXEL)

    def draw_sky(self) -> None:
        """Blue, lighter towards the horizon, with clouds."""
        down = np.linspace(0, 1, len(self.canvas), dtype=np.float32)[:, None, None]
        clouds = np.clip(self.texture[..., None] * 0.35 + 0.1, 0, 0.75)
        blue = np.array([0.36, 0.56, 0.82], np.float32) * (1 - down) + np.array([0.95, 0.9, 0.85], np.float32) * down
        self.canvas[:] = blue * (1 - clouds) + clouds

    def draw_house(self, left: float, width: float, height: float, wall: Color, index: int) -> None:
        """A front with bricks, windows and a door under a stepped, a bent or a pointed gable."""
        right, top = left + width, QUAY - height
        gable = np.array((stepped, bent, pointed)[index % 3](left, right, top, width * 0.55))
        self.polygon([(left, QUAY), *gable, (right, QUAY)], wall)
        self.draw_bricks(left, right, gable, wall)
        self.line([(left, QUAY), *gable, (right, QUAY)], WHITE if index % 2 else shade(wall, 0.6), 4)
        columns, rows = (3, 3) if width > 135 else (2, 3)
        pitch, floor = width / columns, height / (rows + 0.75)
        for row in range(rows):
            for column in range(columns):
                x, y = left + (column + 0.5) * pitch, top + 14 + row * floor
                self.draw_window(x, y, pitch * 0.54, floor * 0.68, shutters=index % 3 == 0)
        self.draw_window((left + right) / 2, top - width * 0.26, width * 0.17, width * 0.2, shutters=False)
        self.draw_door((left + right) / 2 - pitch * 0.1, pitch * 0.5, floor * 0.62, index)

    def draw_bricks(self, left: float, right: float, gable: Array, wall: Color) -> None:
        """Rows of bricks, each brick of its own shade, with mortar between them; only where the wall is."""
        mask = np.zeros(self.canvas.shape[:2], np.uint8)
        outline = np.array([(left, QUAY), *gable, (right, QUAY)]) * OVERSAMPLING
        cv2.fillPoly(mask, [np.round(outline).astype(np.int32)], (1,))
        y, x = np.mgrid[0 : len(mask), 0 : mask.shape[1]] / OVERSAMPLING
        row = np.floor(y / 7).astype(int)
        across = (x - left) / 15 + 0.5 * (row % 2)
        column = np.floor(across).astype(int)
        tint = self.random.uniform(0.8, 1.15, (HEIGHT // 7 + 1, 400))[row, column % 400]
        mortar = (y % 7 < 1.2) | ((across - column) * 15 < 1.2)
        colored = np.asarray(wall) * tint[..., None]
        bricks = np.where(mortar[..., None], np.asarray(wall) * 0.55 + 0.3, colored)
        self.canvas[mask > 0] = bricks[mask > 0]

    def draw_window(self, x: float, y: float, width: float, height: float, *, shutters: bool) -> None:
        """A sash window with glazing bars, the sky in its panes, a sill, and perhaps shutters."""
        left, right, bottom = x - width / 2, x + width / 2, y + height
        self.box(left - 3, y - 3, right + 3, bottom + 3, WHITE)
        lit = self.random.uniform() < 0.2
        for row in range(4):
            for column in range(3):
                glass = (0.95, 0.8, 0.45) if lit else shade((0.3, 0.4, 0.5), float(self.random.uniform(0.4, 1.3)))
                a, b = left + column * width / 3, y + row * height / 4
                self.box(a + 0.8, b + 0.8, a + width / 3 - 0.8, b + height / 4 - 0.8, glass)
        self.box(left - 6, bottom + 3, right + 6, bottom + 7, (0.75, 0.74, 0.7))
        if shutters:
            for edge in (left - 3 - width * 0.32, right + 3):
                self.box(edge, y - 3, edge + width * 0.32, bottom + 3, (0.1, 0.3, 0.22))
                for slat in np.arange(y, bottom, 3.4):
                    self.box(edge + 2, slat, edge + width * 0.32 - 2, slat + 1.3, (0.2, 0.45, 0.33))

    def draw_door(self, left: float, width: float, height: float, index: int) -> None:
        color = ((0.1, 0.22, 0.18), (0.4, 0.08, 0.08), (0.1, 0.14, 0.32))[index % 3]
        self.box(left - 4, QUAY - height - 4, left + width + 4, QUAY, WHITE)
        self.box(left, QUAY - height, left + width, QUAY, color)
        for row in range(2):
            for column in range(2):
                a, b = left + (0.1 + 0.46 * column) * width, QUAY - height * (0.92 - 0.45 * row)
                right, bottom = a + width * 0.34, b + height * 0.36
                self.line([(a, b), (right, b), (right, bottom), (a, bottom), (a, b)], shade(color, 1.9), 1.2)

    def draw_quay(self) -> None:
        """A wall of large stones, and a railing."""
        for row in range(3):
            x = -20.0 * row
            while x < WIDTH:
                width = float(self.random.uniform(26, 52))
                self.box(
                    x,
                    QUAY + row * 13,
                    x + width - 1.5,
                    QUAY + row * 13 + 11.5,
                    shade((0.5, 0.48, 0.45), float(self.random.uniform(0.7, 1.2))),
                )
                x += width
        for x in np.arange(4, WIDTH, 9.5):
            self.line([(x, QUAY - 26), (x, QUAY)], (0.08, 0.09, 0.1), 1)
        self.line([(0, QUAY - 26), (WIDTH, QUAY - 26)], (0.08, 0.09, 0.1), 2)

    def draw_tree(self, x: float, y: float, radius: float) -> None:
        """A trunk, branches, and leaves that lie over one another, lighter towards the top."""
        bark = (0.2, 0.15, 0.11)
        self.polygon([(x - 8, QUAY), (x - 5, y), (x + 5, y), (x + 9, QUAY)], bark)
        for angle in np.linspace(-2.6, -0.5, 7):
            tip = (x + 0.8 * radius * np.cos(angle), y + 30 + 0.9 * radius * np.sin(angle))
            self.line([(x, y + 40), ((x + tip[0]) / 2, (y + tip[1]) / 2 + 16), tip], bark, 3)
        for _ in range(1500):
            angle, distance = self.random.uniform(0, 2 * np.pi), radius * np.sqrt(self.random.uniform(0, 1))
            a, b = x + distance * np.cos(angle), y + 0.8 * distance * np.sin(angle)
            light = float(np.clip(0.75 - 0.4 * (b - y) / radius + self.random.normal(0, 0.18), 0.25, 1.3))
            self.polygon(
                leaf(a, b, float(self.random.uniform(0, np.pi)), float(self.random.uniform(3, 7))),
                shade((0.36, 0.5, 0.16), light),
            )

    def draw_bunting(self, knots: Any) -> None:
        """Strings from knot to knot that hang, with colored flags."""
        colors: tuple[Color, ...] = ((0.8, 0.15, 0.12), (0.95, 0.8, 0.2), (0.15, 0.3, 0.65), WHITE)
        for (x0, y0), (x1, y1) in pairwise(knots):
            t = np.linspace(0, 1, 15)
            string = np.stack([x0 + (x1 - x0) * t, y0 + (y1 - y0) * t + 150 * t * (1 - t)], axis=1)
            for at, (p, q) in enumerate(pairwise(string)):
                a, b = p * 0.75 + q * 0.25, p * 0.25 + q * 0.75
                self.polygon([a, b, (a + b) / 2 + (0, 17)], colors[at % 4])
            self.line(string, (0.15, 0.13, 0.12), 1)

    def draw_grain(self) -> None:
        """Weather on everything below the sky."""
        self.canvas *= 1 + 0.05 * self.texture[..., None]

    def reflect(self) -> None:
        """The water: what is above it upside down, darker, and broken by ripples that grow towards the viewer."""
        shore = (QUAY + 39) * OVERSAMPLING
        rows, columns = np.mgrid[shore : len(self.canvas), 0 : self.canvas.shape[1]]
        depth = (rows - shore) / OVERSAMPLING
        uneven = cv2.GaussianBlur(self.texture[shore:], (0, 0), 18 * OVERSAMPLING, sigmaY=2 * OVERSAMPLING)
        wave = np.sin(depth * 170 / (depth + 60) + 5 * uneven) * (0.6 + depth * 0.02)
        source = np.clip(shore - 1 - (rows - shore) * 1.6 + wave * 5, 0, shore - 1).astype(int)
        across = np.clip(columns + wave * 3 * OVERSAMPLING, 0, self.canvas.shape[1] - 1).astype(int)
        tint = np.array([0.55, 0.66, 0.68], np.float32)
        glint = 0.05 * np.maximum(wave, 0)[..., None] / (1 + depth[..., None] * 0.05)
        self.canvas[shore:] = self.canvas[source, across] * tint + glint

    def draw_boat(self, x: float, y: float) -> None:
        """A rowing boat of planks, with its name in strokes on it."""
        hull = np.array(
            [(x - 120, y - 18), (x - 95, y + 24), (x + 90, y + 24), (x + 128, y - 26), (x + 60, y - 8), (x - 70, y - 6)]
        )
        self.polygon(hull, (0.45, 0.25, 0.12))
        for plank in (0.25, 0.5, 0.75):
            self.line([hull[0] + plank * (hull[1] - hull[0]), hull[3] + plank * (hull[2] - hull[3])], (0.2, 0.1, 0.05), 1.5)
        self.line([hull[0], hull[5], hull[4], hull[3]], WHITE, 3)
        origin = (round((x - 76) * OVERSAMPLING), round((y + 16) * OVERSAMPLING))
        letters = np.zeros(self.canvas.shape[:2], np.uint8)
        cv2.putText(letters, "SR-DEPLOY", origin, cv2.FONT_HERSHEY_DUPLEX, 0.85 * OVERSAMPLING, 1, 2, cv2.LINE_8)
        self.canvas[letters > 0] = WHITE


def natural_texture(random: np.random.Generator, height: int, width: int) -> Array:
    """Noise with the 1/f amplitude spectrum of photographs, zero mean, unit variance."""
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :]
    frequency = np.maximum(np.hypot(fy, fx), 1 / width)
    noise = np.fft.irfft2(np.exp(1j * random.uniform(0, 2 * np.pi, frequency.shape)) / frequency**1.3, s=(height, width))
    return np.asarray((noise - noise.mean()) / noise.std(), np.float32)


def stepped(left: float, right: float, top: float, rise: float) -> list[tuple[float, float]]:
    """Steps up to the middle and down again."""
    points = []
    for step in range(5):
        x = left + (right - left) * 0.09 * step
        points += [(x, top - rise * step / 4), (x + (right - left) * 0.09, top - rise * step / 4)]
    return points + [(left + right - x, y) for x, y in reversed(points)]


def bent(left: float, right: float, top: float, rise: float) -> list[tuple[float, float]]:
    """Two curves like the sides of a bell."""
    t = np.linspace(0, 1, 20)
    x, y = left + (right - left) * 0.36 * t, top - rise * (0.5 - 0.5 * np.cos(np.pi * t))
    curve = list(zip(x.tolist(), y.tolist(), strict=True))
    return curve + [(left + right - a, b) for a, b in reversed(curve)]


def pointed(left: float, right: float, top: float, rise: float) -> list[tuple[float, float]]:
    """Two straight sides."""
    return [(left, top), ((left + right) / 2, top - rise), (right, top)]


def leaf(x: float, y: float, angle: float, length: float) -> list[tuple[float, float]]:
    along, beside = np.array([np.cos(angle), np.sin(angle)]) * length, np.array([-np.sin(angle), np.cos(angle)]) * length * 0.4
    return [(x + side * float(dx), y + side * float(dy)) for side in (1, -1) for dx, dy in (along, beside)]


def shade(color: Color, factor: float) -> Color:
    red, green, blue = (min(channel * factor, 1.0) for channel in color)
    return red, green, blue


if __name__ == "__main__":
    main()
