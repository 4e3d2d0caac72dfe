"""docs/api.md is what the docstrings say, and these say what each public name takes and raises."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import textwrap
from typing import Any

import pytest
import write_api_page
from write_api_page import BETWEEN_ROOMS, PAGE, SECTIONS, arguments, find

import sr_deploy
from sr_deploy import errors

PATHS = [path for paths in SECTIONS.values() for path in paths]
CLASSES = [find(path) for path in PATHS if inspect.isclass(find(path))]


def documented() -> dict[str, Any]:
    """By name, every class and function of the page, and every method of its classes."""
    things = {path.rpartition(".")[2]: find(path) for path in PATHS}
    for kind in CLASSES:
        for name in ("__call__", *(name for name in dir(kind) if not name.startswith("_"))):
            member = inspect.getattr_static(kind, name, None)
            member = member.__func__ if isinstance(member, staticmethod) else member
            if inspect.isfunction(member) and f"{kind.__name__}.{name}" not in BETWEEN_ROOMS:
                things[f"{kind.__name__}.{name}"] = getattr(kind, name)
    return things


DOCUMENTED = documented()


def raised(thing: Any) -> set[str]:
    """The errors of ours that its own body raises."""
    if inspect.isclass(thing):
        thing = thing.__post_init__ if hasattr(thing, "__post_init__") else thing.__init__
        if not hasattr(thing, "__code__") or thing.__code__.co_filename == "<string>":
            return set()
    tree = ast.parse(textwrap.dedent(inspect.getsource(thing)))
    calls = [node.exc for node in ast.walk(tree) if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)]
    return {call.func.id for call in calls if isinstance(call.func, ast.Name)}


def test_the_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == write_api_page.page(), "run `make api`"


def test_the_page_has_what_is_public_once() -> None:
    names = [path for path in PATHS if "." not in path]
    others = {name for name in sr_deploy.__all__ if name.endswith("Error")} | {"__version__"}
    assert sorted(names) == sorted(set(sr_deploy.__all__) - others)
    page = PAGE.read_text(encoding="utf-8")
    assert all(f"| `{name}` |" in page for name in others - {"__version__"})


def test_members_that_are_left_out_exist() -> None:
    for member in BETWEEN_ROOMS:
        kind, _, name = member.partition(".")
        assert any(found.__name__ == kind and hasattr(found, name) for found in CLASSES), member


@pytest.mark.parametrize("name", DOCUMENTED)
def test_a_docstring_says_what_each_argument_is(name: str) -> None:
    thing = DOCUMENTED[name]
    said = arguments(inspect.getdoc(thing) or "")
    if dataclasses.is_dataclass(thing):
        taken = set(vars(thing)["__annotations__"])
    elif inspect.isclass(thing) and thing.__init__ is object.__init__:
        taken = set()
    else:
        taken = set(inspect.signature(thing).parameters) - {"self"}
    assert set(said) == taken
    assert all(text.strip() for text in said.values())


@pytest.mark.parametrize("name", DOCUMENTED)
def test_a_docstring_says_what_is_raised(name: str) -> None:
    thing = DOCUMENTED[name]
    text = inspect.getdoc(thing) or ""
    assert len(text.splitlines()[0]) > 10
    told = set(re.findall(r"\b\w+Error\b", text.partition("Raises:")[2]))
    assert raised(thing) <= told
    assert told <= set(vars(errors))


def test_a_raise_in_a_body_is_found() -> None:
    assert raised(DOCUMENTED["Upscaler"]) == raised(DOCUMENTED["VideoOptions"]) == {"UsageError"}
    assert raised(DOCUMENTED["Bundle.open"]) == {"BundleError"} and raised(DOCUMENTED["Bundle"]) == set()


@pytest.mark.parametrize("name", [name for name in sr_deploy.__all__ if name.endswith("Error")])
def test_every_error_says_what_it_is(name: str) -> None:
    assert "__doc__" in vars(getattr(sr_deploy, name)) and getattr(sr_deploy, name).__doc__.endswith(".")
