"""What a piece of code asks of a device: kernels, copies, allocations, waits."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from sr_deploy.device.device import Device


@dataclass
class Calls:
    """launches: names of the kernels; copies and allocations: bytes of each; waits: how many."""

    launches: list[str] = field(default_factory=list)
    copies: list[int] = field(default_factory=list)
    allocations: list[int] = field(default_factory=list)
    waits: int = 0


@contextlib.contextmanager
def counted_calls() -> Iterator[Calls]:
    """Counts the calls of every device inside the block."""
    calls = Calls()
    real = {name: getattr(Device, name) for name in ("launch", "launch_blocks", "copy", "empty", "host", "synchronize")}

    def launcher(name: str) -> Any:
        def launch(device: Device, kernel: Any, *rest: Any, **options: Any) -> None:
            calls.launches.append(kernel.key)
            real[name](device, kernel, *rest, **options)

        return launch

    def allocator(name: str) -> Any:
        def allocate(device: Device, *rest: Any) -> Any:
            array = real[name](device, *rest)
            calls.allocations.append(array.capacity)
            return array

        return allocate

    def copy(device: Device, target: Any, source: Any, **options: Any) -> None:
        calls.copies.append(source.capacity)
        real["copy"](device, target, source, **options)

    def synchronize(device: Device, *rest: Any) -> None:
        calls.waits += 1
        real["synchronize"](device, *rest)

    with pytest.MonkeyPatch.context() as patch:
        for name in ("launch", "launch_blocks"):
            patch.setattr(Device, name, launcher(name))
        for name in ("empty", "host"):
            patch.setattr(Device, name, allocator(name))
        patch.setattr(Device, "copy", copy)
        patch.setattr(Device, "synchronize", synchronize)
        yield calls
