"""Who does the jobs of a spool: one after the other, from where they stopped."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from pathlib import Path
from typing import Any

from sr_deploy.batch import UpscalerSpec
from sr_deploy.batch.folder import Observer, Outcome, Summary, WriteOptions, upscale_files
from sr_deploy.batch.jobs import Job, Plan
from sr_deploy.errors import CancelledError, SrDeployError, UsageError, first_line
from sr_deploy.film.observer import VideoProgress, VideoStart
from sr_deploy.serve.answers import RefusedError
from sr_deploy.serve.asked import target_size
from sr_deploy.serve.metrics import Metrics
from sr_deploy.serve.networks import ServedNetworks
from sr_deploy.serve.options import ServeOptions
from sr_deploy.serve.spool import Ended, JobFolder, JobOutcome, JobProgress, JobResult, Order, Spool

_LOG = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""Between two looks for jobs that another service of the spool took."""
_TELL_SECONDS = 0.5
_MEASURE_SECONDS = 5.0
_TIDY_SECONDS = 60.0


class JobRunner(threading.Thread):
    """Does jobs until it is told to stop; what is under way then stays in the spool, as far as it is."""

    def __init__(self, spool: Spool, networks: ServedNetworks, options: ServeOptions, metrics: Metrics) -> None:
        super().__init__(name="jobs", daemon=True)
        self._spool = spool
        self._networks = networks
        self._options = options
        self._metrics = metrics
        self._stopping = threading.Event()
        self._more = threading.Event()
        self._tidied = 0.0

    def run(self) -> None:
        """Until `stop`."""
        while not self._stopping.is_set():
            try:
                self._tidy()
                busy = self._do_one()
            except Exception:
                _LOG.exception("the spool cannot be read or written")
                busy = False
            if not busy:
                self._more.wait(LOOK_SECONDS)
                self._more.clear()

    def wake(self) -> None:
        """There is a new job."""
        self._more.set()

    def stop(self) -> None:
        """End soon."""
        self._stopping.set()
        self._more.set()

    def _tidy(self) -> None:
        if time.monotonic() - self._tidied > _TIDY_SECONDS or not self._tidied:
            self._tidied = time.monotonic()
            self._spool.tidy()

    def _do_one(self) -> bool:
        """Whether there was a job to do."""
        for job, order in self._spool.jobs(unfinished=True):
            with job.claim() as ours:
                if ours and job.outcome is None and job.order is not None:
                    self._do(job, order)
                    return True
        return False

    def _do(self, job: JobFolder, order: Order) -> None:
        if job.is_canceled:
            self._end(job, "canceled")
            return
        if not job.begin():
            self._end(job, "failed", "the service ended again and again while it was at this job")
            return
        watch = JobWatch(job, order, self._stopping, self._spool)
        try:
            summary = self._upscale(job, order, watch)
        except CancelledError:
            summary = None
        except Exception as exc:
            unexpected = not isinstance(exc, SrDeployError)
            _LOG.error("job %s: %s", job.id, exc, exc_info=exc if unexpected else None)
            self._end(job, "failed", shown(job, order, f"internal error, {type(exc).__name__}" if unexpected else str(exc)))
            return
        if job.is_canceled:
            self._end(job, "canceled")
        elif watch.refusal:
            self._end(job, "failed", watch.refusal)
        elif summary is None or watch.stopped:
            job.put_back()
        else:
            self._conclude(job, order, summary)

    def _upscale(self, job: JobFolder, order: Order, watch: JobWatch) -> Summary:
        """What became of its files; what was begun in another way, as by an older version, is begun anew."""
        job.results.mkdir(exist_ok=True)
        begun = list(job.results.glob("*.part"))
        try:
            summary = self._run(job, order, watch)
            if not (summary.failed and begun) or watch.has_frames:
                return summary
        except UsageError:
            if not begun or watch.has_frames:
                raise
        for part in begun:
            shutil.rmtree(part, ignore_errors=True)
        return self._run(job, order, watch)

    def _run(self, job: JobFolder, order: Order, watch: JobWatch) -> Summary:
        network = self._networks.named(order.network)
        if network is None:
            raise UsageError(f"model '{order.network}': not served any more; send the job again with another one")
        inputs = [job.inputs / file.file for file in order.files]
        how: dict[str, Any] = {
            "size": target_size(order.scale, order.to),
            "suffix": "",
            "extension": order.format,
            "options": WriteOptions(order.quality),
            "restorer": self._restorer(order),
            "observer": watch,
        }
        if self._options.on is None:
            return upscale_files(inputs, job.results, network.open(fp32=order.fp32), **how)
        from sr_deploy.cluster import RayOptions, upscale_on_ray

        spec = network.spec_of(fp32=order.fp32)
        return upscale_on_ray(inputs, job.results, spec, **how, ray=RayOptions(self._options.address))

    def _restorer(self, order: Order) -> UpscalerSpec | None:
        network = self._networks.named(order.restorer)
        return network.spec_of(fp32=order.fp32) if network else None

    def _conclude(self, job: JobFolder, order: Order, summary: Summary) -> None:
        names = {file.file: file.name for file in order.files}
        made = sorted(outcome.job.target for outcome in summary.outcomes if outcome.status != "failed")
        results = []
        for path in made:
            source = next((name for name in names if Path(name).stem == path.stem), "")
            stem = Path(names.get(source) or order.name or path.name).stem
            results.append(JobResult(path.name, f"{stem}{path.suffix}", path.stat().st_size))
        failed = [shown(job, order, str(failure)) for failure in summary.failed]
        notes = tuple(shown(job, order, note) for _, note in summary.notes)
        error = f"{len(failed)} of {len(order.files)} failed: {failed[0]}" if len(failed) > 1 else "".join(failed)
        self._end(job, "failed" if failed else "done", error, tuple(results), notes)

    def _end(
        self, job: JobFolder, state: Ended, error: str = "", results: tuple[JobResult, ...] = (), notes: tuple[str, ...] = ()
    ) -> None:
        job.end(JobOutcome(state, time.time(), error, results, notes))
        self._metrics.job_ended(state)


class JobWatch(Observer):
    """Writes down how far a job is, and ends its run where nobody wants more of it, or there is no room.

    has_frames: whether any frame of a video was made. stopped: whether the run was ended; refusal: why, where it was for room.
    """

    def __init__(self, job: JobFolder, order: Order, stopping: threading.Event, spool: Spool) -> None:
        self._job = job
        self._stopping = stopping
        self._spool = spool
        self._began = self._told = self._measured = time.monotonic()
        self._single_video = len(order.files) == 1 and order.files[0].video
        self._progress = JobProgress(total=None if self._single_video else len(order.files))
        self.has_frames = False
        self.stopped = False
        self.refusal = ""

    def planned(self, plan: Plan) -> None:
        """See `Observer`."""
        del plan
        self._tell()

    def tiles(self, job: Job, done: int, total: int) -> None:
        """See `Observer`."""
        del job, done, total
        self._check()

    def video(self, job: Job, start: VideoStart) -> None:
        """See `Observer`."""
        del job
        if self._single_video:
            self._progress = JobProgress(start.resumed, start.frames, start.resumed)
        self._tell()

    def frames(self, job: Job, progress: VideoProgress) -> None:
        """See `Observer`."""
        del job
        self.has_frames = True
        if self._single_video:
            self._step(progress.frames)
        self._check()

    def finished(self, outcome: Outcome) -> None:
        """See `Observer`."""
        if self._single_video:
            self._tell()
        else:
            before = self._progress
            skipped = outcome.status == "skipped"
            self._progress = JobProgress(before.done, before.total, before.resumed + skipped, before.seconds)
            self._step(before.done + 1)
        self._check()

    def _step(self, done: int) -> None:
        before = self._progress
        self._progress = JobProgress(done, before.total, before.resumed, time.monotonic() - self._began)

    def _check(self) -> None:
        if self._stopping.is_set():
            self.stopped = True
        elif time.monotonic() - self._told > _TELL_SECONDS:
            self._tell()
        if self.stopped:
            raise CancelledError("the service ends, or nobody wants the job any more")

    def _tell(self) -> None:
        self._told = time.monotonic()
        self._job.keep(self._progress)
        if self._job.is_canceled:
            self.stopped = True
        if self._told - self._measured > _MEASURE_SECONDS:
            self._measured = self._told
            try:
                self._spool.require(0)
            except RefusedError as exc:
                self.refusal, self.stopped = str(exc), True


def shown(job: JobFolder, order: Order, text: str) -> str:
    """What is said of a job, with the client's names in place of those in the spool."""
    for file in order.files:
        text = text.replace(str(job.inputs / file.file), file.name or order.name or "the file")
    return text.replace(f"{job.folder}/", "").partition("\n")[0] or first_line(UsageError(text))
