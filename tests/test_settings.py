from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from sr_deploy import settings
from sr_deploy.errors import UsageError
from sr_deploy.settings import Folder, find_toml, load_toml, shipped


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


@pytest.fixture
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("_here")
def test_what_comes_with_sr_deploy_is_found_by_name() -> None:
    found = find_toml("rtx", "engines")
    assert (found.name, found.is_file()) == ("rtx.toml", True) and found == shipped("engines")["rtx"]
    assert find_toml("rlfn_x4", "export") != find_toml("rlfn_x4", "training")
    Path("rtx").mkdir()
    assert find_toml("rtx", "engines") == found, "only a file hides it"
    for path in ("rtx.toml", "./none/rtx", Path("none", "rtx")):
        assert find_toml(path, "engines") == Path(path), "a path stays one"
    Path("rtx").rmdir()
    Path("rtx").write_text("")
    assert find_toml("rtx", "engines") == Path("rtx")


@pytest.mark.parametrize(
    ("name", "folder", "message"),
    [
        ("rxt", "engines", r"^rxt: no such file, and no target of that name; did you mean 'rtx'\?$"),
        ("zzz", "engines", "no target of that name; there are cpu, datacenter, jetson, rtx$"),
        ("fast_x5", "training", "no recipe of that name; did you mean 'fast_x"),
    ],
)
def test_an_unknown_name(name: str, folder: Folder, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        find_toml(name, folder)


@pytest.mark.usefixtures("_here")
def test_a_wheel_has_them_in_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "_PACKAGE", Path("sr_deploy"))
    Path("engines").mkdir()
    Path("engines/mine.toml").write_text("")
    assert shipped("engines") == {"mine": Path("engines/mine.toml")}
    Path("sr_deploy/data/engines").mkdir(parents=True)
    with pytest.raises(UsageError, match=r"mine: no such file, .* there are none in this installation"):
        find_toml("mine", "engines")
