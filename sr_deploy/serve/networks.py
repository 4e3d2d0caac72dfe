"""The networks of a service: by which names they are asked for, opened when they first are."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from sr_deploy.batch import UpscalerSpec, open_upscaler
from sr_deploy.bundle import Bundle
from sr_deploy.engines.open import open_bundle
from sr_deploy.errors import UsageError, did_you_mean
from sr_deploy.models import DEFAULT, FOLDER, RESTORER, USUAL_SCALE, aliases, portable_name, resolve
from sr_deploy.upscaling.image_upscaler import ImageUpscaler


@dataclass(eq=False)
class ServedNetwork:
    """One network; `spec` opens it, in fp32 or in what this machine is fastest in."""

    name: str
    bundle: Bundle
    spec: UpscalerSpec
    _opened: dict[bool, ImageUpscaler] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def scale(self) -> int:
        """Its factor."""
        return self.bundle.card.scale

    @property
    def description(self) -> str:
        """What it is, in one line."""
        card = self.bundle.card
        return f"{card.architecture}, {'RGB' if card.channels == 3 else 'luma'}, {card.parameters / 1000:,.0f} k parameters"

    def spec_of(self, *, fp32: bool) -> UpscalerSpec:
        """What opens it anywhere."""
        return replace(self.spec, precision="fp32") if fp32 else self.spec

    def open(self, *, fp32: bool = False) -> ImageUpscaler:
        """What upscales by it, from any thread; it stays open. Raises: as `open_upscaler`."""
        upscaler = self._opened.get(fp32)
        if upscaler is None:
            with self._lock:
                upscaler = self._opened.get(fp32) or open_upscaler(self.spec_of(fp32=fp32))
                self._opened[fp32] = upscaler
        return upscaler

    def close(self) -> None:
        """Release what is open."""
        with self._lock:
            for upscaler in self._opened.values():
                upscaler.close()
            self._opened.clear()


class ServedNetworks:
    """Those that are served; a name in the box without its scale stands for all of its scales.

    Raises: UsageError for names that mean nothing, or the same; BundleError.
    """

    def __init__(self, models: Sequence[str], spec: UpscalerSpec) -> None:
        self._all: dict[str, ServedNetwork] = {}
        self._families: dict[str, tuple[ServedNetwork, ...]] = {}
        families = [self._family(model, spec) for model in models]
        self._usual = families[0]

    def __iter__(self) -> Iterator[ServedNetwork]:
        return iter(self._all.values())

    @property
    def default(self) -> ServedNetwork:
        """What a client gets who asks for no network and no size."""
        return _for_factor(self._usual, None)

    def named(self, name: str) -> ServedNetwork | None:
        """The network of that very name."""
        return self._all.get(name)

    def choose(self, name: str | None, factor: float | None) -> ServedNetwork:
        """The network that a client means; of several scales the least that makes pictures `factor` times as large.

        Raises: UsageError for a name that is not served.
        """
        if name is None:
            return _for_factor(self._usual, factor)
        if name in self._all:
            return self._all[name]
        if name in self._families:
            return _for_factor(self._families[name], factor)
        hint = did_you_mean(name, (*self._all, *self._families))
        raise UsageError(f"model '{name}': not served here; there are {', '.join(self._all)}{hint}")

    def restorer(self, name: str | None, factor: float | None) -> ServedNetwork | None:
        """What pictures that lost much go to where a client names no network: `photo-fast`, where `fast` is the usual one."""
        family = self._families.get(RESTORER)
        is_usual = name is None and self._usual is self._families.get(DEFAULT)
        return _for_factor(family, factor) if family and is_usual else None

    def close(self) -> None:
        """Release all."""
        for network in self:
            network.close()

    def _family(self, model: str, spec: UpscalerSpec) -> tuple[ServedNetwork, ...]:
        """What a name of the operator's means."""
        path = resolve(model)
        if path.parent != FOLDER:
            bundle = open_bundle(path)
            return (self._new(bundle.card.name, bundle, replace(spec, model=portable_name(model))),)
        names = aliases().get(model, (path.name,))
        family = tuple(self._new(name, open_bundle(FOLDER / name), replace(spec, model=name)) for name in names)
        self._families[model] = family
        return family

    def _new(self, name: str, bundle: Bundle, spec: UpscalerSpec) -> ServedNetwork:
        """Raises: UsageError where another network has the name."""
        network = self._all.setdefault(name, ServedNetwork(name, bundle, spec))
        if network.spec != spec:
            raise UsageError(f"two networks are called {name}: {network.spec.model} and {spec.model}; leave out one of them")
        return network


def _for_factor(family: Sequence[ServedNetwork], factor: float | None) -> ServedNetwork:
    """As names in the box are understood: between two scales the larger one, beyond all the largest."""
    wanted = USUAL_SCALE if factor is None else factor
    return next((network for network in family if network.scale >= wanted), family[-1])
