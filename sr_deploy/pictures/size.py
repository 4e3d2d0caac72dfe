"""The size that a picture should have in the end, as users say it: a factor, `4k`, `1920x1080`, `long=3840`."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

from sr_deploy.errors import ImageError, UsageError

LARGEST_FACTOR = 64.0
LARGEST_SIDE = 1 << 20
LARGEST_PICTURE = 1 << 30

SCREENS = {
    "720p": (1280, 720),
    "1080p": (1920, 1080),
    "1440p": (2560, 1440),
    "2160p": (3840, 2160),
    "4k": (3840, 2160),
    "4320p": (7680, 4320),
    "8k": (7680, 4320),
}

EXPECTED = f"expected a factor such as 2.5, WIDTHxHEIGHT, long=N, short=N, or one of {', '.join(SCREENS)}"

_BOX = re.compile(r"(\d{1,9})x(\d{1,9})")
_SIDE = re.compile(r"(long|short)=(\d{1,9})")
_FACTOR = re.compile(r"x?(\d{1,9}(?:\.\d*)?|\.\d+)x?")


@dataclass(frozen=True)
class TargetSize:
    """A size that any picture can be brought to, its aspect kept; by default the network's own factor.

    kind: 'own', 'factor', 'screen' and 'box' (the picture fits inside; a screen turns with the picture), 'long' and 'short'.
    numbers: none for 'own', the factor, width and height of a screen or box, or the pixels of that side.
    """

    kind: Literal["own", "factor", "screen", "box", "long", "short"] = "own"
    numbers: tuple[float, ...] = ()

    @staticmethod
    def parse(spec: str) -> TargetSize:
        """Read a size as the command line takes it.

        spec: `4k`, `1080p`, `1920x1080`, `long=3840`, `short=1080` or a factor.

        Raises: UsageError for anything else, and for sizes that no picture can have.
        """
        text = spec.strip().lower().replace("×", "x").replace(" ", "")
        if text in SCREENS:
            return TargetSize("screen", SCREENS[text])
        if match := _BOX.fullmatch(text):
            return TargetSize("box", (_side(match[1], spec), _side(match[2], spec)))
        if match := _SIDE.fullmatch(text):
            return TargetSize("long" if match[1] == "long" else "short", (_side(match[2], spec),))
        if match := _FACTOR.fullmatch(text):
            return TargetSize.of_factor(float(match[1]))
        raise UsageError(f"size '{spec}': not understood; {EXPECTED}")

    @staticmethod
    def of_factor(factor: float) -> TargetSize:
        """The size that is a multiple of the picture's.

        factor: of both sides.

        Raises: UsageError unless 0 < factor <= 64.
        """
        if not (math.isfinite(factor) and 0 < factor <= LARGEST_FACTOR):
            raise UsageError(f"factor {factor:g}: {EXPECTED}; a factor is above 0 and at most {LARGEST_FACTOR:g}")
        return TargetSize("factor", (factor,))

    @property
    def label(self) -> str:
        """A word for file names: 'x2.5', '3840x2160', 'long3840'; empty for the network's own factor."""
        numbers = "x".join(f"{number:g}" if self.kind == "factor" else f"{int(number)}" for number in self.numbers)
        return {"own": "", "factor": f"x{numbers}", "screen": numbers, "box": numbers}.get(self.kind, self.kind + numbers)

    def resolve(self, height: int, width: int, scale: int) -> tuple[int, int]:
        """Height and width that a picture gets, at least 1 pixel each.

        height: of the picture.
        width: of the picture.
        scale: the network's factor.

        Raises: ImageError when that is more than 2**30 pixels.
        """
        result = self._sides(height, width, scale)
        if result[0] * result[1] > LARGEST_PICTURE:
            raise ImageError(
                f"{width}x{height} would become {result[1]}x{result[0]}, more than {LARGEST_PICTURE} pixels; "
                "ask for a smaller size"
            )
        return result

    def _sides(self, height: int, width: int, scale: int) -> tuple[int, int]:
        if self.kind == "own":
            return height * scale, width * scale
        if self.kind == "factor":
            (factor,) = self.numbers
            return max(1, round(height * factor)), max(1, round(width * factor))
        if self.kind in ("long", "short"):
            wanted = int(self.numbers[0])
            by_height = (height >= width) == (self.kind == "long")
            return _scaled(height, width, wanted, by_height=by_height)
        box_width, box_height = map(int, self.numbers)
        if self.kind == "screen" and height > width:
            box_width, box_height = box_height, box_width
        by_height = box_height * width <= box_width * height
        return _scaled(height, width, box_height if by_height else box_width, by_height=by_height)


def _scaled(height: int, width: int, wanted: int, *, by_height: bool) -> tuple[int, int]:
    """One side becomes `wanted`, the other follows, rounded in integers: large sides keep every pixel."""
    if by_height:
        return wanted, max(1, (2 * width * wanted + height) // (2 * height))
    return max(1, (2 * height * wanted + width) // (2 * width)), wanted


def _side(digits: str, spec: str) -> int:
    side = int(digits)
    if not 1 <= side <= LARGEST_SIDE:
        raise UsageError(f"size '{spec}': a side is 1 to {LARGEST_SIDE} pixels; {EXPECTED}")
    return side
