"""What a service counts, as Prometheus reads it."""

from __future__ import annotations

import os

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector

from sr_deploy.upscaling.image_upscaler import Stats

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """The counters of one service."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self._requests = Counter("srdeploy_requests", "Answers by route and status.", ("route", "status"), registry=registry)
        self._request_seconds = Histogram(
            "srdeploy_request_seconds",
            "From a request to the end of its answer.",
            ("route",),
            buckets=_SECONDS,
            registry=registry,
        )
        self._upscale_seconds = Counter(
            "srdeploy_upscale_seconds", "In decoding, network and encoding, by network.", ("network",), registry=registry
        )
        self._pixels = Counter("srdeploy_pixels", "Pixels that came in, by network.", ("network",), registry=registry)
        self._tiles = Counter(
            "srdeploy_tiles",
            "What the sentinel saw: good, recomputed in fp32, replaced by bicubic.",
            ("outcome",),
            registry=registry,
        )
        self._jobs = Counter("srdeploy_jobs_ended", "Jobs by how they ended.", ("state",), registry=registry)
        self._waiting = Gauge(
            "srdeploy_waiting", "Requests that are taken, not worked on yet.", registry=registry, multiprocess_mode="livesum"
        )
        self._running = Gauge(
            "srdeploy_running", "Requests that are worked on.", registry=registry, multiprocess_mode="livesum"
        )
        self._spool = Gauge("srdeploy_spool_bytes", "Size of all jobs.", registry=registry, multiprocess_mode="livemax")
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=registry)
        self._registry = registry

    def answered(self, route: str, status: int, seconds: float) -> None:
        """One more answer. status: 0 where the client left before."""
        self._requests.labels(route, str(status)).inc()
        self._request_seconds.labels(route).observe(seconds)

    def upscaled(self, network: str, pixels: int, seconds: float, stats: Stats) -> None:
        """One more picture."""
        self._upscale_seconds.labels(network).inc(seconds)
        self._pixels.labels(network).inc(pixels)
        self._tiles.labels("good").inc(stats.tiles - stats.recomputed)
        self._tiles.labels("recomputed").inc(stats.recomputed - stats.replaced)
        self._tiles.labels("replaced").inc(stats.replaced)

    def job_ended(self, state: str) -> None:
        """One job less."""
        self._jobs.labels(state).inc()

    def load(self, *, waiting: int, running: int) -> None:
        """How many requests are under way now."""
        self._waiting.set(waiting)
        self._running.set(running)

    def spooled(self, size: int) -> None:
        """How many bytes all jobs have now."""
        self._spool.set(size)

    def text(self) -> tuple[bytes, str]:
        """All of it, and its media type."""
        return generate_latest(self._registry), CONTENT_TYPE_LATEST
