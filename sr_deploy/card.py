"""What a bundle says of its network: the card, and the text that it is kept as."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from sr_deploy.errors import BundleError, UsageError
from sr_deploy.settings import from_table

T = TypeVar("T")

CARD_FORMAT = 1
LONGEST_NAME = 255
"""Bytes of a file's name, on any common file system."""

GRAPH_METADATA_KEY = "sr-deploy.card"

Precision = Literal["fp32", "fp16", "int8", "int8-symmetric"]
"""What a graph is stored in. Convs of the last two read codes of 8 bits: from 0, as CPUs want them, or around 0, as GPUs do."""

GPU_PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8-symmetric")
"""What engines are built of."""

Arithmetic = Literal["fp32", "bf16", "fp16", "int8", "int8-symmetric"]
"""What a graph is computed in; fp32 and bf16 run the fp32 graph."""

PrecisionChoice = Literal["auto", Arithmetic]
"""What a user asks for; `auto` is what this machine is fastest in."""

Part = Literal["", "base", "refine"]
"""Which network of a bundle: the only one, or one of the two that a mask-guided network is made of."""


@dataclass(frozen=True)
class Source:
    """Where the weights came from. `expected`: published PSNR of Y in dB by test set. `purpose`: what they are for. `credits`:
    weights, teachers and pictures that they were trained with, each with its license."""

    file: str
    sha256: str
    license: str = "unknown"
    url: str = ""
    recipe: str = ""
    expected: dict[str, float] = field(default_factory=dict)
    purpose: str = ""
    credits: tuple[str, ...] = ()


@dataclass(frozen=True)
class Hypothesis:
    """One reading of a state dict, and its PSNR of Y in dB on the picture whose HR is known, beside bicubic's at its scale.

    A `psnr` of 0 stands for NaN or Inf in the output.
    """

    assumes: dict[str, Any]
    psnr: float
    bicubic: float | None = None


@dataclass(frozen=True)
class Detection:
    """Why this function was chosen for these weights.

    `decided_by` is 'structure' (only one reading exists), 'checkpoint' (it says so itself), 'measurement', 'recipe' or 'flag'.
    `margin` is the lead in dB of the best hypothesis over the next one, each taken over bicubic; `bicubic` is the PSNR of plain
    bicubic upscaling on the same picture at the chosen scale.
    """

    decided_by: Literal["structure", "checkpoint", "measurement", "recipe", "flag"]
    hypotheses: tuple[Hypothesis, ...] = ()
    margin: float | None = None
    bicubic: float | None = None


@dataclass(frozen=True)
class Masked:
    """What a mask-guided network adds: a refine network for the patches with the highest scores.

    `patch`: side of a patch in LR pixels; `padding`: LR pixels around it that the refine network sees too, zero beyond the
    image; `features`: their channels. `macs`: the refine network's multiply-accumulates per LR pixel of a patch;
    `activation_bytes`: its peak of live fp32 activations per patch; `parameters`: its own, which the card's include.
    """

    patch: int
    padding: int
    features: int
    macs: int = 0
    activation_bytes: int = 0
    parameters: int = 0

    @property
    def side(self) -> int:
        """Height and width of what the refine network sees of a patch."""
        return self.patch + 2 * self.padding


@dataclass(frozen=True)
class ModelCard:
    """What a network is, whoever runs it.

    Tiling, sizes, activation_bytes and macs of a mask-guided network are those of its base and mask.

    name: of the bundle.
    architecture: of `sr-deploy architectures`, or what a foreign graph came as.
    scale: factor from LR to SR.
    channels: 3 is RGB, 1 is the luma of BT.601 in limited range.
    value_range: what the checkpoint was trained with, 1 or 255; every graph takes [0, 1].
    config: what differs from network to network of the architecture.
    source: where the weights came from.
    detection: why the weights were read so.
    reparameterized: the folds that were made.
    tiling: 'exact' when a halo of `halo` LR pixels makes a tile bit-equal to the whole, else 'approximate'.
    halo: LR pixels around a tile.
    min_size: smallest side of an image, in LR pixels.
    size_multiple: what sides have to be multiples of; images are mirrored to that.
    activation_bytes: peak of the live fp32 activations per LR pixel.
    macs: multiply-accumulates per LR pixel.
    parameters: how many numbers the graphs hold.
    largest_activation: the largest absolute value inside the network on the natural and extreme probes.
    largest_activation_on_noise: the same on white noise.
    masked: what a mask-guided network adds; None for others.
    """

    name: str
    architecture: str
    scale: int
    channels: Literal[1, 3]
    value_range: float = 1.0
    config: dict[str, Any] = field(default_factory=dict)
    source: Source | None = None
    detection: Detection | None = None
    reparameterized: tuple[str, ...] = ()
    tiling: Literal["exact", "approximate"] = "approximate"
    halo: int = 32
    min_size: int = 1
    size_multiple: int = 1
    activation_bytes: int = 0
    macs: int = 0
    parameters: int = 0
    largest_activation: float | None = None
    largest_activation_on_noise: float | None = None
    masked: Masked | None = None

    @property
    def parts(self) -> tuple[Part, ...]:
        """The networks that make up this one."""
        return ("base", "refine") if self.masked else ("",)

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False)

    @staticmethod
    def from_json(text: str, *, where: str) -> ModelCard:
        """Raises: BundleError for what is no card, or has a number out of its range."""
        card = _parse(_loads(text, where), ModelCard, where=where)
        _check_card(card, where)
        return card


@dataclass(frozen=True)
class GraphCard:
    """One ONNX file of a bundle. `kept_fp32` names the nodes that stayed in fp32.

    loss: dB of Y that INT8 was allowed to cost on photographs; factor: how many times as fast as fp32 it is by the model of
    times that its convs were chosen by.
    """

    file: str
    precision: Precision
    sha256: str
    opset: int
    kept_fp32: tuple[str, ...] = ()
    loss: float | None = None
    factor: float | None = None


@dataclass(frozen=True)
class Link:
    """One step of the parity chain, measured on one probe: `source` against `target`.

    Differences are in 8-bit steps (LSB) of the clamped output; `border_max_lsb` covers the outer ring of `scale` * 4 pixels.
    `psnr` is in dB, infinite for equal outputs. `floor` says what the link had to reach, empty when it is only reported.
    Features and scores of a mask-guided network are measured in units of twice the largest absolute value of the source's.
    Whole images of it have the same `selected` patches refined in both; by its own scores, the target would have taken
    `moved` others.
    """

    source: str
    target: str
    probe: str
    max_lsb: float
    mean_lsb: float
    border_max_lsb: float
    psnr: float
    floor: str = ""
    passed: bool = True
    selected: int = 0
    moved: int = 0


@dataclass(frozen=True)
class CardFile:
    """What card.json holds."""

    model: ModelCard
    graphs: dict[str, GraphCard]
    certificate: tuple[Link, ...] = ()
    made_with: dict[str, str] = field(default_factory=dict)

    @staticmethod
    def parse(text: str, *, where: str) -> CardFile:
        """Raises: BundleError for what is no card, or has a number out of its range."""
        table = _loads(text, where)
        if not isinstance(table, dict) or table.get("format") != CARD_FORMAT:
            found = table.get("format") if isinstance(table, dict) else None
            raise BundleError(
                f"{where}: card format {found}, expected {CARD_FORMAT}; export the bundle again with this sr-deploy"
            )
        del table["format"]
        contents = _parse(table, CardFile, where=where)
        _check_card(contents.model, where)
        _check_graphs(contents, where)
        return contents

    def to_text(self) -> str:
        table = {"format": CARD_FORMAT, **dataclasses.asdict(self)}
        return json.dumps(_finite(table), indent=1, ensure_ascii=False) + "\n"


def _parse(table: Any, kind: type[T], *, where: str) -> T:
    if not isinstance(table, dict):
        raise BundleError(f"{where}: not readable as a card, it holds a {type(table).__name__}; export the bundle again")
    try:
        return from_table(table, kind, where=where)
    except UsageError as exc:
        raise BundleError(f"{exc}; export the bundle again with this version of sr-deploy") from exc


def _loads(text: str, where: str) -> Any:
    def refuse(word: str) -> None:
        raise ValueError(f"{word} is no number of JSON")

    try:
        table = json.loads(text, parse_constant=refuse)
        json.dumps(table, ensure_ascii=False).encode()  # half a surrogate pair is no text
        return table
    except (ValueError, RecursionError) as exc:
        raise BundleError(f"{where}: not readable as a card ({exc}); export the bundle again") from exc


_RANGES: dict[str, tuple[float, float]] = {
    "scale": (1, 16),
    "value_range": (1e-6, 1e6),
    "halo": (0, 1 << 16),
    "min_size": (1, 1 << 14),
    "size_multiple": (1, 1 << 12),
    "activation_bytes": (0, 1 << 40),
    "macs": (0, 1 << 50),
    "parameters": (0, 1 << 50),
    "patch": (1, 1 << 10),
    "padding": (0, 1 << 10),
    "features": (1, 1 << 16),
}
"""What a number of a card may be; beyond, it is damaged."""


def _check_card(card: ModelCard, where: str) -> None:
    for part in filter(None, (card, card.masked)):
        for name, (least, most) in _RANGES.items():
            value = getattr(part, name, least)
            if not least <= value <= most:
                raise BundleError(f"{where}: {name} is {value}, expected {least:g} to {most:g}; export the bundle again")
    if not _is_bare(card.name):
        raise BundleError(f"{where}: the name {card.name!r} is none of a network; export the bundle again with another --name")


def _check_graphs(contents: CardFile, where: str) -> None:
    for graph in contents.graphs.values():
        if not _is_bare(graph.file):
            raise BundleError(f"{where}: the graph {graph.file!r} is no file of the bundle's folder; export the bundle again")


def _is_bare(name: str) -> bool:
    """Whether a file may be called so, in any folder."""
    printable = all(character.isprintable() and character not in "/\\" for character in name)
    return printable and name not in ("", ".", "..") and len(name.encode()) <= LONGEST_NAME


def _finite(value: Any) -> Any:
    """JSON has no infinity: a PSNR of equal outputs is stored as 999."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and value == float("inf"):
        return 999.0
    return value
