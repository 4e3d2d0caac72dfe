"""Images of one scene side by side in a page: before and after, with a slider, their pixels and their scores."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path

import numpy as np

from sr_deploy.arrays import Array
from sr_deploy.errors import ImageError, UsageError
from sr_deploy.evaluation.evaluate import Pair, Score, Seen
from sr_deploy.files import growing
from sr_deploy.metrics import SSIM_WINDOW, psnr_y, ssim_y
from sr_deploy.pages import BASE_STYLE, SLIDER_SCRIPT, SLIDER_STYLE, asset, data_url, document
from sr_deploy.pictures.color import from_float, to_float
from sr_deploy.pictures.image import encode_image
from sr_deploy.pictures.picture import Metadata, Picture

LARGEST_GALLERY = 20
"""Images of a folder that a page shows: each is in it whole, by as many networks as there are."""


@dataclass(frozen=True)
class Version:
    """One image of a scene.

    png: its bytes. psnr_y, ssim_y: against the original; None where there is none of its size.
    """

    label: str
    width: int
    height: int
    png: bytes = field(repr=False)
    psnr_y: float | None = None
    ssim_y: float | None = None

    @property
    def note(self) -> str:
        """Its scores in words; empty where there are none."""
        psnr = "" if self.psnr_y is None else decibel(self.psnr_y)
        return psnr if self.ssim_y is None else f"{psnr}, SSIM {self.ssim_y:.4f}"


@dataclass(frozen=True)
class Scene:
    """Images of the same thing, of any sizes; the first two are shown first. border: of what is measured, else None."""

    name: str
    versions: tuple[Version, ...]
    border: int | None = None


@dataclass(frozen=True)
class Original:
    """What images are measured against: (H,W,3) uint8 RGB. border: pixels at its edges that do not count."""

    pixels: Array
    border: int

    def scores(self, pixels: Array) -> tuple[float | None, float | None]:
        """PSNR-Y in dB and SSIM-Y of an image; None where its size is another, or too small."""
        inside = min(pixels.shape[:2]) - 2 * self.border
        if pixels.shape != self.pixels.shape or inside < 1:
            return None, None
        psnr = psnr_y(self.pixels, pixels, border=self.border)
        return psnr, ssim_y(self.pixels, pixels, border=self.border) if inside >= SSIM_WINDOW else None


def version_of(label: str, picture: Picture, original: Original | None = None) -> Version:
    """The picture as it is shown: 8 bits, with alpha and color profile, without what else a file may tell."""
    pixels, alpha = (None if plane is None else _eight_bits(plane) for plane in (picture.pixels, picture.alpha))
    assert pixels is not None
    shown = Picture(pixels, alpha, Metadata(icc=picture.metadata.icc, colorimetry=picture.metadata.colorimetry))
    psnr, ssim = original.scores(rgb_of(picture)) if original else (None, None)
    height, width = pixels.shape[:2]
    return Version(label, width, height, encode_image(shown, "png"), psnr, ssim)


def rgb_of(picture: Picture) -> Array:
    """(H,W,3) uint8 RGB, gray repeated, without alpha."""
    pixels = _eight_bits(picture.pixels)
    return pixels if pixels.shape[2] == 3 else np.ascontiguousarray(pixels.repeat(3, axis=2))


def scene_of(
    name: str, images: Sequence[tuple[str, Picture]], original: tuple[str, Picture] | None = None, *, border: int | None = None
) -> Scene:
    """The scene of images, with their labels; the original, measured against, comes last.

    border: pixels at the edges that do not count; None is the factor from the smallest image to the original. An original that
    is larger than an image by less than that factor is cropped, right and below, as the field does it.

    Raises: UsageError where they cannot be of one scene.
    """
    require_one_scene([(label, *picture.pixels.shape[:2]) for label, picture in (*images, *([original] if original else []))])
    if original is None:
        return Scene(name, tuple(version_of(label, picture) for label, picture in images))
    label, picture = original
    factor = max(1, round(picture.pixels.shape[0] / min(image.pixels.shape[0] for _, image in images)))
    whole = _cropped(picture, [image.pixels.shape[:2] for _, image in images], factor)
    edge = border if border is not None else factor if factor > 1 else 0
    measured = Original(rgb_of(whole), edge)
    versions = [version_of(label, picture, measured) for label, picture in images]
    return Scene(name, (*versions, version_of(label, whole)), edge)


def _cropped(picture: Picture, sizes: Iterable[tuple[int, ...]], factor: int) -> Picture:
    """The picture at the first of these sizes that is smaller by less than `factor`, else as it is."""
    height, width = picture.pixels.shape[:2]
    fits = ((tall, wide) for tall, wide in sizes if 0 <= height - tall < factor and 0 <= width - wide < factor)
    tall, wide = next(fits, (height, width))
    alpha = None if picture.alpha is None else np.ascontiguousarray(picture.alpha[:tall, :wide])
    return replace(picture, pixels=np.ascontiguousarray(picture.pixels[:tall, :wide]), alpha=alpha)


def require_one_scene(sizes: Sequence[tuple[str, int, int]]) -> None:
    """Make sure that images could be of one scene: their sides are in one proportion, to a pixel of the smallest.

    sizes: name, height and width of each.

    Raises: UsageError naming the first that is not.
    """
    name, height, width = min(sizes, key=lambda size: size[1] * size[2])
    for other, tall, wide in sizes:
        factor = (tall * wide / (height * width)) ** 0.5
        if max(abs(tall - factor * height), abs(wide - factor * width)) > factor:
            raise UsageError(
                f"{other}: {wide}x{tall} is not {name} in another size, which is {width}x{height}; "
                "expected pictures of one scene, whose sides are in one proportion"
            )


class Gallery:
    """What networks made of the first images of an evaluation."""

    def __init__(self) -> None:
        self._scenes: dict[tuple[str, int], list[Version]] = {}
        self._originals: dict[tuple[str, int], Version] = {}
        self._left_out: set[tuple[str, int]] = set()

    def of(self, label: str) -> Seen:
        """What `evaluate` tells its images to; label: of the network."""
        return lambda pair, image, score: self._see(label, pair, image, score)

    @property
    def left_out(self) -> int:
        """How many images there were beyond those that are shown."""
        return len(self._left_out)

    def scenes(self) -> tuple[Scene, ...]:
        """One for each image and scale: LR, what became of it, HR."""
        scales = {scale for _, scale in self._scenes}
        return tuple(
            Scene(name if len(scales) == 1 else f"{name}, x{scale}", (*versions, self._originals[name, scale]))
            for (name, scale), versions in self._scenes.items()
        )

    def _see(self, label: str, pair: Pair, image: Array, score: Score) -> None:
        key = pair.name, image.shape[0] // pair.lr.shape[0]
        if key not in self._scenes:
            if len(self._scenes) >= LARGEST_GALLERY:
                self._left_out.add(key)
                return
            self._scenes[key] = [version_of("LR", Picture(pair.lr))]
            self._originals[key] = version_of("HR", Picture(pair.hr))
        height, width = image.shape[:2]
        made = Version(label, width, height, encode_image(image, "png"), score.psnr_y, score.ssim_y)
        self._scenes[key].append(made)


def check_page(path: Path, option: str) -> None:
    """Before anything is computed: a page that cannot be written would lose it all. option: that names it, for the message.

    Raises: UsageError.
    """
    if path.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"{option} {path}: a comparison is a page; expected a name that ends in .html")
    if path.is_dir() or not path.parent.is_dir():
        raise UsageError(f"{option} {path}: there is no folder {path.parent}; make it first, or name a file")


def write_comparison(
    path: Path,
    title: str,
    scenes: Iterable[Scene],
    *,
    lead: str,
    table: tuple[Sequence[str], Sequence[Sequence[object]]] | None = None,
) -> None:
    """Write the page; it appears when it is complete.

    lead: what it shows, in a sentence. table: header and rows that come before the scenes.

    Raises: ImageError when the disk refuses.
    """
    parts = [f"<h1>{escape(title)}</h1>", f'<p class="lead">{escape(lead)}</p>']
    if table is not None:
        parts.append(_table(*table))
    body = "\n".join(["<main>", *parts, *map(_section, scenes), "</main>"])
    page = document(title, body, style=asset(BASE_STYLE) + asset(SLIDER_STYLE), script=asset(SLIDER_SCRIPT))
    try:
        with growing(path) as file:
            file.write(page.encode("utf-8", errors="replace"))
    except OSError as exc:
        raise ImageError(f"{path}: cannot be written ({exc.strerror or exc}); free space or choose another folder") from exc


def decibel(psnr: float) -> str:
    """PSNR in words."""
    return "equal" if psnr == float("inf") else f"{psnr:.2f} dB"


def _section(scene: Scene) -> str:
    images = "\n".join(
        f'<img alt="{escape(one.label)}" data-note="{escape(one.note or _size(one))}" '
        f'width="{one.width}" height="{one.height}" src="{data_url(one.png)}">'
        for one in scene.versions
    )
    figure = f'<figure class="comparison" data-name="{escape(scene.name)}">\n{images}\n</figure>'
    table = _table(("image", "size", "PSNR-Y", "SSIM-Y"), map(_row, scene.versions)) if scene.border is not None else ""
    return f"<section>\n<h2>{escape(scene.name)}</h2>\n{figure}\n{table}\n</section>"


def _row(one: Version) -> tuple[str, ...]:
    psnr, ssim = one.psnr_y, one.ssim_y
    return one.label, _size(one), "" if psnr is None else decibel(psnr), "" if ssim is None else f"{ssim:.4f}"


def _size(one: Version) -> str:
    return f"{one.width}×{one.height}"


def _table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _eight_bits(plane: Array) -> Array:
    return plane if plane.dtype == np.uint8 else from_float(to_float(plane), np.uint8)
