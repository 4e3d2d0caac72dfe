"""Files and folders, upscaled; and what upscales them, as plain values that any process can open."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from sr_deploy.card import PrecisionChoice
from sr_deploy.errors import UsageError
from sr_deploy.models import resolve

if TYPE_CHECKING:
    from sr_deploy.upscaling.image_upscaler import ImageUpscaler

USUAL_BUDGET = 0.4
USUAL_PATCHES = {"k": 0.2}


@dataclass(frozen=True)
class UpscalerSpec:
    """What to open, for `open_upscaler`; the values are those of an Upscaler and a MaskedUpscaler.

    model: a network in the box, or the path of a bundle or an ONNX file; of a pair, the one that refines.
    base: of a pair, the one that restores what has little detail.
    budget: of a pair, the share of the time that `model` would take for everything; None is 0.4.
    patches: what a mask-guided network refines, `k` or `threshold`; None is k of 0.2.
    backend: the runtime.
    precision: the arithmetic.
    tile: side of a tile in LR pixels.
    on_failure: what happens with a tile that is not sane in fp32 either.
    memory: bytes for a window's activations.
    threads: of the CPU.
    allow_cpu: whether backend 'auto' may take the CPU where there is a GPU that no backend can use.
    gpus: numbers of those to use.
    """

    model: str
    base: str | None = None
    budget: float | None = None
    patches: dict[str, int | float] | None = None
    backend: str = "auto"
    precision: PrecisionChoice = "auto"
    tile: int | Literal["auto"] = "auto"
    on_failure: Literal["raise", "bicubic"] = "bicubic"
    memory: int | None = None
    threads: int | None = None
    allow_cpu: bool = False
    gpus: tuple[int, ...] | None = None


def open_upscaler(spec: UpscalerSpec) -> ImageUpscaler:
    """An Upscaler; a MaskedUpscaler for a pair and for a mask-guided network. The caller closes it.

    Raises: BundleError, BackendUnavailableError; UsageError, also for patches of a network without a mask.
    """
    from sr_deploy.engines.open import open_bundle
    from sr_deploy.upscaling.upscaler import Upscaler

    bundle = open_bundle(resolve(spec.model))
    engine: dict[str, Any] = {
        "backend": spec.backend,
        "precision": spec.precision,
        "tile": spec.tile,
        "on_failure": spec.on_failure,
        "memory": spec.memory,
        "threads": spec.threads,
        "allow_cpu": spec.allow_cpu,
        "gpus": spec.gpus,
    }
    if spec.base is not None:
        from sr_deploy.masked.masked_upscaler import MaskedUpscaler

        base = resolve(spec.base, bundle.card.scale)
        budget = USUAL_BUDGET if spec.budget is None else spec.budget
        return MaskedUpscaler(base=base, refine=bundle, budget=budget, **engine)
    if bundle.card.masked is not None:
        from sr_deploy.masked.masked_upscaler import MaskedUpscaler

        del engine["tile"]
        return MaskedUpscaler(bundle, **(spec.patches or USUAL_PATCHES), **engine)
    if spec.patches is not None:
        raise UsageError(f"{bundle.card.name} is no mask-guided network: patches are for these")
    return Upscaler(bundle, **engine)
