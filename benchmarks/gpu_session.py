"""What the parts of `gpu.py` share: the device, its backends, the bundles, the time that is left, guarded rows of tables."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from sr_deploy import engines
from sr_deploy.bundle import CARD_FILE, Bundle
from sr_deploy.card import Arithmetic
from sr_deploy.device import gpu
from sr_deploy.device.device import Device
from sr_deploy.engines import BACKENDS, Backend, select_backend
from sr_deploy.engines.engine import DeviceEngine, Engine
from sr_deploy.engines.open import open_bundle
from sr_deploy.errors import BackendUnavailableError, UsageError
from sr_deploy.upscaling.sentinel import WindowRunner

NOT_A_GPU = "not a GPU: NVIDIA Warp's CPU device"
STAND_IN = "stand-in"


class OutOfTimeError(Exception):
    """The part has used up its time."""


@dataclass
class Session:
    """One run of one part; `size` is (width, height), `seconds` how long one thing is measured."""

    device_name: str
    bundles: list[Bundle]
    checkpoints: list[Path]
    size: tuple[int, int]
    seconds: float
    deadline: float
    _windows: dict[tuple[Path, str], WindowRunner] = field(default_factory=dict)

    @property
    def on_gpu(self) -> bool:
        return self.device_name != "cpu"

    @property
    def device(self) -> Device:
        return Device(self.device_name)

    @functools.cached_property
    def backends(self) -> list[str]:
        """Backends that use this GPU."""
        found = [backend for backend in engines.BACKENDS if backend.device == "cuda" and not backend.problem()]
        return [backend.name for backend in found if self.on_gpu or backend.name == STAND_IN]

    @property
    def rgb(self) -> list[Bundle]:
        """Frames go over a GPU as RGB; luma networks run there in windows."""
        return [bundle for bundle in self.bundles if bundle.card.channels == 3]

    def pairs(self, bundles: Sequence[Bundle] | None = None) -> Iterator[tuple[Bundle, str]]:
        """Each bundle, by default each RGB bundle, with each backend.

        Raises: BackendUnavailableError when there is no backend.
        """
        if not self.backends:
            raise BackendUnavailableError("no runtime here uses this GPU; the part 'machine' says why")
        for bundle in self.rgb if bundles is None else bundles:
            for backend in self.backends:
                yield bundle, backend

    def engine(self, bundle: Bundle, backend: str) -> DeviceEngine:
        """What `Upscaler` runs 8-bit frames on."""
        key = (bundle.folder, backend)
        if key not in self._windows:
            self._windows[key] = WindowRunner(
                bundle, backend=select_backend(backend), precision="auto", on_failure="raise", threads=None
            )
        return self._windows[key].device_engine(np.uint8, 0)

    def require_time(self, *labels: object) -> None:
        """Raises: OutOfTimeError when the time is up; the labels are what would come next."""
        if time.monotonic() > self.deadline:
            raise OutOfTimeError(f"time is up; nothing was measured from {', '.join(map(str, labels))} on")

    def rows(self, *labels: object, cells: Callable[[], Iterable[Sequence[object]]]) -> Iterator[str]:
        """Rows of a table that start with the labels; what fails is told in one.

        Raises: OutOfTimeError when the time was up before, or `cells` says so.
        """
        self.require_time(*labels)
        try:
            for row in cells():
                yield _row(*labels, *row)
        except OutOfTimeError:
            raise
        except Exception as exc:
            yield _row(*labels, f"**failed**: {one_line(exc)}")


def header(*names: str) -> str:
    return f"| {' | '.join(names)} |\n|{'---|' * len(names)}"


def _row(*cells: object) -> str:
    return "| " + " | ".join(str(cell).replace("|", "/") for cell in cells) + " |"


def one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


def find_bundles(paths: list[Path], names: list[str]) -> list[Bundle]:
    """Bundles, and those in folders of bundles; only those of these names, if there are any.

    Raises: BundleError, UsageError.
    """
    cards = [card for path in paths for card in (sorted(path.glob(f"*/{CARD_FILE}")) or [path / CARD_FILE])]
    bundles = [open_bundle(card.parent) for card in cards]
    found = [bundle for bundle in bundles if not names or bundle.card.name in names or bundle.folder.name in names]
    if not found:
        raise UsageError(f"no bundle is called {', '.join(names)}; there are {', '.join(one.folder.name for one in bundles)}")
    return found


class StandInBackend(Backend):
    """ONNX Runtime on the CPU in the place of ONNX Runtime on a GPU."""

    def usable_precisions(self) -> tuple[Arithmetic, ...]:
        return ("fp32", "fp16")

    def open(self, graph: bytes, *, precision: Arithmetic, threads: int | None, gpu: int = 0) -> Engine:
        del gpu
        return select_backend("onnxruntime").open(graph, precision=precision, threads=threads)


@contextlib.contextmanager
def stand_in() -> Iterator[None]:
    """Inside the block the CPU is taken for a GPU, with one backend more."""
    backend: Any = StandInBackend(STAND_IN, "onnxruntime", "cuda", "", planes=True)
    machine = gpu.Survey((gpu.GPU(NOT_A_GPU, "0.0", 1 << 30),))
    with mock.patch.object(engines, "BACKENDS", (*BACKENDS, backend)), mock.patch.object(gpu, "survey", lambda: machine):
        yield
