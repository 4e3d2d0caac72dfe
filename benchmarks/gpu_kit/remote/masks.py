"""A mask-guided network on the GPU against the CPU: patches, pixels, time; frames of the host and arrays of the device."""

from __future__ import annotations

import itertools
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from typing import Any

from steps import STORE, Row, bundle, difference, drained, drop, frame, gpu_backends, guarded, main, step

NAME = "rfdn_mga_x4"


def extend(parser: ArgumentParser) -> None:
    parser.add_argument("--k", type=float, default=0.2, help="share of the patches that are refined")
    parser.add_argument("--backends", default="", help="of those that use the GPU, by default all that work")
    parser.set_defaults(needs_stand_in=True)


@step(60)
def cpu(options: Namespace) -> Iterator[Row]:
    """The reference: ONNX Runtime on the CPU in fp32; kept for the other steps."""
    import numpy as np

    from sr_deploy.engines.mask_guided import Amount, select_patches
    from sr_deploy.masked.masked_upscaler import MaskGuidedUpscaler

    mga = bundle(NAME)
    image = frame(options.size[1], options.size[0])
    with MaskGuidedUpscaler(mga, Amount(ratio=options.k), backend="onnxruntime", precision="fp32") as upscale:
        started = time.perf_counter()
        large = upscale(image)
        seconds = time.perf_counter() - started
        scores = upscale._meter.scores
        told = upscale.stats
    assert scores is not None
    chosen = select_patches(scores, Amount(ratio=options.k))
    STORE.mkdir(parents=True, exist_ok=True)
    np.savez(_kept(options), large=large, chosen=chosen, scores=scores)
    gap = np.sort(scores.ravel())[::-1]
    yield {
        "what": "CPU, fp32",
        "patches": scores.size,
        "chosen": len(chosen),
        "ms": seconds * 1e3,
        "share": told.share,
        "trouble": told.trouble,
    }
    yield {
        "what": "last score in, less the first one out",
        "gap": float(gap[len(chosen) - 1] - gap[min(len(chosen), gap.size - 1)]),
    }


@step(60)
def equal(options: Namespace) -> Iterator[Row]:
    """Are the patches the CPU's, are the pixels? fp16 may choose others near the edge of the choice."""
    import numpy as np

    from sr_deploy import MaskedUpscaler

    mga = bundle(NAME)
    image = frame(options.size[1], options.size[0])
    with np.load(_kept(options)) as kept:
        wanted, chosen = kept["large"], kept["chosen"]
    rows: list[Row] = []
    for backend in gpu_backends(options, options.backends):
        for precision in ("fp32", "fp16"):
            label = f"{backend} {precision}"
            with guarded(rows, what=label):
                with MaskedUpscaler(mga, k=options.k, backend=backend, precision=precision) as upscale:
                    large = upscale(image)
                    again = bool(np.array_equal(upscale(image), large))
                    here = _chosen(upscale._upscaler)
                    told = upscale.stats
                moved = "unknown" if here is None else len(np.setdiff1d(here, chosen))
                rows.append(
                    {
                        "what": label,
                        "patches other than the CPU's": f"{moved} of {len(chosen)}",
                        **difference(large, wanted),
                        "same again": again,
                        "share": told.share,
                        "trouble": told.trouble,
                    }
                )
                if here is not None:
                    rows.append(
                        {
                            "what": f"{label}, where the same patches are refined",
                            **_where_same(large, wanted, here, chosen, mga),
                        }
                    )
            yield from drained(rows)


@step(40)
def on_device(options: Namespace) -> Iterator[Row]:
    """Arrays of the device in and out: the same bytes as frames of the host?"""
    import numpy as np

    from sr_deploy.device.device import Device
    from sr_deploy.engines.mask_guided import Amount
    from sr_deploy.masked.masked_upscaler import MaskGuidedUpscaler

    mga = bundle(NAME)
    image, device = frame(options.size[1], options.size[0]), Device(options.device)
    rows: list[Row] = []
    for backend in gpu_backends(options, options.backends):
        with guarded(rows, what=backend), MaskGuidedUpscaler(mga, Amount(ratio=options.k), backend=backend) as upscale:
            source = device.array(image)
            large = upscale.on_device(source).numpy()
            started, rounds = time.perf_counter(), 30 if options.on_gpu else 2
            for _ in range(rounds):
                upscale.on_device(source)
            ms = (time.perf_counter() - started) / rounds * 1e3
            rows.append(
                {
                    "what": f"{backend}, array in and out",
                    "ms": ms,
                    "equal to the host's": bool(np.array_equal(large, upscale(image))),
                    "trouble": upscale.stats.trouble,
                }
            )
        yield from drained(rows)


@step(60)
def speed(options: Namespace) -> Iterator[Row]:
    """What refining costs: no patch, a share, all; 1 to 3 frames in flight."""
    from sr_deploy import MaskedUpscaler
    from sr_deploy.pipeline import run_pipeline
    from sr_deploy.upscaling.gpu.frames import Schedule

    mga = bundle(NAME)
    width, height = options.size
    image, count = frame(height, width), 60 if options.on_gpu else 2
    rows: list[Row] = []
    for backend in gpu_backends(options, options.backends):
        for k, slots in ((options.k, 1), (options.k, 2), (options.k, 3), (0.0, 2), (0.1, 2), (0.5, 2), (1.0, 2)):
            labels = {"what": backend, "k": k, "in flight": slots}
            schedule = Schedule(slots=slots)
            with guarded(rows, **labels), MaskedUpscaler(mga, k=float(k), backend=backend, schedule=schedule) as upscale:
                run_pipeline(
                    itertools.repeat(image, 4 * slots if options.on_gpu else slots),
                    upscale.upscale_pixels,
                    drop,
                    workers=slots,
                )
                timing = run_pipeline(itertools.repeat(image, count), upscale.upscale_pixels, drop, workers=slots)
                ms = timing.wall / timing.items * 1e3
                rows.append(
                    {
                        "what": upscale.description,
                        "k": k,
                        "in flight": slots,
                        "ms": ms,
                        "frames/s": 1e3 / ms,
                        "trouble": upscale.stats.trouble,
                    }
                )
            yield from drained(rows)


def _kept(options: Namespace) -> Any:
    return STORE / f"mga-{'x'.join(map(str, options.size))}-{options.k}.npz"


def _chosen(upscaler: Any) -> Any:
    """Numbers of the patches that the device chose last, None where they cannot be read; looks inside."""
    import numpy as np

    for engine in upscaler._windows._engines.values():
        for space in filter(None, getattr(engine, "_workspaces", ())):
            numbers = space.selector.chosen.numpy()
            return np.sort(numbers[numbers >= 0])
    return None


def _where_same(large: Any, wanted: Any, here: Any, chosen: Any, mga: Any) -> Row:
    """The difference outside of the patches that only one of them refined."""
    import numpy as np

    side = mga.card.masked.patch * mga.card.scale
    rows, columns = large.shape[0] // side, large.shape[1] // side
    same = np.ones(rows * columns, bool)
    same[np.setxor1d(here, chosen)] = False
    mask = same.reshape(rows, columns).repeat(side, 0).repeat(side, 1)
    return difference(large[: mask.shape[0], : mask.shape[1]][mask], wanted[: mask.shape[0], : mask.shape[1]][mask])


if __name__ == "__main__":
    main("A mask-guided network on the GPU", extend)
