"""Detection as data: what a network's state dict looks like, and why another one is not it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from sr_deploy.architectures.blocks import Network
from sr_deploy.errors import AmbiguousCheckpointError, CheckpointError, UnknownArchitectureError

StateDict = Mapping[str, Tensor]

# Below this share of common keys, the nearest network explains nothing.
FAR = 0.1


@dataclass(frozen=True)
class Config:
    """Hyper-parameters that every network has: the scale, and the color channels of its images (3 or 1)."""

    scale: int
    colors: int


C = TypeVar("C", bound=Config)


@dataclass(frozen=True)
class Signature:
    """Facts about a state dict that hold for one network only.

    All of `has_all`, one of `has_any` (when given) and none of `has_none` are keys; `shapes` gives the shape of some, with
    None for a size that is free. `rule` holds for what no fixed key tells, as the last of numbered parts.
    """

    has_all: tuple[str, ...]
    has_any: tuple[str, ...] = ()
    has_none: tuple[str, ...] = ()
    shapes: Mapping[str, tuple[int | None, ...]] = field(default_factory=dict)
    rule: Callable[[StateDict], bool] = lambda _state: True

    def matches(self, state: StateDict) -> bool:
        return (
            all(key in state for key in self.has_all)
            and (not self.has_any or any(key in state for key in self.has_any))
            and not any(key in state for key in self.has_none)
            and all(key in state and _fits(state[key].shape, shape) for key, shape in self.shapes.items())
            and self.rule(state)
        )


@dataclass(frozen=True, eq=False)
class Architecture(Generic[C]):
    """A network family: how to recognize its state dict, read its sizes, and build it.

    `read_config` raises KeyError or ValueError for a state dict that is not the family's. `variants` gives the configs that a
    state dict cannot tell apart, the published one first. `value_range` is the published one; `value_ranges` narrows it to
    what a state dict leaves open. `halo` is how many LR pixels an output pixel sees to each side, None for a network with a
    part that sees everything, which no halo makes exact under tiling. `min_size` is the smallest LR height and width, and both
    are multiples of `size_multiple`. What a `mask_guided` one builds is a `MaskGuided`, of two networks; `of_plain` gives
    weights to begin with, out of the state dict of the plain network.
    """

    name: str
    title: str
    paper: str
    signature: Signature
    default: C
    read_config: Callable[[StateDict], C]
    build: Callable[[C], Network]
    value_range: float
    variants: Callable[[C], tuple[C, ...]] = lambda config: (config,)
    value_ranges: Callable[[StateDict], tuple[float, ...]] | None = None
    halo: Callable[[C], int] | None = None
    min_size: int = 1
    size_multiple: int = 1
    mask_guided: bool = False
    of_plain: Callable[[StateDict, C], StateDict] | None = None

    def readable_ranges(self, state: StateDict) -> tuple[float, ...]:
        """Value ranges that the state dict leaves open, the published one first."""
        if self.value_ranges is not None:
            return self.value_ranges(state)
        return (255.0, 1.0) if self.value_range == 255 else (1.0, 255.0)

    def build_empty(self, config: C) -> Network:
        """The network without memory for its weights, on torch's meta device.

        Raises: CheckpointError when it has buffers that are not in its state dict: no checkpoint could fill them.
        """
        with torch.device("meta"):
            network = self.build(config)
        state = network.state_dict()
        if lost := tuple(name for name, _ in network.named_buffers() if name not in state):
            raise CheckpointError(
                f"{self.name}: buffers that are not in its state dict: {_some(lost)}, so nothing would initialize them; "
                "expected persistent buffers alone; compute such constants in forward, or register them with persistent=True"
            )
        return network

    def expected_shapes(self, config: C) -> Mapping[str, torch.Size]:
        """Keys and shapes of the network's state dict, without allocating weights.

        Raises: CheckpointError, as `build_empty`.
        """
        return _shapes_of(self, config)


@lru_cache(maxsize=1000)
def _shapes_of(architecture: Architecture[Any], config: Config) -> Mapping[str, torch.Size]:
    """Building takes tens of milliseconds, and a state dict that nobody knows is compared with all networks."""
    state = architecture.build_empty(config).state_dict()
    return MappingProxyType({key: tensor.shape for key, tensor in state.items()})


@dataclass(frozen=True)
class Comparison:
    """A state dict beside the one that an architecture would have."""

    architecture: Architecture[Any]
    expected: int
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misshapen: tuple[str, ...]
    unreadable: str = ""

    @property
    def exact(self) -> bool:
        return not (self.missing or self.unexpected or self.misshapen or self.unreadable)

    @property
    def likeness(self) -> float:
        """Shared keys over all keys."""
        return (self.expected - len(self.missing)) / (self.expected + len(self.unexpected))

    def __str__(self) -> str:
        facts = [f"{self.architecture.name}: {self.expected - len(self.missing)} of {self.expected} keys"]
        facts += [f"missing {_some(self.missing)}"] if self.missing else []
        facts += [f"unexpected {_some(self.unexpected)}"] if self.unexpected else []
        facts += [f"shapes: {'; '.join(self.misshapen[:3])}{_more(self.misshapen)}"] if self.misshapen else []
        facts += [self.unreadable] if self.unreadable else []
        return ", ".join(facts)


def compare(state: StateDict, architecture: Architecture[Any]) -> Comparison:
    """Lay a state dict beside the one that the architecture would have for the sizes read from it."""
    unreadable, sizes_read = "", False
    config = architecture.default
    try:
        config, sizes_read = architecture.read_config(state), True
    except KeyError:
        pass
    except (ValueError, IndexError) as exc:
        unreadable = str(exc)
    expected = architecture.expected_shapes(config)
    misshapen = tuple(
        f"'{key}' is {_form(state[key])}, expected {tuple(shape)}"
        for key, shape in expected.items()
        if key in state and (state[key].shape != shape or not state[key].is_floating_point())
    )
    return Comparison(
        architecture,
        expected=len(expected),
        missing=tuple(key for key in expected if key not in state),
        unexpected=tuple(key for key in state if key not in expected),
        misshapen=misshapen if sizes_read else (),
        unreadable=unreadable,
    )


def detect(state: StateDict, registry: Sequence[Architecture[Any]], *, where: str) -> Architecture[Any]:
    """The one architecture of `registry` with this signature and exactly these keys and shapes.

    Raises: UnknownArchitectureError, naming the nearest and what differs; AmbiguousCheckpointError when two fit.
    """
    exact = [entry for entry in registry if entry.signature.matches(state) and compare(state, entry).exact]
    if len(exact) == 1:
        return exact[0]
    names = ", ".join(entry.name for entry in exact or registry)
    if exact:
        raise AmbiguousCheckpointError(f"{where}: its keys and shapes fit {names} alike; name the architecture")
    nearest = max((compare(state, entry) for entry in registry), key=lambda comparison: comparison.likeness)
    far = f"none is near; the keys begin with {_some(tuple(state))}"
    near = f"nearest is {nearest}" if nearest.likeness > FAR else far
    raise UnknownArchitectureError(
        f"{where}: none of the known networks ({names}); {near}. "
        "For another network, export it to ONNX in its own project and use the .onnx file"
    )


def require(state: StateDict, architecture: Architecture[Any], *, where: str) -> None:
    """Check a state dict against the architecture that the user named.

    Raises: UnknownArchitectureError with what differs.
    """
    comparison = compare(state, architecture)
    if not comparison.exact:
        raise UnknownArchitectureError(
            f"{where}: not {comparison}. Leave the architecture out to have it detected, or name the right one"
        )


def scale_of(channels: int, colors: int, *, key: str) -> int:
    """Scale of a pixel shuffle that makes images of `colors` out of `channels`.

    Raises: ValueError when there is none.
    """
    scale = math.isqrt(channels // colors) if colors else 0
    if scale < 1 or scale * scale * colors != channels:
        raise ValueError(f"'{key}' has {channels} rows, expected {colors} * scale * scale")
    return scale


def count(state: StateDict, prefix: str, *, first: int = 0, step: int = 1) -> int:
    """How many numbered parts there are: `prefix` with '{}' for the number, counted from `first` by `step` without a gap.

    Raises: KeyError when there is none.
    """
    number = first
    while any(key.startswith(prefix.format(number)) for key in state):
        number += step
    if number == first:
        raise KeyError(prefix.format(first))
    return (number - first) // step


def _fits(shape: torch.Size, pattern: tuple[int | None, ...]) -> bool:
    return len(shape) == len(pattern) and all(want in (None, size) for size, want in zip(shape, pattern, strict=True))


def _form(tensor: Tensor) -> str:
    kind = "" if tensor.is_floating_point() else f" {str(tensor.dtype).removeprefix('torch.')}"
    return f"{tuple(tensor.shape)}{kind}"


def _some(keys: tuple[str, ...]) -> str:
    return ", ".join(f"'{key}'" for key in keys[:3]) + _more(keys)


def _more(items: tuple[str, ...]) -> str:
    return f" and {len(items) - 3} more" if len(items) > 3 else ""
