"""What a service is asked to be: its networks, its address, its limits."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from sr_deploy.batch import UpscalerSpec
from sr_deploy.errors import UsageError
from sr_deploy.files import data_folder
from sr_deploy.models import DEFAULT, RESTORER, is_in_the_box

_TOKEN = re.compile(r"[!-~]+")
_LEAST = {"at_once": 1, "queue": 0, "seconds": 1, "most_bytes": 1, "most_pixels": 1, "most_job_bytes": 1, "spool_bytes": 1}


@dataclass(frozen=True)
class Limits:
    """How much a client may ask for.

    at_once: requests that are worked on together; None is one more than the network takes, so that decoding overlaps.
    queue: requests that wait behind these.
    seconds: for one request, from its last byte to its answer; its bytes may take as long.
    most_bytes: of a picture.
    most_pixels: of a picture, and of a frame, as its header claims; a result may have 16 times as many.
    most_job_bytes: of all files of a job.
    spool_bytes: of all jobs with their results.
    expiry: seconds that a finished job is kept.
    """

    at_once: int | None = None
    queue: int = 32
    seconds: float = 60.0
    most_bytes: int = 64 << 20
    most_pixels: int = 1 << 24
    most_job_bytes: int = 4 << 30
    spool_bytes: int = 20 << 30
    expiry: float = 86400.0

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is not None and not value >= least:
                raise UsageError(f"{name} of {value} is too little for a service; expected {least} or more")


def usual_models() -> tuple[str, ...]:
    """What is served where no network is named: `fast`, and `photo-fast` for pictures that lost much, if it is in the box."""
    return (DEFAULT, RESTORER) if is_in_the_box(RESTORER) else (DEFAULT,)


@dataclass(frozen=True)
class ServeOptions:
    """What is served, where, and to whom.

    models: networks in the box, or paths of bundles and ONNX files; the first is the default.
    spec: how each of them is opened; its own model does not count.
    host: the address that is listened on.
    port: 0 is any that is free.
    token: what clients have to show; demanded for any address but those of this machine alone.
    spool: where jobs are kept; services on several machines may share it.
    limits: how much a client may ask for.
    origins: of pages on other servers that may ask from a browser, such as 'https://example.org'.
    workers: processes, each with its own networks.
    on: who does the jobs, 'ray' for the workers of a cluster; None for this process.
    address: of the cluster.

    Raises: UsageError for an address that others reach without a token, and what is no token or origin.
    """

    models: tuple[str, ...] = field(default_factory=usual_models)
    spec: UpscalerSpec = field(default_factory=lambda: UpscalerSpec(DEFAULT))
    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = None
    spool: Path = field(default_factory=lambda: data_folder() / "spool")
    limits: Limits = field(default_factory=Limits)
    origins: tuple[str, ...] = ()
    workers: int = 1
    on: Literal["ray"] | None = None
    address: str | None = None

    def __post_init__(self) -> None:
        if not self.models:
            raise UsageError("a service of no network; name one at least")
        if self.token is not None and not _TOKEN.fullmatch(self.token):
            raise UsageError("the token is empty or has spaces; expected letters, digits and signs of ASCII")
        if self.token is None and not self.is_private:
            raise UsageError(
                f"{self.host}: others may reach this address, so a token is needed; give --token, or SR_DEPLOY_TOKEN, or leave "
                "out --host"
            )
        for origin in self.origins:
            if not re.fullmatch(r"https?://[^/\s*]+", origin):
                raise UsageError(f"origin '{origin}': expected one such as https://example.org, without a path")

    @property
    def is_private(self) -> bool:
        """Whether this machine alone reaches it."""
        return is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Whether a name or address, without port, means this machine alone."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
