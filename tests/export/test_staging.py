import errno
from pathlib import Path

import pytest

from sr_deploy.bundle import CARD_FILE
from sr_deploy.errors import ExportError, UsageError
from sr_deploy.export.staging import staged


def test_a_folder_appears_when_complete(tmp_path: Path) -> None:
    with staged(tmp_path / "deep" / "net", overwrite=False) as part:
        (part / CARD_FILE).write_text("{}")
        assert not (tmp_path / "deep" / "net").exists()
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["net"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), staged(tmp_path / "net", overwrite=False) as part:
        (part / CARD_FILE).write_text("{}")
        raise error
    assert list(tmp_path.iterdir()) == []


def earlier(tmp_path: Path) -> Path:
    target = tmp_path / "net"
    target.mkdir()
    (target / CARD_FILE).write_text("earlier")
    return target


def test_an_earlier_bundle_is_kept_without_overwrite(tmp_path: Path) -> None:
    target = earlier(tmp_path)
    with pytest.raises(UsageError, match="--overwrite"), staged(target, overwrite=False):
        pass
    assert (target / CARD_FILE).read_text() == "earlier"


def test_overwriting_replaces_it_whole(tmp_path: Path) -> None:
    target = earlier(tmp_path)
    (target / "extra").touch()
    with staged(target, overwrite=True) as part:
        (part / CARD_FILE).write_text("new")
    assert (target / CARD_FILE).read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["net"]
    assert not (target / "extra").exists()


def test_a_failed_overwrite_keeps_the_earlier_one(tmp_path: Path) -> None:
    target = earlier(tmp_path)
    with pytest.raises(ValueError, match="broken"), staged(target, overwrite=True):
        raise ValueError("broken")
    assert (target / CARD_FILE).read_text() == "earlier"
    assert [path.name for path in tmp_path.iterdir()] == ["net"]


def test_a_folder_that_is_no_bundle_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "holiday.jpg").touch()
    with pytest.raises(UsageError, match="not a bundle"), staged(tmp_path / "photos", overwrite=True):
        pass
    assert (tmp_path / "photos" / "holiday.jpg").exists()


def test_a_parent_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be written"), staged(tmp_path / "file" / "net", overwrite=False):
        pass


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    with (
        pytest.raises(ExportError, match=r"No space left on device.*free some space"),
        staged(tmp_path / "net", overwrite=False),
    ):
        raise full
    assert not list(tmp_path.iterdir())
