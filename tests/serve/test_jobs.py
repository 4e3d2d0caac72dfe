"""Jobs: videos and many pictures, told while they go, kept through restarts."""

from __future__ import annotations

import errno
import http.client
import io
import json
import os
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from sr_deploy import Upscaler, VideoOptions, compute_segment, plan_video, upscale_video
from sr_deploy.batch import UpscalerSpec, open_upscaler
from sr_deploy.batch.folder import upscale_files
from sr_deploy.cluster import RayOptions
from sr_deploy.serve.options import Limits
from sr_deploy.serve.spool import JobFolder, JobOutcome, JobProgress, Order, OrderedFile, Spool
from tests.docs import write_film
from tests.serve.conftest import LIMITS, Running, encoded, eventually, multipart, serving

Pixels = NDArray[np.uint8]


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("film") / "film.mkv"
    write_film(path, 6)
    return path


def frames(data: bytes) -> list[Pixels]:
    with av.open(io.BytesIO(data)) as video:
        return [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]


def test_many_pictures(running: Running, photo: Pixels, upscaler: Upscaler) -> None:
    names = ("../../../etc/passwd.png", "été \u2028.webp", "C:\\x\\b.png")
    body, kind = multipart(
        (names[0], encoded(photo)), (names[1], encoded(photo[::-1], ".webp")), (names[2], encoded(photo[:, ::-1]))
    )
    begun = running.post("/v1/jobs?name=mine&format=png", body, Content_Type=kind)
    assert begun.status == 202 and list(begun.json) == ["id"]
    job = running.finished(begun.json["id"])
    assert (job["state"], job["done"], job["total"], job["unit"], job["name"]) == ("done", 3, 3, "pictures", "mine")
    assert [result["name"] for result in job["results"]] == ["passwd.png", "été _.png", "b.png"]
    results = [running.get(result["url"]) for result in job["results"]]
    assert [len(answer.body) for answer in results] == [result["bytes"] for result in job["results"]]
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(results[0].body))), upscaler(photo))
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(results[2].body))), upscaler(np.ascontiguousarray(photo[:, ::-1])))
    assert 'filename="passwd.png"' in results[0].headers["Content-Disposition"]
    assert "filename*=utf-8''%C3%A9t%C3%A9%20_.png" in results[1].headers["Content-Disposition"]
    folder = running.service.spool._folder / begun.json["id"]
    assert sorted(path.name for path in folder.rglob("*.png")) == ["000001.png", "000002.png", "000003.png"]
    assert [job["id"] for job in running.get("/v1/jobs").json["jobs"]].count(begun.json["id"]) == 1


def events(running: Running, job: str) -> list[dict[str, Any]]:
    place = urlsplit(running.address)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=60)
    connection.request("GET", f"/v1/jobs/{job}/events")
    answer = connection.getresponse()
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    text = answer.read().decode()
    connection.close()
    return [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line.startswith("data: ")]


def test_a_video(running: Running, film: Path, upscaler: Upscaler, tmp_path: Path) -> None:
    begun = running.post("/v1/jobs?format=mp4", film.read_bytes())
    told = events(running, begun.json["id"])
    assert told[-1] == running.get(f"/v1/jobs/{begun.json['id']}").json
    last = told[-1]
    assert (last["state"], last["done"], last["unit"], last["error"]) == ("done", last["total"], "frames", None), last
    (result,) = last["results"]
    upscale_video(film, tmp_path / "large.mp4", upscaler)
    whole = running.get(result["url"])
    assert whole.headers["Content-Type"] == "video/mp4"
    expected = frames((tmp_path / "large.mp4").read_bytes())
    assert len(expected) == last["total"] and all(map(np.array_equal, frames(whole.body), expected))
    part = running.get(result["url"], Range="bytes=10-19")
    assert (part.status, part.body) == (206, whole.body[10:20])
    assert part.headers["Content-Range"] == f"bytes 10-19/{len(whole.body)}"
    assert running.get(result["url"], Range="bytes=999999999-").status == 416
    assert running.get(f"/v1/jobs/{last['id']}/results/1").status == 404


def test_one_bad_file_of_many_is_told_at_once(running: Running, photo: Pixels) -> None:
    body, kind = multipart(("good.png", encoded(photo)), ("bad.png", encoded(photo)[:-30]))
    answer = running.post("/v1/jobs", body, Content_Type=kind)
    assert answer.status == 422 and answer.json["error"].startswith("bad.png: ")


PLAYLIST = b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"", 422, "empty"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", 415, "no picture"),
        (PLAYLIST, 415, "no picture"),
        (b"\x1aE\xdf\xa3" + bytes(100), 422, "cannot be read as video"),
        (encoded(np.zeros((150, 150, 3), np.uint8)), 413, "150x150"),
        (b"\x1aE\xdf\xa3" + bytes(LIMITS.most_job_bytes), 413, f"{LIMITS.most_job_bytes} bytes"),
    ],
    ids=["nothing", "concat", "playlist", "torn", "pixels", "bytes"],
)
def test_what_is_refused_leaves_nothing(running: Running, body: bytes, status: int, words: str) -> None:
    spool = running.service.spool._folder
    before = set(spool.iterdir())
    answer = running.post("/v1/jobs", body)
    assert answer.status == status and words in answer.json["error"], answer.body
    assert str(spool) not in answer.json["error"]
    assert set(spool.iterdir()) == before


def test_a_job_that_outgrows_the_spool_fails(
    tmp_path: Path, film: Path, photo: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_TELL_SECONDS", "_MEASURE_SECONDS"):
        monkeypatch.setattr(f"sr_deploy.serve.runner.{name}", -1.0)
    spool = Spool(tmp_path, most_bytes=1 << 20, expiry=60)
    job = queued(spool, ("000001.png", encoded(photo)), ("000002.mkv", film.read_bytes()))
    (tmp_path / "large").write_bytes(bytes(1 << 20))
    with serving(tmp_path, limits=Limits(spool_bytes=1 << 20)) as running:
        facts = running.finished(job.id)
    assert facts["state"] == "failed" and f"{1 << 20} bytes" in facts["error"]


@pytest.mark.parametrize(("place", "number"), [("new", errno.ENOSPC), ("require", errno.EDQUOT)])
def test_a_full_disk_is_told(running: Running, photo: Pixels, monkeypatch: pytest.MonkeyPatch, place: str, number: int) -> None:
    def full(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    before = set(running.service.spool._folder.iterdir())
    monkeypatch.setattr(running.service.spool, place, full)
    answer = running.post("/v1/jobs", encoded(photo))
    assert answer.status == 507 and "disk is full" in answer.json["error"]
    assert set(running.service.spool._folder.iterdir()) == before


def test_frames_count_as_pixels_do(running: Running, tmp_path: Path) -> None:
    with av.open(str(tmp_path / "wide.mkv"), "w") as wide:
        stream = wide.add_stream("libx264", 24, width=256, height=128, pix_fmt="yuv420p")
        wide.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((128, 256, 3), np.uint8))))
        wide.mux(stream.encode())
    answer = running.post("/v1/jobs", (tmp_path / "wide.mkv").read_bytes())
    assert answer.status == 413 and "256x128" in answer.json["error"]


@pytest.mark.parametrize("id", ["0" * 32, "..", "%2e%2e", "..%2f..%2fetc", "x" * 500, "0" * 31 + "%00"])
def test_jobs_that_there_are_not(running: Running, id: str) -> None:
    for answer in (
        running.get(f"/v1/jobs/{id}"),
        running.ask("DELETE", f"/v1/jobs/{id}"),
        running.get(f"/v1/jobs/{id}/results/0"),
    ):
        assert answer.status in (404, 405) and list(answer.json) == ["error"]


def queued(spool: Spool, *files: tuple[str, bytes]) -> JobFolder:
    """A job that nobody is at yet, as an upload leaves it."""
    job = spool.new()
    for name, data in files:
        (job.inputs / name).write_bytes(data)
    listed = tuple(OrderedFile(name, name, name.endswith(".mkv")) for name, _ in files)
    job.keep(Order(name="a job", network="fast-x2", files=listed, created=time.time()))
    return job


def test_a_job_goes_on_after_a_restart(tmp_path: Path, film: Path, photo: Pixels) -> None:
    """What an earlier process finished is not done again; whatever it was at is."""
    spool = Spool(tmp_path, 1 << 24, 60)
    job = queued(spool, ("000001.mkv", film.read_bytes()), ("000002.png", encoded(photo)), ("000003.png", encoded(photo)))
    torn = queued(spool)
    (torn.folder / "order.json").unlink()
    os.utime(torn.folder, (0, 0))
    job.results.mkdir()
    kept = encoded(np.full((48, 64, 3), 7, np.uint8))
    (job.results / "000002.png").write_bytes(kept)
    (job.results / "000003.png").write_bytes(kept[:-5])
    with serving(tmp_path) as second:
        facts = second.finished(job.id)
        results = {result["name"]: second.get(result["url"]).body for result in facts["results"]}
    assert (facts["state"], facts["done"], sorted(results)) == ("done", 3, ["000001.mkv", "000002.png", "000003.png"])
    assert results["000002.png"] == kept and results["000003.png"] != kept[:-5]
    assert len(frames(results["000001.mkv"])) == len(frames(film.read_bytes()))
    assert not torn.folder.exists() and not job.inputs.exists()


@pytest.mark.parametrize("alone", [True, False])
def test_a_video_that_was_begun_in_another_way_is_begun_anew(
    tmp_path: Path, film: Path, photo: Pixels, upscaler: Upscaler, alone: bool
) -> None:
    """As by another version, or a machine that computes otherwise."""
    more = [] if alone else [("000002.png", encoded(photo))]
    job = queued(Spool(tmp_path, 1 << 24, 60), ("000001.mkv", film.read_bytes()), *more)
    job.results.mkdir()
    target = job.results / "000001.mkv"
    plan = plan_video(job.inputs / "000001.mkv", target, upscaler, options=VideoOptions(crf=50))
    compute_segment(plan, 0, upscaler)
    with serving(tmp_path) as running:
        facts = running.finished(job.id)
    assert (facts["state"], facts["error"], len(facts["results"])) == ("done", None, 1 + len(more))
    upscale_video(film, tmp_path / "large.mkv", upscaler)
    expected = frames((tmp_path / "large.mkv").read_bytes())
    assert all(map(np.array_equal, frames(target.read_bytes()), expected))


def test_a_job_that_ends_the_process_again_and_again_is_given_up(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 1 << 20, 60)
    job = spool.new()
    assert [job.begin() for _ in range(4)] == [True, True, True, False]
    job.keep(JobProgress(5, 10))
    assert job.begin()
    job.put_back()
    assert [job.begin() for _ in range(2)] == [True, True]


def test_cancel_and_delete(tmp_path: Path, film: Path) -> None:
    with serving(tmp_path, limits=Limits(spool_bytes=1 << 20, expiry=3600)) as running:
        running.service.runner.stop()
        running.service.runner.join()
        job = running.post("/v1/jobs", film.read_bytes()).json["id"]
        assert running.get(f"/v1/jobs/{job}").json["state"] == "queued"
        assert running.ask("DELETE", f"/v1/jobs/{job}").json["state"] == "canceled"
        assert events(running, job)[-1]["state"] == "canceled"
        assert not (tmp_path / job / "inputs").exists()
        assert running.ask("DELETE", f"/v1/jobs/{job}").status == 204
        assert running.get(f"/v1/jobs/{job}").status == 404
        assert list(tmp_path.iterdir()) == []
        (tmp_path / "large").write_bytes(bytes(1 << 20))
        assert running.post("/v1/jobs", film.read_bytes()).status == 507


def test_a_job_that_is_under_way_can_be_canceled(tmp_path: Path, film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sr_deploy.serve.runner._TELL_SECONDS", 0.0)
    with serving(tmp_path) as running:
        network = running.service.networks.default
        usual = network.open()
        with _Canceling(running) as upscaler:
            network._opened[False] = upscaler
            facts = running.finished(running.post("/v1/jobs", film.read_bytes()).json["id"])
            eventually(lambda: running.service.spool.jobs()[0][0].outcome)
            network._opened[False] = usual
        assert facts["state"] == "canceled" and facts["results"] == []
        assert sorted(path.name for path in (tmp_path / facts["id"]).iterdir() if path.is_dir()) == []


class _Canceling(Upscaler):
    """Its first frame is the moment at which a client cancels."""

    def __init__(self, running: Running) -> None:
        super().__init__("fast-x2")
        self._running = running

    def _run_windows(self, *arguments: Any) -> Any:
        (job,) = self._running.get("/v1/jobs").json["jobs"]
        self._running.ask("DELETE", f"/v1/jobs/{job['id']}")
        return super()._run_windows(*arguments)


def test_jobs_go_to_the_workers_of_a_cluster(tmp_path: Path, photo: Pixels, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `sr-deploy upscale --on ray` would: the same call, with what opens the network there."""
    asked: list[Any] = []

    def on_ray(inputs: Any, output: Path, spec: UpscalerSpec, *, ray: RayOptions, **rest: Any) -> Any:
        asked.append((spec, ray))
        with open_upscaler(spec) as upscaler:
            return upscale_files(inputs, output, upscaler, **rest)

    monkeypatch.setattr("sr_deploy.cluster.upscale_on_ray", on_ray)
    with serving(tmp_path, on="ray", address="ray://head:10001") as running:
        facts = running.finished(running.post("/v1/jobs?fp32=true&scale=2&format=bmp", encoded(photo)).json["id"])
        assert facts["state"] == "done", facts
        image = Image.open(io.BytesIO(running.get(facts["results"][0]["url"]).body))
    assert (image.format, image.size) == ("BMP", (64, 48))
    ((spec, ray),) = asked
    assert (spec.model, spec.precision, ray.address) == ("fast-x2", "fp32", "ray://head:10001")


def test_what_is_finished_long_since_goes(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 1 << 20, expiry=100)
    old, new = spool.new(), spool.new()
    for job, ended in ((old, time.time() - 101), (new, time.time() - 50)):
        job.keep(Order("a", "fast-x2", (), 0.0))
        job.keep(JobOutcome("done", ended))
    spool.tidy()
    assert [job.id for job, _ in spool.jobs()] == [new.id]
    assert not old.folder.exists()
