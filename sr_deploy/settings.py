"""TOML and JSON files <-> frozen dataclasses, with strict keys; the files that come with sr-deploy, by name."""

from __future__ import annotations

import dataclasses
import tomllib
import types
import typing
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, TypeVar

from sr_deploy.errors import UsageError, did_you_mean

T = TypeVar("T")

Folder = Literal["export", "training", "engines"]
"""Where files that come with sr-deploy stand: recipes of checkpoints, recipes of trainings, targets."""

_FROM_TEXT: Mapping[type, Callable[[str], Any]] = {Fraction: Fraction, Path: Path, bytes: bytes.fromhex}
"""What neither TOML nor JSON has a value for, from its text."""

_CALLED = {"export": "recipe", "training": "recipe", "engines": "target"}
_PACKAGE = Path(__file__).parent


def load_toml(path: Path, settings: type[T]) -> T:
    """Read `path` into the frozen dataclass `settings`; a table becomes a nested dataclass.

    Raises: UsageError for a missing file, broken TOML, an unknown or missing key (with the nearest valid one), a wrong type.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise UsageError(f"{path}: cannot be read ({exc.strerror}); expected a TOML file") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise UsageError(f"{path}: not valid TOML: {exc}") from exc
    return from_table(table, settings, where=str(path))


def shipped(folder: Folder) -> dict[str, Path]:
    """The files of `folder` that come with sr-deploy, by name: `rtx` is rtx.toml.

    A wheel has them in the package, a clone beside it.
    """
    inside = _PACKAGE / "data" / folder
    place = inside if inside.is_dir() else _PACKAGE.parent / folder
    return {path.stem: path for path in sorted(place.glob("*.toml"))}


def find_toml(name: str | Path, folder: Folder) -> Path:
    """The file that `name` means: a file on disk before one of `folder` that comes with sr-deploy.

    Anything with a slash or a suffix is a path, whether it exists or not.

    Raises: UsageError for a bare name that is neither, with the nearest one.
    """
    path, known = Path(name), shipped(folder)
    if path.is_file() or path.suffix or path.name != str(name):
        return path
    if path.name in known:
        return known[path.name]
    hint = did_you_mean(path.name, known) or f"; there are {', '.join(known) or 'none in this installation'}"
    raise UsageError(f"{name}: no such file, and no {_CALLED[folder]} of that name{hint}")


def from_table(table: Mapping[str, Any], settings: type[T], *, where: str) -> T:
    """Build the dataclass `settings` from a table of TOML or JSON values.

    Raises: UsageError, naming `where`.
    """
    if not dataclasses.is_dataclass(settings):
        raise TypeError(f"{settings} is not a dataclass")
    hints = typing.get_type_hints(settings)
    fields = {field.name: field for field in dataclasses.fields(settings)}
    for key in table:
        if key not in fields:
            hint = did_you_mean(key, fields) or f"; valid keys: {', '.join(fields)}"
            raise UsageError(f"{where}: unknown key '{key}'{hint}")
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in table:
            raise UsageError(f"{where}: missing key '{name}' ({_type_name(hints[name])})")
    values = {key: _convert(value, hints[key], where=f"{where}: {key}") for key, value in table.items()}
    return typing.cast(T, settings(**values))


def to_table(settings: Any) -> Any:
    """What `from_table` reads back, in values that JSON has: of a frozen dataclass and what is in it."""
    if dataclasses.is_dataclass(settings):
        return {field.name: to_table(getattr(settings, field.name)) for field in dataclasses.fields(settings)}
    if isinstance(settings, Mapping):
        return {str(key): to_table(value) for key, value in settings.items()}
    if isinstance(settings, list | tuple):
        return [to_table(value) for value in settings]
    if isinstance(settings, bytes):
        return settings.hex()
    return str(settings) if isinstance(settings, tuple(_FROM_TEXT)) else settings


def _convert(value: Any, hint: Any, *, where: str) -> Any:
    origin = typing.get_origin(hint)
    arguments = typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        options = [option for option in arguments if option is not type(None)]
        for option in options[:-1]:
            try:
                return _convert(value, option, where=where)
            except UsageError:
                continue
        return _convert(value, options[-1], where=where)
    if origin is typing.Literal:
        if value not in arguments:
            raise UsageError(f"{where}: {value!r} is not one of {', '.join(map(repr, arguments))}")
        return value
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, Mapping):
            raise UsageError(f"{where}: expected a table, got {value!r}")
        return from_table(value, hint, where=where)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise UsageError(f"{where}: expected a list, got {value!r}")
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return tuple(_convert(item, arguments[0], where=where) for item in value)
        if len(value) != len(arguments):
            raise UsageError(f"{where}: expected {len(arguments)} values, got {len(value)}")
        return tuple(_convert(item, kind, where=where) for item, kind in zip(value, arguments, strict=True))
    if origin is dict:
        if not isinstance(value, Mapping):
            raise UsageError(f"{where}: expected a table, got {value!r}")
        of_key = int if arguments[0] is int else str
        return {of_key(key): _convert(item, arguments[1], where=f"{where}.{key}") for key, item in value.items()}
    if hint in _FROM_TEXT and isinstance(value, str):
        try:
            return _FROM_TEXT[hint](value)
        except (ValueError, ZeroDivisionError) as exc:
            raise UsageError(f"{where}: expected {_type_name(hint)}, got {value!r}") from exc
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and (not isinstance(value, hint) or (hint is not bool and isinstance(value, bool))):
        raise UsageError(f"{where}: expected {_type_name(hint)}, got {value!r}")
    return value


def _type_name(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint).replace("typing.", "")
