"""Jobs over HTTP: pictures and videos that take longer than a client waits."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Annotated, Literal

from fastapi import APIRouter, Request
from fastapi import Path as PathParameter
from fastapi.responses import FileResponse, Response, StreamingResponse
from pydantic import BaseModel, Field

from sr_deploy.serve.answers import ERRORS, RefusedError
from sr_deploy.serve.asked import MEDIA_TYPES, Asked, Name, PictureFormat, asked_in, described
from sr_deploy.serve.networks import ServedNetwork
from sr_deploy.serve.receiving import Checks, receive_files
from sr_deploy.serve.service import Service
from sr_deploy.serve.spool import JobFolder, Order, State
from sr_deploy.serve.uploads import declared_bytes, shown_name

_MOST_UPLOADS = 16
_LOOK_SECONDS = 0.5
_SIGN_OF_LIFE = 15.0
_VIDEO_TYPES = {
    "mkv": "video/x-matroska",
    "mp4": "video/mp4",
    "m4v": "video/mp4",
    "mov": "video/quicktime",
    "webm": "video/webm",
}
_FILE_TYPES = {
    f".{name}": media for name, media in (MEDIA_TYPES | _VIDEO_TYPES | {"jpg": "image/jpeg", "tif": "image/tiff"}).items()
}
_FILE = {"type": "string", "format": "binary"}


class JobAsked(Asked):
    """Parameters of a job."""

    name: Name | None = Field(None, description="What the job is called; without it, as its first file.")
    format: PictureFormat | Literal["mkv", "mp4", "m4v", "mov", "webm"] | None = Field(
        None, description="Of the results, for files of that kind."
    )


_BODY = {
    "parameters": described(JobAsked),
    "requestBody": {
        "required": True,
        "description": "A video or a picture as the body, or many as multipart/form-data.",
        "content": {
            "*/*": {"schema": _FILE},
            "multipart/form-data": {"schema": {"type": "object", "properties": {"files": {"type": "array", "items": _FILE}}}},
        },
    },
}


class ResultFacts(BaseModel):
    """A finished file of a job."""

    name: str
    bytes: int
    url: str


class JobFacts(BaseModel):
    """A job, as far as it is."""

    id: str
    name: str
    state: State
    done: int
    total: int | None
    unit: Literal["frames", "pictures"]
    per_second: float | None
    seconds_left: float | None
    error: str | None
    notes: list[str]
    network: str
    created: float
    results: list[ResultFacts]


class JobList(BaseModel):
    """All jobs, the oldest first."""

    jobs: list[JobFacts]


class JobId(BaseModel):
    """A new job."""

    id: str


def facts_of(job: JobFolder, order: Order) -> JobFacts:
    """What a client is told of a job."""
    state, progress, outcome = job.state, job.progress, job.outcome  # What is done by then has its results.
    single_video = len(order.files) == 1 and order.files[0].video
    total = progress.total if single_video else len(order.files)
    going = state == "running"
    results = outcome.results if outcome else ()
    return JobFacts(
        id=job.id,
        name=order.name,
        state=state,
        done=progress.done if state != "done" else total or progress.done,
        total=total,
        unit="frames" if single_video else "pictures",
        per_second=progress.per_second if going else None,
        seconds_left=progress.seconds_left if going else None,
        error=(outcome.error or None) if outcome else None,
        notes=list(outcome.notes) if outcome else [],
        network=order.network,
        created=order.created,
        results=[
            ResultFacts(name=result.name, bytes=result.bytes, url=f"/v1/jobs/{job.id}/results/{number}")
            for number, result in enumerate(results)
        ],
    )


def job_routes(service: Service) -> APIRouter:
    """`/v1/jobs`."""
    router = APIRouter(prefix="/v1/jobs", tags=["jobs"], responses={404: {**ERRORS[422], "description": "No such job."}})
    uploads = asyncio.Semaphore(_MOST_UPLOADS)

    def find(name: str) -> tuple[JobFolder, Order]:
        job = service.spool.find(name)
        order = job.order if job is not None else None
        if job is None or order is None:
            raise RefusedError(404, "no such job; /v1/jobs lists those that there are")
        return job, order

    @router.post("", status_code=202, responses=ERRORS, openapi_extra=_BODY, summary="Begin a job")
    async def begin(request: Request) -> JobId:
        asked = asked_in(request, JobAsked)
        if service.is_stopping or uploads.locked():
            raise RefusedError(503, "no upload is taken now; try again", after=5)
        network = service.networks.choose(asked.model, asked.factor())
        async with uploads:
            return JobId(id=await _receive(request, asked, network, service))

    @router.get("", summary="All jobs")
    def jobs() -> JobList:
        return JobList(jobs=[facts_of(job, order) for job, order in service.spool.jobs()])

    @router.get("/{id}", summary="A job")
    def job(id: str) -> JobFacts:
        return facts_of(*find(id))

    @router.get("/{id}/events", response_class=StreamingResponse, summary="A job's progress, as server-sent events")
    async def events(id: str) -> StreamingResponse:
        found, order = await asyncio.to_thread(find, id)
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(_events(found, order, service), media_type="text/event-stream", headers=headers)

    @router.get("/{id}/results/{number}", response_class=FileResponse, summary="A result, whole or by ranges")
    def result(id: str, number: Annotated[int, PathParameter(ge=0, le=1 << 30)]) -> FileResponse:
        found, _ = find(id)
        outcome = found.outcome
        made = outcome.results[number] if outcome is not None and number < len(outcome.results) else None
        path = found.results / made.file if made is not None else found.results
        if made is None or not path.is_file():
            raise RefusedError(404, "no such result; the job's `results` are those that there are")
        return FileResponse(
            path, media_type=_FILE_TYPES.get(path.suffix.lower(), "application/octet-stream"), filename=made.name
        )

    @router.delete("/{id}", responses={204: {"description": "It was finished, and is deleted."}}, summary="Cancel, or delete")
    def delete(id: str, response: Response) -> JobFacts | None:
        found, order = find(id)
        if found.outcome is None:
            with suppress(FileNotFoundError):  # Somebody else deleted it just now.
                found.cancel()
            return facts_of(found, order)
        found.remove()
        response.status_code = 204
        return None

    return router


async def _receive(request: Request, asked: JobAsked, network: ServedNetwork, service: Service) -> str:
    """The id of a new job, once all its files are in the spool."""
    size = asked.size()
    restorer = service.networks.restorer(asked.model, asked.factor())
    scale = max(network.scale, restorer.scale if restorer else 0)
    job = await asyncio.to_thread(service.spool.new, declared_bytes(request))
    try:
        with job.claim():
            checks = Checks(scale, size, service.options.limits)
            files = await receive_files(request, job, checks, service.spool)
            order = Order(
                name=shown_name(asked.name or "") or files[0].name or "job",
                network=network.name,
                files=files,
                created=time.time(),
                scale=asked.scale,
                to=asked.to,
                format=asked.format,
                quality=asked.quality,
                fp32=asked.fp32,
                restorer=restorer.name if restorer else "",
            )
            job.keep(order)
    except BaseException:
        job.remove()
        raise
    service.runner.wake()
    return job.id


async def _events(job: JobFolder, order: Order, service: Service) -> AsyncIterator[str]:
    """One when something changed, until the job or the service ends."""
    told, silent_since = "", time.monotonic()
    while not service.is_stopping:
        facts = await asyncio.to_thread(facts_of, job, order)
        text = json.dumps(facts.model_dump(), separators=(",", ":"))
        if text != told:
            told, silent_since = text, time.monotonic()
            yield f"data: {text}\n\n"
        elif time.monotonic() - silent_since > _SIGN_OF_LIFE:
            silent_since = time.monotonic()
            yield ": still here\n\n"
        if facts.state in ("done", "failed", "canceled") or job.order is None:
            return
        await asyncio.sleep(_LOOK_SECONDS)
