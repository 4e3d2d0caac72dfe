"""One process's part of a service: what its routes share."""

from __future__ import annotations

import threading

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

    def close(self) -> None:
        """Wait until nothing is worked on, and release the networks."""
        self.stop()
        self._interruption.cancel()
        self.desk.close()
        self.runner.join(ENDING_SECONDS)
        if not self.runner.is_alive():
            self.networks.close()
