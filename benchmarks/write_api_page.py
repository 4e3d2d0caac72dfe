"""Write docs/api.md from the signatures and docstrings of what is public.

python benchmarks/write_api_page.py [OUTPUT]
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
import sys
import textwrap
import typing
from collections.abc import Callable as AnyCallable
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union

import sr_deploy
from sr_deploy.errors import SrDeployError

PAGE = Path(__file__).parents[1] / "docs" / "api.md"

HEAD = """# The Python interface

Made from the docstrings by `make api`. [python.md](python.md) shows how it is used.

What stands here with `from sr_deploy import NAME` is public. The other classes come back from it, and stand here with the
module that they are in. `Array` is a numpy array, LR the image that goes in, SR what comes out.
"""

SECTIONS: dict[str, tuple[str, ...]] = {
    "Upscalers": ("Upscaler", "MaskedUpscaler"),
    "Images": ("upscale_image", "read_image", "write_image", "decode_image", "encode_image"),
    "Videos": ("upscale_video", "upscaled_frames", "plan_video", "compute_segment", "finish", "VideoPlan"),
    "Clusters": ("cluster.upscale_on_ray", "batch.UpscalerSpec", "cluster.RayOptions"),
    "Bundles": ("open_bundle", "export_bundle"),
    "Options": ("VideoOptions", "TargetSize", "VideoObserver"),
    "What comes back": (
        *("Picture", "Metadata", "upscaling.image_upscaler.Stats", "upscaling.image_upscaler.MaskedStats"),
        *("film.observer.VideoSummary", "film.observer.VideoStart", "film.observer.VideoProgress", "video.frame.Frame"),
        *("film.plan.PlannedSegment", "film.journal.SegmentRecord", "Bundle", "card.ModelCard"),
    ),
}
"""By title, names in `sr_deploy`, or paths below it."""

BETWEEN_ROOMS = frozenset({"MaskedStats.plus", "Bundle.write_card", "ModelCard.to_json", "ModelCard.from_json"})
"""Members that other rooms call, and no part of what is public."""

_ARGUMENT = re.compile(r"(\w+): ")
_ALIASES = (Literal, Union, UnionType, AnyCallable)


def main() -> None:
    output = Path(sys.argv[1]) if len(sys.argv) > 1 else PAGE
    output.write_text(page(), encoding="utf-8")
    print(output)


def page() -> str:
    """The whole page, in Markdown."""
    parts = [HEAD, contents()]
    for title, paths in SECTIONS.items():
        parts += [f"## {title}\n", *(entry(path) for path in paths)]
    return "\n".join([*parts, "## Errors\n", errors()])


def contents() -> str:
    lines = [
        f"- {title}: " + ", ".join(f"[`{path.rpartition('.')[2]}`](#{path.rpartition('.')[2].lower()})" for path in paths)
        for title, paths in SECTIONS.items()
    ]
    return "\n".join([*lines, "- [Errors](#errors)\n"])


def find(path: str) -> Any:
    """What has that name in `sr_deploy`, or that path below it."""
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(f"sr_deploy.{module}") if module else sr_deploy, name)


def entry(path: str) -> str:
    thing = find(path)
    name = path.rpartition(".")[2]
    where = f"from {f'sr_deploy.{path}'.rpartition('.')[0]} import {name}"
    parts = [f"### {name}\n", f"```python\n{where}\n\n{signature(name, thing)}\n```\n", text(thing)]
    if inspect.isclass(thing):
        known = {shown for other in before(path) for shown, _ in members(other) if issubclass(thing, other.__mro__[1])}
        own = {shown: member for shown, member in members(thing) if shown not in known}
        parts += [f"#### {shown}\n\n{text(member)}" for shown, member in own.items()]
        if again := known & {shown for shown, _ in members(thing)}:
            names = sorted(re.sub(r"\W*(\w+).*", r"`\1`", shown) for shown in again)
            parts.append(f"As above: {', '.join(names)}.\n")
    return "\n".join(parts)


def before(path: str) -> list[type]:
    """Classes that stand before it in its section."""
    (section,) = (paths for paths in SECTIONS.values() if path in paths)
    things = [find(other) for other in section[: section.index(path)]]
    return [thing for thing in things if inspect.isclass(thing) and thing.__mro__[1] is not object]


def members(kind: type) -> Iterator[tuple[str, Any]]:
    """Public methods and properties of a class of ours, each with its heading; calling it comes first."""
    names = ["__call__", *(name for name in dir(kind) if not name.startswith("_"))]
    fields = {field.name for field in dataclasses.fields(kind)} if dataclasses.is_dataclass(kind) else set()
    for name in names:
        found = inspect.getattr_static(kind, name, None)
        if name in fields or f"{kind.__name__}.{name}" in BETWEEN_ROOMS:
            continue
        if isinstance(found, property) and found.fget:
            yield f"`.{name}: {annotation(found.fget, 'return')}`", found
        elif isinstance(found, staticmethod):
            yield f"`{signature(f'{kind.__name__}.{name}', found.__func__)}`", found.__func__
        elif inspect.isfunction(found):
            called = "upscale" if name == "__call__" else f".{name}"
            yield f"`{signature(called, found, bound=True)}`".replace("\n", " "), inspect.getattr_static(kind, name)


def signature(name: str, thing: Any, *, bound: bool = False) -> str:
    """As a `def` has it, without quotes, on one line if that fits."""
    function = thing.__init__ if inspect.isclass(thing) else thing
    known = list(inspect.signature(thing).parameters.values())[bound:]
    parts: list[str] = []
    for parameter in known:
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in parts:
            parts.append("*")
        parts.append(one_parameter(function, parameter, thing))
        if parameter.kind is parameter.POSITIONAL_ONLY:
            parts.append("/")
    result = "" if inspect.isclass(thing) else f" -> {annotation(function, 'return')}"
    line = f"{name}({', '.join(parts)}){result}"
    if len(line) <= 100 or bound:
        return line
    return f"{name}(\n" + "".join(f"    {part},\n" for part in parts) + f"){result}"


def one_parameter(function: Any, parameter: inspect.Parameter, thing: Any) -> str:
    stars = "**" if parameter.kind is parameter.VAR_KEYWORD else "*" if parameter.kind is parameter.VAR_POSITIONAL else ""
    shown = f"{stars}{parameter.name}: {annotation(function, parameter.name, thing)}"
    if parameter.default is parameter.empty:
        return shown
    default = parameter.default
    if dataclasses.is_dataclass(thing):
        field = {field.name: field for field in dataclasses.fields(thing)}[parameter.name]
        default = field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
    is_plain = not dataclasses.is_dataclass(default)
    return f"{shown} = {default!r}" if is_plain else f"{shown} = {type(default).__name__}()"


def annotation(function: Any, name: str, thing: Any = None) -> str:
    """The type as it is written, with aliases such as `Precision` spelled out."""
    owner = thing if inspect.isclass(thing) else function
    is_data = dataclasses.is_dataclass(owner)
    home = next(base for base in owner.__mro__ if name in base.__annotations__) if is_data else function
    notes, names = home.__annotations__, vars(sys.modules[home.__module__])

    def spell(match: re.Match[str]) -> str:
        value = names.get(match[0])
        return re.sub(r"\b(?:\w+\.)+(?=\w)", "", str(value)) if typing.get_origin(value) in _ALIASES else match[0]

    parts = re.split(r"(['\"][^'\"]*['\"])", str(notes[name]))
    return "".join(part if at % 2 else re.sub(r"[A-Za-z_]\w*", spell, part) for at, part in enumerate(parts)).replace('"', "'")


def text(thing: Any) -> str:
    """A docstring in Markdown: arguments as a list, indented lines as code."""
    blocks = re.split(r"\n\n", inspect.getdoc(thing) or "")
    return "".join(f"{block(lines)}\n\n" for lines in blocks).rstrip() + "\n"


def block(lines: str) -> str:
    if lines.startswith("    "):
        return "```python\n" + re.sub(r" +#", "  #", textwrap.dedent(lines)) + "\n```"
    if lines.startswith("Raises:"):
        return f"**Raises** {joined(lines.removeprefix('Raises:'))}"
    if _ARGUMENT.match(lines):
        return "\n".join(f"- **`{name}`**: {joined(what)}" for name, what in arguments(lines).items())
    return joined(lines)


def arguments(docstring: str) -> dict[str, str]:
    """What a docstring, or a part of it, says of each argument or field."""
    found: dict[str, str] = {}
    for paragraph in docstring.split("\n\n"):
        for item in re.split(r"\n(?=\S)", paragraph):
            if (match := _ARGUMENT.match(item)) and match[1] != "Raises" and not paragraph.startswith("Raises:"):
                found[match[1]] = item[match.end() :]
    return found


def joined(lines: str) -> str:
    return " ".join(lines.split())


def errors() -> str:
    """The tree of errors, and what each of them means."""
    tree = (sys.modules["sr_deploy.errors"].__doc__ or "").split("\n\n")[1]
    kinds = [kind for name in sr_deploy.__all__ if isinstance(kind := getattr(sr_deploy, name), type)]
    rows = [
        f"| `{kind.__name__}` | {kind.exit_code} | {joined(kind.__doc__ or '')} |"
        for kind in kinds
        if issubclass(kind, SrDeployError)
    ]
    table = "\n".join(["| error | exit code | |", "|---|---|---|", *rows])
    return f"All are public, and all are an `SrDeployError`.\n\n```\n{inspect.cleandoc(tree)}\n```\n\n{table}\n"


if __name__ == "__main__":
    main()
