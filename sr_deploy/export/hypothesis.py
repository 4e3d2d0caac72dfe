"""What weights cannot tell, measured: every reading of a checkpoint runs on a picture whose HR is known, the best one wins."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from sr_deploy.arrays import Array
from sr_deploy.card import Detection, Hypothesis
from sr_deploy.errors import AmbiguousCheckpointError, ExportError, UsageError
from sr_deploy.export.certify import as_function
from sr_deploy.probe_picture import (
    MARGIN,
    WORST,
    as_input,
    as_pixels,
    degrade,
    gain,
    measure,
    measure_bicubic,
    probe_picture,
)


@dataclass(frozen=True)
class Candidate:
    """One function that a checkpoint may stand for.

    `facts`: value range and every setting of the network; `assumes`: those of them that the weights leave open; `reference`
    builds the original module between [0, 1] and about [0, 1].
    """

    scale: int
    channels: int
    facts: dict[str, Any]
    assumes: dict[str, Any]
    reference: Callable[[], nn.Module]


@dataclass(frozen=True)
class Choice:
    """The index of the candidate that was chosen, and why."""

    index: int
    detection: Detection


def choose(
    candidates: Sequence[Candidate],
    *,
    requested: dict[str, Any],
    decided_by: Literal["checkpoint", "recipe", "flag"] = "flag",
    size_multiple: int = 1,
    anyway: bool = False,
    where: str,
) -> Choice:
    """The candidate that fits `requested`, or else the one that gains most over bicubic on the probe picture.

    The gain, not the PSNR, because readings may differ in their scale. All candidates are measured, also those that
    `requested` rules out. Warns (UserWarning) when the choice is worse than bicubic or than a candidate that was ruled out.

    Raises: UsageError when `requested` fits no candidate; ExportError when all are far worse than bicubic, unless `anyway`;
    AmbiguousCheckpointError when the measurement does not decide.
    """
    allowed = [index for index, item in enumerate(candidates) if _fits(item, requested)]
    if not allowed:
        raise UsageError(_no_fit(candidates, requested, where))
    hypotheses = tuple(_measured(item, size_multiple) for item in candidates)
    if not anyway:
        _refuse_nonsense(hypotheses, where)
    index = allowed[0] if len(allowed) == 1 else _by_measurement(hypotheses, allowed, where)
    _warn(hypotheses, index, where)
    gains = sorted((gain(hypothesis) for hypothesis in hypotheses), reverse=True)
    detection = Detection(
        decided_by="measurement" if len(allowed) > 1 else "structure" if len(candidates) == 1 else decided_by,
        hypotheses=hypotheses,
        margin=round(gains[0] - gains[1], 4) if len(gains) > 1 else None,
        bicubic=hypotheses[index].bicubic,
    )
    return Choice(index, detection)


def _measured(candidate: Candidate, size_multiple: int) -> Hypothesis:
    hr, lr = degrade(probe_picture(), candidate.scale, size_multiple=size_multiple)
    psnr = measure(as_function(candidate.reference()), hr, lr, channels=candidate.channels)
    return Hypothesis(candidate.assumes, round(psnr, 4), round(measure_bicubic(hr, lr), 4))


def upscale(module: nn.Module, lr: Array, *, channels: int) -> Array | None:
    """8-bit output of a module, (H, W, 3) RGB or (H, W) Y; None when it has a NaN or an Inf."""
    return as_pixels(as_function(module)(as_input(lr, channels)))


def _fits(candidate: Candidate, requested: dict[str, Any]) -> bool:
    return all(key in candidate.facts and candidate.facts[key] == value for key, value in requested.items())


def _by_measurement(hypotheses: Sequence[Hypothesis], allowed: list[int], where: str) -> int:
    best, second = sorted(allowed, key=lambda index: -gain(hypotheses[index]))[:2]
    if hypotheses[best].psnr > 0 and gain(hypotheses[best]) - gain(hypotheses[second]) >= MARGIN:
        return best
    possible = [hypotheses[index] for index in allowed]
    table = "; ".join(f"{describe(item.assumes)}: {item.psnr:.2f} dB" for item in possible)
    raise AmbiguousCheckpointError(
        f"{where}: the weights fit {len(allowed)} functions, and the test picture does not tell which ({table}; "
        f"bicubic {possible[0].bicubic:.2f} dB; expected is a lead of {MARGIN} dB). Say which: {' and '.join(_flags(possible))}"
    )


def describe(assumes: dict[str, Any]) -> str:
    """'value range 255, inner skips no', for people."""
    words = {True: "yes", False: "no"}
    parts = [
        f"{key.replace('_', ' ')} {words[value] if isinstance(value, bool) else _plain(value)}"
        for key, value in assumes.items()
    ]
    return ", ".join(parts) or "the only reading"


def _flags(possible: Sequence[Hypothesis]) -> list[str]:
    options: dict[str, list[str]] = {}
    for item in possible:
        for key, value in item.assumes.items():
            text = _plain(value)
            if text not in options.setdefault(key, []):
                options[key].append(text)
    open_options = {key: values for key, values in options.items() if len(values) > 1}
    return [
        f"`--value-range {'|'.join(sorted(values, key=float))}`"
        if key == "value_range"
        else f"`--variant {key}={'|'.join(values)}`"
        for key, values in open_options.items()
    ]


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def _no_fit(candidates: Sequence[Candidate], requested: dict[str, Any], where: str) -> str:
    known = sorted({key for item in candidates for key in item.facts})
    for key, value in requested.items():
        if key not in known:
            return f"{where}: this network has no setting '{key}'; it has {', '.join(known)}"
        values = sorted({_plain(item.facts[key]) for item in candidates})
        if _plain(value) not in values:
            return f"{where}: {key} = {_plain(value)} contradicts the weights, which leave only {', '.join(values)}"
    readings = "; ".join(describe(item.assumes) for item in candidates)
    return f"{where}: no reading of the weights fits {describe(requested)}; there are: {readings}"


def _refuse_nonsense(hypotheses: Sequence[Hypothesis], where: str) -> None:
    best = max(hypotheses, key=gain)
    if gain(best) < -WORST:
        raise ExportError(
            f"{where}: no reading of the weights upscales; the best one, {describe(best.assumes)}, has {best.psnr:.2f} dB on "
            f"the test picture, bicubic has {best.bicubic:.2f} dB. The weights are untrained or broken, or were trained in "
            "another network than their names tell; to export them all the same, use --anyway (in Python: anyway=True)"
        )


def _warn(hypotheses: Sequence[Hypothesis], index: int, where: str) -> None:
    chosen, best = hypotheses[index], max(hypotheses, key=gain)
    if gain(best) - gain(chosen) >= MARGIN:
        warnings.warn(
            f"{where}: asked for {describe(chosen.assumes)} ({chosen.psnr:.2f} dB on the test picture), but "
            f"{describe(best.assumes)} gives {best.psnr:.2f} dB",
            stacklevel=4,
        )
    elif gain(chosen) <= 0:
        warnings.warn(
            f"{where}: {chosen.psnr:.2f} dB on the test picture, bicubic has {chosen.bicubic:.2f} dB. Either the weights are "
            "broken or not what they seem, or the network was trained for another degradation than bicubic (real-world)",
            stacklevel=4,
        )
