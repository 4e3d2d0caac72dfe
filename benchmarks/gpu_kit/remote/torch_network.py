"""RLFN-NTIRE in torch, as it would be written by hand: on the device, as a CUDA graph, several frames in flight."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from typing import Any

from steps import STORE

CHECKPOINT = STORE / "checkpoints" / "rlfn_ntire_x4.pth"


class Lane:
    """One frame in flight in torch."""

    def __init__(self, network: Any, image: Any, on_gpu: bool) -> None:
        import torch

        place = torch.device("cuda:0" if on_gpu else "cpu")
        self.on_gpu, self.host = on_gpu, torch.from_numpy(image)[None]
        self.host = self.host.pin_memory() if on_gpu else self.host
        self.source = self.host.to(place)
        self.forward = forward(network, self.source, half=True, rounded=True)
        if on_gpu:
            self.stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            self.graph, self.large = record(self.forward)
            self.result = torch.empty(self.large.shape, dtype=torch.uint8, pin_memory=True)

    def infer(self) -> None:
        self.graph.replay() if self.on_gpu else self.forward()

    def run(self) -> None:
        import torch

        if not self.on_gpu:
            self.forward()
            return
        with torch.cuda.stream(self.stream):
            self.source.copy_(self.host, non_blocking=True)
            self.graph.replay()
            self.result.copy_(self.large, non_blocking=True)
        self.stream.synchronize()


def place_of(options: Namespace) -> tuple[Any, Callable[[], None]]:
    import torch

    return torch.device(options.device), torch.cuda.synchronize if options.on_gpu else lambda: None


def load(place: Any, *, half: bool) -> Any:
    """The published forward, in 0..255."""
    import torch

    from sr_deploy.architectures import load_checkpoint

    loaded = load_checkpoint(CHECKPOINT)
    reading = next((one for one in loaded.readings if one.value_range == 255), loaded.readings[0])
    module: Any = loaded.network(reading)
    module = module.to(place, memory_format=torch.channels_last)
    return module.half() if half else module


def forward(network: Any, source: Any, *, half: bool, rounded: bool) -> Callable[[], Any]:
    """(1,H,W,3) uint8 on the device -> (1,4H,4W,3), uint8 or float32 in 0..255."""
    import torch

    def run() -> Any:
        with torch.inference_mode():
            image = source.permute(0, 3, 1, 2)
            large = network((image.half() if half else image.float()).contiguous(memory_format=torch.channels_last))
            if not rounded:
                return large.float()
            return large.round().clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous()

    return run


def record(run: Callable[[], Any]) -> tuple[Any, Any]:
    import torch

    aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    with torch.cuda.stream(aside):
        for _ in range(3):
            run()
    aside.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = run()
    return graph, kept
