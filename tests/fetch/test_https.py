"""Downloads against servers that misbehave as servers do."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from sr_deploy.errors import FetchError
from sr_deploy.fetch import https
from sr_deploy.fetch.https import download
from tests.fetch.conftest import PATH, Serve, file_of

DATA = random.Random(1).randbytes(300_000)
HALF = len(DATA) // 2


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints" / "weights.pth"


def part_of(target: Path) -> Path:
    return target.with_name(f"{target.name}.part")


def asked(seen: list[tuple[str, dict[str, str]]]) -> list[str]:
    """The parts that were asked for, in order."""
    return [headers["Range"] for _, headers in seen]


def test_a_file_comes_with_progress(serve: Serve, target: Path) -> None:
    served, told = serve(DATA), list[int]()
    download(file_of(served), target, told.append)
    assert target.read_bytes() == DATA
    assert told == sorted(set(told)) and told[-1] == len(DATA) and len(told) > 2
    assert [path.name for path in target.parent.iterdir()] == ["weights.pth"]


def test_a_lost_server_is_asked_for_the_rest(serve: Serve, target: Path) -> None:
    served = serve(DATA, cut=HALF)

    def mended(done: int) -> None:
        if done == HALF:
            served.cut = None

    download(file_of(served), target, mended)
    assert target.read_bytes() == DATA and asked(served.seen) == ["bytes=0-", f"bytes={HALF}-"]


def test_what_a_broken_download_left_is_gone_on_with(serve: Serve, target: Path) -> None:
    served = serve(DATA, cut=HALF)
    with pytest.raises(FetchError, match=rf"cannot be fetched \(the server ended .*{HALF} of {len(DATA)} bytes are there"):
        download(file_of(served), target)
    assert asked(served.seen) == ["bytes=0-", f"bytes={HALF}-", f"bytes={HALF}-"]
    assert part_of(target).read_bytes() == DATA[:HALF] and not target.exists()
    served.cut = None
    download(file_of(served), target)
    assert target.read_bytes() == DATA and asked(served.seen)[3:] == [f"bytes={HALF}-"]


def test_a_server_without_parts_begins_anew(serve: Serve, target: Path) -> None:
    served = serve(DATA, ranges=False)
    target.parent.mkdir()
    part_of(target).write_bytes(b"?" * HALF)
    download(file_of(served), target)
    assert target.read_bytes() == DATA


def test_a_server_that_falls_silent_is_given_up(serve: Serve, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(https, "TIMEOUT", 0.3)
    monkeypatch.setattr(https, "WAITS", ())
    with pytest.raises(FetchError, match=r"cannot be fetched \(.*timed out\)"):
        download(file_of(serve(DATA, cut=HALF, silent=True)), target)
    assert part_of(target).stat().st_size > 0


def test_another_file_of_the_same_size_is_removed(serve: Serve, target: Path) -> None:
    with pytest.raises(FetchError, match=r"not the published file: sha256 \w{12}, expected \w{12}; it is removed$"):
        download(file_of(serve(bytes(len(DATA))), DATA), target)
    assert list(target.parent.iterdir()) == []


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("size", [HALF, 2 * len(DATA)])
def test_a_file_of_another_size_is_not_taken(serve: Serve, target: Path, ranges: bool, size: int) -> None:
    with pytest.raises(FetchError, match=f"the server has {size}, expected {len(DATA)} bytes"):
        download(file_of(serve(bytes(size), ranges=ranges), DATA), target)
    assert list(target.parent.iterdir()) == []


def test_a_part_beyond_the_file_of_the_server_is_removed(serve: Serve, target: Path) -> None:
    target.parent.mkdir()
    part_of(target).write_bytes(DATA[:HALF])
    with pytest.raises(FetchError, match=f"the server has no byte {HALF}, expected"):
        download(file_of(serve(DATA[:100]), DATA), target)
    assert list(target.parent.iterdir()) == []


def test_a_part_that_is_too_long_begins_anew(serve: Serve, target: Path) -> None:
    target.parent.mkdir()
    part_of(target).write_bytes(bytes(len(DATA) + 1))
    download(file_of(serve(DATA)), target)
    assert target.read_bytes() == DATA


def test_a_redirect_is_followed_to_hosts_of_the_recipe(serve: Serve, target: Path) -> None:
    other = serve(DATA)
    served = serve(b"", moved=True, location=other.url(PATH))
    download(file_of(served, DATA, hosts=(other.origin,)), target)
    assert target.read_bytes() == DATA
    assert asked(other.seen) == ["bytes=0-"]


def test_a_redirect_to_another_host_is_refused(serve: Serve, target: Path) -> None:
    other = serve(DATA)
    served = serve(b"", moved=True, location=f"{other.url(PATH)}?signature=secret")
    with pytest.raises(FetchError, match=rf"leads to https://{other.origin}{PATH}; its recipe allows {served.origin} alone"):
        download(file_of(served, DATA), target)
    assert other.seen == []


@pytest.mark.parametrize("scheme", ["http", "ftp", "file"])
def test_nothing_comes_but_over_https(serve: Serve, target: Path, scheme: str) -> None:
    served = serve(DATA)
    address = f"{scheme}://{served.origin}{PATH}"
    with pytest.raises(FetchError, match="over https alone"):
        download(file_of(served, url=address), target)
    served.moved, served.location = True, address
    with pytest.raises(FetchError, match=r"over https alone|Redirection to url 'file:"):
        download(file_of(served, hosts=(served.origin,)), target)
    assert len(served.seen) == 1


def test_a_server_that_nobody_trusts_is_not_asked(serve: Serve, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served = serve(DATA)
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(FetchError, match=r"its certificate is not trusted: self.signed"):
        download(file_of(served), target)
    assert served.seen == []


def test_what_the_server_says_is_told(serve: Serve, target: Path) -> None:
    served = serve(DATA, status=404)
    with pytest.raises(FetchError, match=r"cannot be fetched \(the server says 404 Not Found\); 0 of"):
        download(file_of(served), target)
    assert len(served.seen) == 1 and list(target.parent.iterdir()) == []


def test_without_a_network_it_is_one_line(serve: Serve, target: Path) -> None:
    served = serve(DATA)
    with pytest.raises(FetchError, match=r"^https://127\.0\.0\.1:1/w: cannot be fetched \(Connection refused\)"):
        download(file_of(served, url="https://127.0.0.1:1/w"), target)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_is_one_line(serve: Serve, target: Path) -> None:
    target.parent.mkdir()
    part_of(target).symlink_to("/dev/full")
    with pytest.raises(FetchError, match=r"cannot be written \(No space left on device\); free some space"):
        download(file_of(serve(DATA)), target)


def test_an_interrupt_keeps_the_part(serve: Serve, target: Path) -> None:
    def interrupt(done: int) -> None:
        del done
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download(file_of(serve(DATA)), target, interrupt)
    kept = part_of(target).read_bytes()
    assert kept and DATA.startswith(kept)


def test_a_folder_that_cannot_be_made(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(FetchError, match=r"cannot be written \((Not a directory|File exists)\)"):
        download(file_of(serve(DATA)), tmp_path / "file" / "weights.pth")
