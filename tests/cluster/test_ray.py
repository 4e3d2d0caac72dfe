"""Two machines in one: what they make together is what one process makes, whoever dies."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock

from sr_deploy import Upscaler, upscale_video
from sr_deploy.batch import UpscalerSpec
from sr_deploy.batch.folder import Observer, Outcome, upscale_files
from sr_deploy.cluster import RayOptions, upscale_on_ray
from sr_deploy.cluster import worker as worker_module
from sr_deploy.cluster.crew import Crew, Errand
from sr_deploy.errors import UsageError
from sr_deploy.film.options import VideoOptions
from sr_deploy.pictures.image import Picture, write_image
from tests import on_all_cores
from tests.video.clips import Clips

ray = pytest.importorskip("ray", reason="no ray on this machine")

SPEC = UpscalerSpec("fast-x2", threads=1)
RESTORER = UpscalerSpec("quality-small-x2", threads=1)
ONE = RayOptions(worker_cpus=1)
FAST = VideoOptions(preset="ultrafast", segment_frames=4)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head that computes nothing, and a node for one worker; one cluster at a time, whoever runs the tests."""
    from ray.cluster_utils import Cluster

    temporary = Path("/tmp") / f"sr{os.getpid():x}"  # the paths of its sockets have to be short
    (temporary / "ray").mkdir(parents=True)
    with FileLock(Path(tempfile.gettempdir()) / "sr_deploy_ray.lock"), pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", str(temporary))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        made = Cluster()
        with on_all_cores():
            patient_node(made, num_cpus=0, include_dashboard=False)
            patient_node(made, num_cpus=1)
            ray.init(address=made.address, log_to_driver=False, logging_level="error")
        yield made
        ray.shutdown()
        made.shutdown()
        shutil.rmtree(temporary, ignore_errors=True)


def patient_node(cluster: Any, **options: Any) -> Any:
    """A node more. Ray gives one up that has not come up within half a minute, which takes longer beside other work."""
    for _ in range(3):
        try:
            return cluster.add_node(**options)
        except Exception as exc:
            if "timed out during startup" not in str(exc):
                raise
    return cluster.add_node(**options)


@pytest.fixture
def inputs(clips: Clips, tmp_path: Path) -> Path:
    """Pictures, one that is none, and a film."""
    folder = tmp_path / "in"
    folder.mkdir()
    random = np.random.default_rng(1)
    for number in range(20):
        shape = (random.integers(1, 60), random.integers(1, 60), 3)
        write_image(folder / f"é 漢字 [{number}] 'q'.png", Picture(random.integers(0, 256, shape, np.uint8)))
    for quality in (40, 98):
        write_image(folder / f"{quality}.jpg", Picture(random.integers(0, 256, (20, 30, 3), np.uint8)), quality=quality)
    (folder / "bad.png").write_bytes(b"no picture")
    shutil.copy(clips["rich"], folder / "film.mkv")
    return folder


@pytest.fixture
def expected(inputs: Path, tmp_path: Path) -> dict[str, bytes]:
    """What one process makes of them."""
    with Upscaler("fast-x2", threads=1, on_failure="bicubic") as upscaler:
        upscale_files([inputs], tmp_path / "alone", upscaler, restorer=RESTORER, video=FAST)
    return contents(tmp_path / "alone")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


class Watch(Observer):
    """Calls something when so many files and segments are done."""

    def __init__(self, after: int, act: Any) -> None:
        self._left, self._act = after, act

    def finished(self, outcome: Outcome) -> None:
        del outcome
        self._tick()

    def frames(self, *_: object) -> None:
        self._tick()

    def _tick(self) -> None:
        self._left -= 1
        if self._left == 0:
            self._act()


@pytest.mark.usefixtures("cluster")
def test_the_bytes_are_those_of_one_process(inputs: Path, expected: dict[str, bytes], tmp_path: Path) -> None:
    output = tmp_path / "out"
    summary = upscale_on_ray([inputs], output, SPEC, restorer=RESTORER, video=FAST, ray=ONE)
    assert contents(output) == expected
    assert [failure.path for failure in summary.failed] == [inputs / "bad.png"]
    assert (len(summary.done), len(summary.videos)) == (23, 1)
    assert summary.stats.tiles > 0
    again = upscale_on_ray([inputs], output, SPEC, restorer=RESTORER, video=FAST, ray=ONE)
    assert (len(again.done), len(again.skipped)) == (0, 23)


@pytest.mark.usefixtures("cluster")
def test_pictures_alone_begin_without_a_video(inputs: Path, expected: dict[str, bytes], tmp_path: Path) -> None:
    picture = min(inputs.glob("é*.png"))
    upscale_on_ray([picture], tmp_path / "out" / "", SPEC, ray=ONE)
    assert contents(tmp_path / "out") == {picture.name: expected[picture.name]}


@pytest.mark.long
def test_a_node_that_dies_and_one_that_joins(cluster: Any, inputs: Path, expected: dict[str, bytes], tmp_path: Path) -> None:
    doomed = patient_node(cluster, num_cpus=1)

    def kill() -> None:
        cluster.remove_node(doomed, allow_graceful=False)
        patient_node(cluster, num_cpus=1)

    upscale_on_ray([inputs], tmp_path / "out", SPEC, restorer=RESTORER, video=FAST, ray=ONE, observer=Watch(2, kill))
    assert contents(tmp_path / "out") == expected


@pytest.mark.long
@pytest.mark.usefixtures("cluster")
def test_what_a_dead_run_left_is_taken_up(inputs: Path, expected: dict[str, bytes], tmp_path: Path) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    output = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        upscale_on_ray([inputs], output, SPEC, restorer=RESTORER, video=FAST, ray=ONE, observer=Watch(3, stop))
    with Upscaler("fast-x2", threads=1) as upscaler:
        upscale_video(inputs / "film.mkv", output / "film.mkv", upscaler, options=FAST)
    upscale_on_ray([inputs], output, SPEC, restorer=RESTORER, video=FAST, ray=ONE)
    assert contents(output) == expected


@pytest.mark.usefixtures("cluster")
def test_workers_of_another_version_are_refused_in_a_line() -> None:
    work = worker_module.Work(SPEC, RESTORER, None, worker_module.WriteOptions(), FAST, version="9.9")
    with Crew(work, cpus=1, gpus=0, most=1) as crew, pytest.raises(UsageError, match=r"the run was started with 9\.9") as told:
        crew.add(Errand("plan", (), print, print))
        while crew.work():
            pass
    assert "\n" not in str(told.value)


@pytest.mark.usefixtures("cluster")
def test_a_worker_that_is_killed_is_replaced(inputs: Path, tmp_path: Path) -> None:
    pids: list[int] = []
    done: list[Any] = []
    work = worker_module.Work(SPEC, RESTORER, None, worker_module.WriteOptions(), FAST)
    with Crew(work, cpus=1, gpus=0, most=1) as crew:
        job = worker_module.Job(inputs / "film.mkv", tmp_path / "film.mkv", video=True)
        crew.add(Errand("plan", (job,), done.append, done.append))
        while crew.work():
            if crew.members and not pids:
                pids.append(int(crew.members[0].where.split()[-1].rstrip(")")))
                os.kill(pids[0], signal.SIGKILL)
    assert done[0].frames > 0


@pytest.mark.long
@pytest.mark.usefixtures("cluster")
def test_a_task_that_kills_every_worker_fails() -> None:
    failed: list[Exception] = []
    work = worker_module.Work(SPEC, RESTORER, None, worker_module.WriteOptions(), FAST)
    with Crew(work, cpus=1, gpus=0, most=1) as crew:
        crew.add(Errand("pictures", (Deadly(),), print, failed.append))
        while crew.work():
            pass
    assert "3 workers died of it" in str(failed[0])


class Deadly:
    """Ends the process that receives it."""

    def __reduce__(self) -> Any:
        return os._exit, (9,)


@pytest.mark.long
def test_what_a_worker_hangs_at_is_done_by_another(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sr_deploy.cluster.crew.LATE_SECONDS", 0.5)
    node = patient_node(cluster, num_cpus=1)
    work = worker_module.Work(SPEC, RESTORER, None, worker_module.WriteOptions(), FAST)
    done: list[Any] = []
    with Crew(work, cpus=1, gpus=0, most=2) as crew:
        for _ in range(2):
            crew.add(Errand("pictures", ([],), done.append, pytest.fail, repeatable=True))
        while crew.work(more=len(crew.members) < 2):
            pass
        before = crew.members
        crew.add(Errand("pictures", (Hanging(tmp_path / "begun"),), done.append, pytest.fail, repeatable=True))
        while crew.work():
            pass
        assert len(done) == 3
        crew.add(Errand("pictures", ([],), done.append, pytest.fail))
        while crew.work(more=len(crew.members) < 2):
            pass
        assert len(set(crew.members) & set(before)) == 1
    cluster.remove_node(node)


class Hanging:
    """No pictures; but the first process that receives it waits for ever."""

    def __init__(self, begun: Path) -> None:
        self._begun = begun

    def __reduce__(self) -> Any:
        return subprocess.getoutput, (f"mkdir {self._begun} 2>/dev/null && sleep 1000",)


@pytest.mark.long
@pytest.mark.usefixtures("cluster")
def test_a_folder_that_cannot_be_written_is_told(inputs: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("where a folder should be")
    summary = upscale_on_ray([inputs], tmp_path / "file" / "out", SPEC, restorer=RESTORER, video=FAST, ray=ONE)
    assert not summary.done
    assert all("Not a directory" in failure.message for failure in summary.failed if failure.path.name != "bad.png")
    assert not any("internal error" in failure.message for failure in summary.failed)
