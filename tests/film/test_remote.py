"""A video from a web server or a file object is that from the file; servers that misbehave are told, and nothing is lost."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from sr_deploy.errors import UsageError, VideoError
from sr_deploy.files import Address
from sr_deploy.film.compute import compute_segment
from sr_deploy.film.decide import plan_video
from sr_deploy.film.finish import finish
from sr_deploy.film.identity import source_identity
from sr_deploy.film.observer import VideoObserver, VideoStart
from sr_deploy.film.options import VideoOptions
from sr_deploy.film.plan import VideoPlan
from sr_deploy.film.run import upscale_video, upscaled_frames
from sr_deploy.video import cursor
from sr_deploy.video.input import input_of
from tests.film.test_run import Nearest
from tests.video.clips import Clips
from tests.video.server import Served, certify_here, serving

FAST = VideoOptions(preset="ultrafast", segment_frames=5)
KINDS = ["cfr_sound", "rich", "vfr", "cfr_ts", "gif", "webp", "y4m"]


@pytest.fixture(autouse=True)
def _without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cursor, "WAITS", (0.0, 0.0))


@pytest.fixture
def serve() -> Iterator[Any]:
    with ExitStack() as stack:
        yield lambda data, **how: stack.enter_context(serving(Served(data, **how)))


def whole(source: Path, folder: Path) -> bytes:
    target = folder / "whole.mkv"
    upscale_video(source, target, Nearest(), options=FAST)
    data = target.read_bytes()
    target.unlink()
    return data


@pytest.mark.parametrize("name", KINDS)
def test_the_video_of_an_address_and_of_a_file_object_is_that_of_the_file(
    clips: Clips, tmp_path: Path, serve: Any, name: str
) -> None:
    data, wanted, target = clips[name].read_bytes(), whole(clips[name], tmp_path), tmp_path / "large.mkv"
    served = serve(data, path=f"/{clips[name].name}")
    upscale_video(served.url(served.path), target, Nearest(), options=FAST)
    assert target.read_bytes() == wanted
    target.unlink()
    upscale_video(io.BytesIO(data), target, Nearest(), options=FAST)
    assert target.read_bytes() == wanted
    assert list(tmp_path.iterdir()) == [target]


def test_a_file_object_may_be_read_by_several(clips: Clips) -> None:
    file = io.BytesIO(clips["cfr"].read_bytes())
    pairs = zip(upscaled_frames(file, Nearest()), upscaled_frames(file, Nearest()), strict=True)
    assert sum((one.pixels == other.pixels).all() for one, other in pairs) == 60
    assert not file.closed


@pytest.mark.parametrize("asked", ["/a b/%C3%A9 100%25 [x].mkv?key=secret", "/a%20b/é 100% [x].mkv"])
def test_names_of_all_kinds_are_asked_for(clips: Clips, tmp_path: Path, serve: Any, asked: str) -> None:
    served = serve(clips["cfr"].read_bytes(), path="/a b/é 100% [x].mkv")
    assert upscale_video(served.url(asked), tmp_path / "large.mkv", Nearest(), options=FAST).frames == 60
    address = Address(served.url(asked))
    assert (address.name, address.suffix) == ("é 100% [x].mkv", ".mkv")
    assert "secret" not in f"{address} {address!r}"


def test_a_plan_of_an_address(clips: Clips, tmp_path: Path, serve: Any) -> None:
    source, target = clips["cfr_sound"], tmp_path / "large.mkv"
    wanted = whole(source, tmp_path)
    served = serve(source.read_bytes(), wanted=f"Basic {base64.b64encode(b'me:pa ss').decode()}")
    url = served.url("/film.mkv", "me:pa%20ss@")
    plan = VideoPlan.load(plan_video(url, target, Nearest(), options=FAST).part)
    assert plan.source == url
    other = serve(source.read_bytes(), etag='"of another server"')
    elsewhere = [None, str(source), other.url("/film.mkv")]
    for index in range(len(plan.segments)):
        compute_segment(plan, index, Nearest(), source=elsewhere[index % 3])
    finish(plan)
    assert target.read_bytes() == wanted
    changed = serve(source.read_bytes()[:-1] + b"x")
    again = plan_video(url, target, Nearest(), options=FAST)
    with pytest.raises(UsageError, match="source"):
        compute_segment(again, 0, Nearest(), source=changed.url("/film.mkv"))


def test_a_redirect_is_followed_without_the_password(clips: Clips, tmp_path: Path, serve: Any) -> None:
    served = serve(clips["cfr"].read_bytes(), moved=True)
    upscale_video(served.url("/a.mkv", "me:secret@"), tmp_path / "large.mkv", Nearest(), options=FAST)
    given = {path: "Authorization" in headers for path, headers in served.seen}
    assert given == {"/a.mkv": True, "/elsewhere": False}


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"ranges": False}, r"its server does not give parts of files \(no ranges\); download it"),
        ({"path": "/other"}, r"cannot be read \(the server says 404 Not Found\)"),
        ({"wanted": "x"}, r"the server says 401 Unauthorized"),
        ({"status": 503}, r"the server says 503 Service Unavailable"),
        ({"data": b""}, r"cannot be read as video: .*It is empty"),
        ({"data": b"no video" * 99}, r"cannot be read as video: .*Expected a video file that FFmpeg knows"),
    ],
)
def test_what_a_server_does_not_give_is_told(
    clips: Clips, tmp_path: Path, serve: Any, how: dict[str, Any], message: str
) -> None:
    served = serve(**{"data": clips["cfr"].read_bytes(), **how})
    with pytest.raises(VideoError, match=message) as caught:
        upscale_video(served.url("/film.mkv?key=secret", "me:secret@"), tmp_path / "large.mkv", Nearest(), options=FAST)
    assert str(caught.value).startswith(f"http://{served.origin}/film.mkv")
    assert "\n" not in str(caught.value) and "secret" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/a.mkv", "http:///a.mkv", "http://[x/a.mkv", "http://a:x/a.mkv"])
def test_an_address_of_no_server_is_told(tmp_path: Path, url: str) -> None:
    with pytest.raises(VideoError, match=r"^http://.*cannot be read \("):
        upscale_video(url, tmp_path / "large.mkv", Nearest())


def test_a_server_that_is_gone_midway_loses_nothing(
    clips: Clips, tmp_path: Path, serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cursor, "_BUFFER", 4096)
    monkeypatch.setattr("sr_deploy.video.input.PROBING", {"probesize": "8192"})
    source, target = clips["rich"], tmp_path / "large.mkv"
    wanted = whole(source, tmp_path)
    served = serve(source.read_bytes())

    class Cutting(VideoObserver):
        def started(self, start: VideoStart) -> None:
            assert start.source == served.url("/film.mkv")
            served.cut = len(served.data) * 3 // 4

    with pytest.raises(VideoError, match=f"the server was lost at byte {len(served.data) * 3 // 4} of") as caught:
        upscale_video(served.url("/film.mkv"), target, Nearest(), options=FAST, observer=Cutting())
    kept = int(caught.value.__notes__[-1].split(" frames are kept")[0])
    assert kept >= 5
    served.cut = None
    summary = upscale_video(served.url("/film.mkv"), target, Nearest(), options=FAST)
    assert summary.resumed == kept and target.read_bytes() == wanted


def test_a_server_that_is_gone_before_the_end_loses_nothing(clips: Clips, tmp_path: Path, serve: Any) -> None:
    served, target = serve(clips["cfr_sound"].read_bytes()), tmp_path / "large.mkv"
    wanted = whole(clips["cfr_sound"], tmp_path)

    def gone(seen: int) -> None:
        served.status = 503 if seen == 59 else 0

    with pytest.raises(VideoError, match="the server says 503 Service Unavailable"):
        upscale_video(served.url("/film.mkv"), target, Nearest(gone), options=FAST)
    served.status = 0
    assert upscale_video(served.url("/film.mkv"), target, Nearest(), options=FAST).resumed == 60
    assert target.read_bytes() == wanted


def test_only_a_server_with_a_trusted_certificate_is_read(
    clips: Clips, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serve: Any
) -> None:
    certificate, both = certify_here(tmp_path)
    served = serve(clips["cfr"].read_bytes(), certificate=both)
    with pytest.raises(VideoError, match=r"its certificate is not trusted: self.signed certificate"):
        input_of(served.url("/film.mkv")).read()
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with input_of(served.url("/film.mkv")).open() as opened:
        assert sum(1 for packet in opened.demux() if packet.size) == 60
    with pytest.raises(VideoError, match=r"its certificate is not trusted: .*localhost"):
        input_of(served.url("/film.mkv").replace("127.0.0.1", "localhost")).read()


def test_a_server_that_ends_connections_is_asked_again(clips: Clips, monkeypatch: pytest.MonkeyPatch, serve: Any) -> None:
    monkeypatch.setattr(cursor, "WAITS", (0.0,) * 3)
    data = clips["cfr_sound"].read_bytes()
    served = serve(data, cut=len(data) // 2)
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        served.cut = None

    monkeypatch.setattr(cursor.time, "sleep", wait)
    with input_of(served.url("/film.mkv")).read() as file:
        assert file.read() == data
        assert file.read() == b"" and file.seek(7) == 7 and file.read(3) == data[7:10]
    assert len(waits) == 1


def test_a_file_that_changes_on_the_server_is_told(clips: Clips, tmp_path: Path, serve: Any) -> None:
    served = serve(clips["cfr"].read_bytes())

    def change(seen: int) -> None:
        served.etag = f'"{seen}"'

    with pytest.raises(VideoError, match="was changed on the server while it was read"):
        upscale_video(served.url("/film.mkv"), tmp_path / "large.mkv", Nearest(change), options=FAST)


def test_another_file_at_the_same_address_has_another_identity(serve: Any) -> None:
    served = serve(b"a" * (3 << 20))
    url = served.url("/film.mkv")
    first = source_identity(input_of(url))
    assert first == source_identity(input_of(url)) and (first["bytes"], first["changed"]) == (3 << 20, '"1"')
    plain = source_identity(input_of(io.BytesIO(served.data)))
    assert plain == {name: value for name, value in first.items() if name != "changed"}
    served.etag = '"2"'
    assert source_identity(input_of(url)) != first
    served.etag = ""
    assert source_identity(input_of(url)) == plain


def test_what_is_no_video_of_a_caller_is_told(clips: Clips, tmp_path: Path) -> None:
    target = tmp_path / "large.mkv"
    with pytest.raises(UsageError, match="a Path takes a slash from an address; give it as a str"):
        upscale_video(Path("https://host/film.mkv"), target, Nearest())
    for wrong in (io.StringIO("a"), None, 3):
        with pytest.raises(UsageError, match="expected a path, an address, or a file object of bytes"):
            upscale_video(wrong, target, Nearest())  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="only what other processes can open"):
        plan_video(io.BytesIO(clips["cfr"].read_bytes()), target, Nearest())
    closed = io.BytesIO()
    with pytest.raises(VideoError, match="the file object: cannot be read"):
        upscale_video(_Closing(closed), target, Nearest())
    assert list(tmp_path.iterdir()) == []


class _Closing(io.BytesIO):
    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file.getvalue())

    def seek(self, *_: int) -> int:
        raise OSError("the disk is gone")


def test_what_comes_from_elsewhere_opens_no_other_file(clips: Clips, tmp_path: Path, serve: Any) -> None:
    listed = f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile://{clips['cfr_ts']}\n#EXT-X-ENDLIST\n".encode()
    served = serve(listed, path="/a.m3u8")
    with pytest.raises(VideoError):
        upscale_video(served.url("/a.m3u8"), tmp_path / "large.mkv", Nearest())


def test_no_address_is_kept_with_segments(clips: Clips, tmp_path: Path, serve: Any) -> None:
    served, target = serve(clips["cfr"].read_bytes()), tmp_path / "large.mkv"
    plan = plan_video(served.url("/film.mkv", "me:secret@"), target, Nearest(), options=FAST)
    compute_segment(plan, 0, Nearest())
    holders = [path.name for path in plan.part.iterdir() if b"secret" in path.read_bytes()]
    assert holders == ["plan.json"]
    assert "secret" not in json.dumps(plan.identity)
