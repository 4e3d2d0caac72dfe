"""One process's part of a service: what its routes share."""

from __future__ import annotations

import threading
import time

import numpy as np

from sr_deploy.serve.desk import Desk
from sr_deploy.serve.metrics import Metrics
from sr_deploy.serve.networks import ServedNetworks
from sr_deploy.serve.options import ServeOptions
from sr_deploy.serve.runner import JobRunner
from sr_deploy.serve.spool import Spool

_WARM_SIDE = 64
ENDING_SECONDS = 6.0
"""How long requests that are worked on may go on once the service is to end."""

_LAST_SECONDS = 3.0
"""And how long the window of a network that cannot be interrupted."""

_POLL = 0.02


class Service:
    """The networks, the desk and the spool of one process; the default network has run once.

    Raises: UsageError, BundleError, BackendUnavailableError.
    """

    def __init__(self, options: ServeOptions) -> None:
        self.options = options
        self.metrics = Metrics()
        limits = options.limits
        self.spool = Spool(options.spool.absolute(), limits.spool_bytes, limits.expiry)
        self.networks = ServedNetworks(options.models, options.spec)
        usual = self.networks.default.open()
        usual(np.zeros((_WARM_SIDE, _WARM_SIDE, 3), np.uint8))
        at_once = limits.at_once or usual.concurrency + 1
        self.desk = Desk(at_once, limits.queue, limits.seconds, self.metrics)
        self.runner = JobRunner(self.spool, self.networks, options, self.metrics)
        self.is_stopping = False
        self._end = 0.0
        self._interruption = threading.Timer(ENDING_SECONDS, self.desk.interrupt)
        self._interruption.daemon = True

    def start(self) -> None:
        """Begin with the jobs."""
        self.runner.start()

    def stop(self) -> None:
        """Refuse what is new, finish what is worked on, keep the jobs; calling it twice is fine."""
        if not self.is_stopping:
            self.is_stopping = True
            self.desk.stop()
            self.runner.stop()
            self._interruption.start()
            self._end = time.monotonic() + ENDING_SECONDS + _LAST_SECONDS

    def close(self) -> None:
        """Wait until nothing is worked on, but not for ever; then release the networks."""
        self.stop()
        self.desk.close()
        while not self.is_idle and time.monotonic() < self._end:
            time.sleep(_POLL)
        self._interruption.cancel()
        if self.is_idle:
            self.networks.close()

    @property
    def is_idle(self) -> bool:
        """Whether no request and no job is worked on."""
        return self.desk.is_idle and not self.runner.is_alive()
