"""Damaged and odd checkpoints: refused in a line, or exported to a bundle that verifies; nothing in them is ever run."""

from __future__ import annotations

import copy
import io
import os
import warnings
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import torch
from cases import Case, Kind, Run, Seed
from mutations import damage_bytes
from safetensors.torch import save
from torch import Tensor

from sr_deploy.architectures import ecbsr, rfdn
from sr_deploy.architectures.architecture import StateDict

EXPORT_SHARE = 4
"""One of so many is exported too."""

CANARY = "was_run"
"""A file that code in a checkpoint would make."""


class Bomb:
    """Unpickles by running a command."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {CANARY}",)


class Checkpoints(Kind):
    name = "checkpoint"
    suffixes = frozenset({".pth", ".pt", ".ckpt", ".safetensors", ".pt2", ".pkl"})

    def make_seeds(self, folder: Path) -> None:
        plain = random_state(ecbsr.ARCHITECTURE.build_empty(ecbsr.ECBSRConfig(2, 3, 8, 1)).state_dict())
        training = random_state(ecbsr.ARCHITECTURE.build_empty(ecbsr.ECBSRConfig(2, 3, 8, 1, merged=False)).state_dict())
        other = random_state(rfdn.ARCHITECTURE.build_empty(rfdn.RFDNConfig(2, 3, channels=16, distilled=8, esa=4)).state_dict())
        torch.save(plain, folder / "plain.pth")
        torch.save({"params": training, "params_ema": training, "epoch": 3}, folder / "training.pth")
        torch.save(
            {"state_dict": {f"module.{key}": value for key, value in plain.items()}, "optimizer": {}}, folder / "lightning.ckpt"
        )
        torch.save(plain, folder / "old.pt", _use_new_zipfile_serialization=False)
        torch.save({key: value.half() for key, value in other.items()}, folder / "rfdn.pth")
        (folder / "plain.safetensors").write_bytes(save(plain))

    def damage(self, random: Random, seed: Seed, other: Seed) -> tuple[bytes, str, str]:
        if random.random() < 0.4 or seed.suffix == ".safetensors":
            data, how = damage_bytes(random, seed.data, other.data)
            return data, how, seed.suffix
        try:
            held = torch.load(io.BytesIO(seed.data), map_location="cpu", weights_only=True)
        except Exception:  # a seed that is odd by itself
            data, how = damage_bytes(random, seed.data, other.data)
            return data, how, seed.suffix
        state = largest_state(held)
        if state is None:
            return seed.data, "as it is", seed.suffix
        held, how = random.choice(CHANGES)(random, held, state)
        file = io.BytesIO()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.save(held, file, _use_new_zipfile_serialization=random.random() < 0.8)
        return file.getvalue(), how, seed.suffix

    def run(self, path: Path, case: Case) -> Run:
        run = Run()
        code, _ = run.call("inspect", path)
        bundle = path.parent / "out" / "bundle"
        if case.number % EXPORT_SHARE == 0:
            exported, _ = run.call("export", path, "-o", bundle, "--anyway", "--value-range", 1)
            wanted = list(bundle.iterdir()) if exported == 0 else []
            run.check_leftovers(path.parent / "out", wanted)
            if exported == 0:
                run.accepted = True
                if run.call("verify", bundle)[0]:
                    run.note("a bundle that does not verify")
        run.accepted = run.accepted or code == 0
        if Path(CANARY).exists():
            run.note("code of the file was run")
        return run

    def judge(self, path: Path, case: Case, run: Run) -> str | None:
        """The checksums of the archive; `verify` is the judge of what was exported."""
        try:
            with zipfile.ZipFile(path) as archive:
                if case.data.startswith(b"PK") and (damaged := archive.testzip()) is not None:
                    return f"accepted, the checksum of {damaged.partition('/')[2].partition('/')[0]} is wrong"
        except (zipfile.BadZipFile, NotImplementedError, EOFError, OSError, RuntimeError, ValueError, zlib.error):
            pass
        return "" if any(" verify " in command for command in run.commands) else None


def random_state(state: StateDict) -> dict[str, Tensor]:
    """Small numbers of one seed, in the shapes of the state."""
    generator = torch.Generator().manual_seed(1)
    return {key: torch.randn(value.shape, generator=generator) * 0.05 for key, value in state.items()}


def largest_state(held: Any, depth: int = 3) -> dict[str, Any] | None:
    """The dict with most tensors in it, looked for some levels down."""
    if not isinstance(held, dict):
        return None
    found = [held] if any(isinstance(value, Tensor) for value in held.values()) else []
    if depth:
        found += [inner for value in held.values() if (inner := largest_state(value, depth - 1)) is not None]
    return max(found, key=len, default=None)


def _tensor(random: Random, held: Any, state: dict[str, Any]) -> tuple[Any, str]:
    """Put an odd tensor in the place of one or of all."""
    makers: dict[str, Callable[[Tensor], Any]] = {
        "NaN": lambda one: torch.full_like(one, float("nan")),
        "infinite": lambda one: torch.full_like(one, float("inf")),
        "huge numbers": lambda one: torch.full_like(one, 1e30),
        "no element": lambda _: torch.empty(0),
        "a side of 0": lambda one: torch.empty(0, *one.shape[1:]),
        "whole numbers": lambda one: torch.ones(one.shape, dtype=torch.int64),
        "booleans": lambda one: torch.ones(one.shape, dtype=torch.bool),
        "complex": lambda one: torch.ones(one.shape, dtype=torch.complex64),
        "bfloat16": lambda one: one.bfloat16(),
        "float64": lambda one: one.double(),
        "sparse": lambda one: one.to_sparse(),
        "meta": lambda one: torch.empty(one.shape, device="meta"),
        "stride 0": lambda one: torch.ones(1).expand(one.shape),
        "stride 0 of 8 GB": lambda one: torch.ones(1).expand(2**31, *[1] * max(one.ndim - 1, 0)),
        "one side more": lambda one: one[None],
        "flat": lambda one: one.reshape(-1),
        "transposed": lambda one: one.transpose(0, -1),
        "twice as wide": lambda one: torch.cat([one, one]),
        "a part of a larger one": lambda one: torch.zeros(4, *one.shape)[1],
        "text": lambda _: "tensor",
        "None": lambda _: None,
        "a list": lambda _: [1.0, 2.0],
        "a dict": lambda one: {"weight": one},
    }
    what = random.choice(list(makers))
    keys = [key for key, value in state.items() if isinstance(value, Tensor)]
    for key in keys if random.random() < 0.2 else [random.choice(keys)]:
        state[key] = makers[what](state[key].float())
    return held, f"{what} in the place of a tensor"


def _keys(random: Random, held: Any, state: dict[Any, Any]) -> tuple[Any, str]:
    what = random.choice(("removed", "renamed", "a number", "a tuple", "beside", "prefix", "empty", "many"))
    key = random.choice(list(state))
    if what == "beside":
        state["another.weight"] = torch.ones(3, 3)
    elif what == "prefix":
        moved = {f"net_g.backbone.{key}": state.pop(key) for key in list(state)}
        state.update(moved)
    elif what == "empty":
        state.clear()
    elif what == "many":
        state.update({f"layer{index}.weight": torch.ones(1) for index in range(3000)})
    else:
        names: dict[str, Any] = {"renamed": "x" * 500, "a number": 7, "a tuple": (1, "a")}
        value = state.pop(key)
        if what in names:
            state[names[what]] = value
    return held, f"key: {what}"


def _wrapper(random: Random, held: Any, state: dict[str, Any]) -> tuple[Any, str]:
    del state
    what = random.choice(("itself", "deep", "list", "two", "odd name", "ordered", "text", "number"))
    if what == "itself":
        held["held"] = held
    elif what == "deep":
        for _ in range(200):
            held = {"state_dict": held}
    elif what == "two":
        held = {"generator": held, "discriminator": copy.deepcopy(held), "iteration": 10**30}
    else:
        held = {
            "list": [held, held],
            "odd name": {"модель": held, "": None},
            "ordered": OrderedDict(model=OrderedDict(held)),
            "text": "state",
            "number": 7,
        }[what]
    return held, f"wrapper: {what}"


def _code(random: Random, held: Any, state: dict[str, Any]) -> tuple[Any, str]:
    del state
    if random.random() < 0.5:
        return {"params": held, "opt": Bomb()}, "a command beside the weights"
    return Bomb(), "a command"


CHANGES: tuple[Callable[[Random, Any, dict[str, Any]], tuple[Any, str]], ...] = (
    _tensor,
    _tensor,
    _tensor,
    _keys,
    _wrapper,
    _code,
)
