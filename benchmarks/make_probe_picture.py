"""Draw sr_deploy/probe_picture.png, the picture whose HR is known, and those of sr_deploy/drawn; the same bytes on every run.

    python benchmarks/make_probe_picture.py [OUTPUT] [--seed 20]

The seeds of drawn/calibration_1, calibration_2, quality_1 and quality_2 are 21 to 24.

Dead leaves (overlapping shapes whose sizes follow a power law, which gives the edge statistics of photographs), each with its
own color, shading and 1/f texture; over them a fan of rays, concentric rings and rows of text-like strokes. Drawn at four times
the size and averaged, so that every edge is antialiased.

Source: Lee, Mumford, Huang, "Occlusion models for natural images", 2001 (dead leaves).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import cv2
import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

SIZE = 240
OVERSAMPLING = 4
GRID = SIZE * OVERSAMPLING
LEAVES = 260
OUTPUT = Path(__file__).resolve().parents[1] / "sr_deploy" / "probe_picture.png"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("output", type=Path, nargs="?", default=OUTPUT)
    parser.add_argument("--seed", type=int, default=20)
    options = parser.parse_args()
    output = options.output
    done, data = cv2.imencode(".png", draw(options.seed)[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 9])
    if not done:
        raise SystemExit("the picture could not be encoded")
    output.write_bytes(data.tobytes())
    print(f"{output}: {len(data)} bytes")


def draw(seed: int = 20) -> Array:
    """Draw the picture: (240, 240, 3) uint8 RGB."""
    random = np.random.Generator(np.random.PCG64(seed))
    y, x = np.mgrid[0:GRID, 0:GRID] / GRID
    texture = natural_texture(random)
    canvas: Array = np.stack([0.75 - 0.35 * y, 0.8 - 0.25 * y, 0.9 - 0.1 * y], axis=-1) + 0.12 * texture[..., None]
    for leaf in range(LEAVES):
        draw_leaf(canvas, random, x, y, texture, leaf)
    draw_rays(canvas, x, y, center=(0.24, 0.76), radius=0.17)
    draw_rings(canvas, x, y, center=(0.79, 0.22), radius=0.14)
    draw_strokes(canvas, random)
    fine = canvas.reshape(SIZE, OVERSAMPLING, SIZE, OVERSAMPLING, 3).mean(axis=(1, 3))
    return np.asarray(np.floor(np.clip(fine, 0, 1) * 255 + 0.5), np.uint8)


def natural_texture(random: np.random.Generator) -> Array:
    """Noise with the 1/f amplitude spectrum of photographs: (GRID, GRID), zero mean, unit variance."""
    fy, fx = np.fft.fftfreq(GRID)[:, None], np.fft.rfftfreq(GRID)[None, :]
    frequency = np.maximum(np.hypot(fy, fx), 1 / GRID)
    phase = random.uniform(0, 2 * np.pi, frequency.shape)
    noise = np.fft.irfft2(np.exp(1j * phase) / frequency**1.15, s=(GRID, GRID))
    return np.asarray((noise - noise.mean()) / noise.std())


def draw_leaf(canvas: Array, random: np.random.Generator, x: Array, y: Array, texture: Array, leaf: int) -> None:
    """One ellipse or box at any angle, with its own color, shading, texture and sometimes stripes; later leaves are smaller."""
    radius = 0.24 * (1 + leaf / 30) ** -0.8 * random.uniform(0.6, 1.5)
    cx, cy = random.uniform(0, 1, 2)
    angle, aspect = random.uniform(0, np.pi), random.uniform(0.25, 1)
    color = np.clip(random.normal(0.47, 0.2) + random.normal([0.03, 0, -0.05], [0.1, 0.05, 0.1]), 0.02, 0.98)
    light, rough, stripes = random.uniform(-0.3, 0.3, 2), random.uniform(0.0, 0.09), random.uniform(0, 1)
    rows = slice(max(0, int((cy - 1.5 * radius) * GRID)), max(0, int((cy + 1.5 * radius) * GRID)))
    columns = slice(max(0, int((cx - 1.5 * radius) * GRID)), max(0, int((cx + 1.5 * radius) * GRID)))
    dx, dy = x[rows, columns] - cx, y[rows, columns] - cy
    u = (np.cos(angle) * dx + np.sin(angle) * dy) / radius
    v = (np.cos(angle) * dy - np.sin(angle) * dx) / (radius * aspect)
    inside = np.maximum(abs(u), abs(v)) < 1 if leaf % 3 == 0 else np.hypot(u, v) < 1
    shade = 1 + light[0] * u + light[1] * v
    if stripes < 0.2:
        shade = shade * (1 + 0.3 * np.sign(np.sin(u * radius * 2 * np.pi * 26)))
    surface = color * shade[..., None] + rough * texture[rows, columns, None]
    canvas[rows, columns][inside] = np.clip(surface, 0, 1)[inside]


def draw_rays(canvas: Array, x: Array, y: Array, *, center: tuple[float, float], radius: float) -> None:
    """A fan of 22 light and dark rays: edges at every angle, ever finer towards the center."""
    dx, dy = x - center[0], y - center[1]
    dark = np.sin(np.arctan2(dy, dx) * 22) > 0
    disk = np.hypot(dx, dy) < radius
    canvas[disk & dark] = (0.13, 0.16, 0.25)
    canvas[disk & ~dark] = (0.94, 0.91, 0.8)


def draw_rings(canvas: Array, x: Array, y: Array, *, center: tuple[float, float], radius: float) -> None:
    """Concentric rings, finer towards the rim."""
    distance = np.hypot(x - center[0], y - center[1]) / radius
    dark = np.sin(2 * np.pi * (2.2 * distance + 2.4 * distance**2)) > 0
    canvas[(distance < 1) & dark] = (0.55, 0.1, 0.12)
    canvas[(distance < 1) & ~dark] = (0.95, 0.85, 0.5)


def draw_strokes(canvas: Array, random: np.random.Generator) -> None:
    """A sheet with five rows of signs made of straight and bent strokes, like a script nobody reads."""
    left, top, right, bottom = (int(edge * GRID) for edge in (0.5, 0.6, 0.97, 0.95))
    canvas[top:bottom, left:right] = (0.96, 0.95, 0.9)
    for row in range(5):
        height = (0.030, 0.036, 0.042, 0.05, 0.06)[row] * GRID
        base = top + (0.045, 0.098, 0.158, 0.228, 0.31)[row] * GRID
        ink = ((0.1, 0.1, 0.12), (0.5, 0.05, 0.05), (0.05, 0.15, 0.5), (0.1, 0.1, 0.12), (0.02, 0.35, 0.2))[row]
        position = left + 0.02 * GRID
        while position + height < right:
            for _ in range(random.integers(2, 5)):
                knots = random.uniform(0, 1, (3, 2)) * (0.62 * height, -height) + (position, base)
                if random.uniform() < 0.4:
                    knots[:, 0] = position + random.choice([0.05, 0.6]) * height
                points = np.round(bend(knots) * 16).astype(np.int32)
                cv2.polylines(canvas, [points], False, ink, max(3, round(height / 8)), cv2.LINE_8, 4)
            position += height * random.choice([0.85, 0.9, 1.4])


def bend(knots: Array) -> Array:
    """A quadratic curve over three knots, as 13 points."""
    t = np.linspace(0, 1, 13)[:, None]
    return np.asarray((1 - t) ** 2 * knots[0] + 2 * t * (1 - t) * knots[1] + t**2 * knots[2])


if __name__ == "__main__":
    main()
