from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from sr_deploy.errors import UsageError
from sr_deploy.settings import load_toml


@dataclass(frozen=True)
class Inner:
    width: int


@dataclass(frozen=True)
class Outer:
    name: str
    mode: Literal["fast", "slow"] = "fast"
    ratio: float = 1.0
    count: int | None = None
    sizes: tuple[int, ...] = ()
    inner: Inner | None = None
    table: dict[str, float] = field(default_factory=dict)


def load(tmp_path: Path, text: str) -> Outer:
    path = tmp_path / "settings.toml"
    path.write_text(text, encoding="utf-8")
    return load_toml(path, Outer)


def test_tables_become_dataclasses(tmp_path: Path) -> None:
    text = 'name = "é"\nratio = 2\ncount = 3\nsizes = [1, 2]\n[inner]\nwidth = 4\n[table]\nSet5 = 32.1\n'
    assert load(tmp_path, text) == Outer("é", "fast", 2.0, 3, (1, 2), Inner(4), {"Set5": 32.1})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "missing key 'name' (str)"),
        ('nam = "x"', "unknown key 'nam'; did you mean 'name'?"),
        ('name = "x"\nzzzz = 1', "unknown key 'zzzz'; valid keys: name, mode"),
        ("name = 1", "name: expected str, got 1"),
        ('name = "x"\nmode = "medium"', "mode: 'medium' is not one of 'fast', 'slow'"),
        ('name = "x"\ncount = true', "count: expected int, got True"),
        ('name = "x"\nsizes = 3', "sizes: expected a list, got 3"),
        ('name = "x"\ninner = 3', "inner: expected a table, got 3"),
        ('name = "x"\n[inner]\nwidht = 3', "inner: unknown key 'widht'; did you mean 'width'?"),
        ("name = ", "not valid TOML"),
    ],
)
def test_a_wrong_file_is_one_error_with_the_way_out(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        load(tmp_path, text)
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path / "settings.toml"))


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        load_toml(tmp_path / "none.toml", Outer)
