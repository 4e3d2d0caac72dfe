"""Which tensors of a checkpoint are the network's: averaged weights before plain ones, the generator and not its critic."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from sr_deploy.errors import CheckpointError

PLAIN = (
    *("params", "state_dict", "model_state_dict", "model_state", "model"),
    *("generator", "net_g", "g", "net", "network", "module", "shadow"),
)
"""Keys under which plain weights stand, the likeliest first; with a word for averaging, averaged weights stand there."""

AVERAGING = frozenset({"ema", "swa", "averaged", "average", "avg"})
PREFIXES = ("module.", "model.", "network.", "generator.", "_orig_mod.", "net.")
"""What training puts before every key; before a number it is the name of a Sequential, and the network's own."""

_GENERATORS = ("generator", "net_g")
_COMPANIONS = re.compile(
    r"d|g|step|initted|n_averaged|.*(discriminator|net_?d|critic|criterion|cri_|loss|vgg|lpips|percep|preprocessor|teacher|"
    r"step_counter|num_updates|decay|metric|psnr|ssim).*"
)
"""What stands beside a network in the state dict of its trainer, and is none."""

_Rank = tuple[bool, int]


@dataclass(frozen=True)
class Weights:
    """`tensors` of one network, keys without training prefixes; `wrapper`: the keys that led to them; `left`: the keys beside
    those under which other weights stand."""

    tensors: dict[str, Tensor]
    wrapper: str
    left: tuple[str, ...]


def find_weights(path: Path, content: Any) -> Weights:
    """The weights to deploy out of all that a file holds.

    Raises: CheckpointError when there are none.
    """
    trail: list[str] = []
    left: list[str] = []
    seen: set[int] = set()
    while True:
        inside = f" under '{'.'.join(trail)}'" if trail else ""
        if not isinstance(content, Mapping) or not content:
            kind = "an empty dict" if isinstance(content, Mapping) else f"a {type(content).__name__}"
            raise CheckpointError(f"{path}: holds {kind}{inside}, expected a state dict; save model.state_dict() again")
        if id(content) in seen:
            raise CheckpointError(f"{path}: holds itself{inside}, expected a state dict; save model.state_dict() again")
        seen.add(id(content))
        wrapper = _best_wrapper(content)
        if wrapper is None:
            break
        left += [key for key, value in content.items() if key != wrapper and _is_state_dict(value)]
        trail.append(wrapper)
        content = content[wrapper]
    tensors = {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}
    if not tensors:
        keys = ", ".join(f"'{str(key)[:40]}'" for key in list(content)[:5])
        raise CheckpointError(
            f"{path}: no weights found among its keys {keys}; expected a state dict, bare or under one of {', '.join(PLAIN)}, "
            "or under one of these with _ema"
        )
    return _without_prefixes(tensors, trail, left)


def _best_wrapper(content: Mapping[Any, Any]) -> str | None:
    ranked = [
        (not _holds_tensors(value), rank, key)
        for key, value in content.items()
        if isinstance(key, str) and isinstance(value, Mapping) and (rank := _rank(key)) is not None
    ]
    return min(ranked)[2] if ranked else None


def _rank(key: str) -> _Rank | None:
    """Averaged first, then in the order of PLAIN; None for a key that is no wrapper."""
    words = _snake(key).split("_")
    rest = [word for word in words if word not in AVERAGING]
    averaged = len(rest) < len(words)
    name = "_".join(rest).replace("netg", "net_g")
    if name in PLAIN:
        return not averaged, PLAIN.index(name)
    return (False, len(PLAIN)) if averaged and not rest else None


def _is_state_dict(value: Any) -> bool:
    return isinstance(value, Mapping) and any(isinstance(key, str) and isinstance(item, Tensor) for key, item in value.items())


def _holds_tensors(content: Mapping[Any, Any]) -> bool:
    waiting, seen = [content], {id(content)}
    while waiting:
        for value in waiting.pop().values():
            if isinstance(value, Tensor):
                return True
            if isinstance(value, Mapping) and id(value) not in seen:
                seen.add(id(value))
                waiting.append(value)
    return False


def _without_prefixes(tensors: dict[str, Tensor], trail: list[str], left: list[str]) -> Weights:
    while True:
        prefix = next((prefix for prefix in PREFIXES if all(_has_prefix(key, prefix) for key in tensors)), None)
        if prefix is None and (part := _network_part(tensors)) is not None:
            heads = dict.fromkeys(key.partition(".")[0] for key in tensors)
            left += [head for head in heads if head != part]
            trail.append(part)
            prefix = f"{part}."
        if prefix is None:
            return Weights(tensors, ".".join(trail), tuple(left))
        tensors = {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}


def _has_prefix(key: str, prefix: str) -> bool:
    return key.startswith(prefix) and not key.removeprefix(prefix)[:1].isdigit()


def _network_part(keys: Iterable[str]) -> str | None:
    """The first word of the keys that are the network's, in a state dict that holds more than one network."""
    heads = dict.fromkeys(key.partition(".")[0] for key in keys)
    ranks = {head: _rank(head) for head in heads if any(key.startswith(f"{head}.") for key in keys)}
    for head, rank in sorted(((head, rank) for head, rank in ranks.items() if rank is not None), key=lambda item: item[1]):
        averaged_of_plain = not rank[0] and rank[1] < len(PLAIN)
        others = [other for other in heads if other != head]
        beside = all(_COMPANIONS.fullmatch(_snake(other)) or ranks.get(other) is not None for other in others)
        if others and (averaged_of_plain or _snake(head) in _GENERATORS or beside):
            return head
    return None


def _snake(key: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", key).lower().replace("-", "_")
