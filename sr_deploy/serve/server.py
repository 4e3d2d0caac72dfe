"""The service on an address: one process or several, from the first request to a signal."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from sr_deploy.errors import UsageError
from sr_deploy.serve.networks import ServedNetworks
from sr_deploy.serve.options import ServeOptions

if TYPE_CHECKING:
    from sr_deploy.serve.service import Service

SHARED_COUNTERS = "PROMETHEUS_MULTIPROC_DIR"
"""The variable that names a folder where several processes count together; prometheus-client looks for it at its import."""

_IDLE_SECONDS = 20
_END_SECONDS = 8
_PAUSE_SECONDS = 1.0
_LOOK_SECONDS, _MOST_LOOKS = 10.0, 3
_MOST_CONNECTIONS = 1000
_WAITING_CONNECTIONS = 512
_LONGEST_HEAD = 64 << 10


def serve(options: ServeOptions, listening: Callable[[str], None]) -> None:
    """Serve until a signal ends it.

    listening: called with the address once it is listened on.

    Raises: UsageError for an address that cannot be had; as `create_app`.
    """
    listener = _listener(options.host, options.port)
    host, port = listener.getsockname()[:2]
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    with listener:
        if options.workers == 1:
            server = new_server(options)
            listening(address)
            _run(server, listener)
            return
        ServedNetworks(options.models, options.spec)  # Errors come from here, not from each process again and again.
        with tempfile.TemporaryDirectory(prefix="sr-deploy-") as counters:
            os.environ.setdefault(SHARED_COUNTERS, counters)
            listening(address)
            _supervise(options, listener)


def new_server(options: ServeOptions) -> _Server:
    """What serves in this process. Raises: as `create_app`."""
    from sr_deploy.serve.app import create_app

    app = create_app(options)
    config = uvicorn.Config(
        app,
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        http=_Protocol,
        ws="none",
        timeout_keep_alive=_IDLE_SECONDS,
        timeout_graceful_shutdown=_END_SECONDS,
        limit_concurrency=_MOST_CONNECTIONS,
        backlog=_WAITING_CONNECTIONS,
    )
    return _Server(config, app.state.service)


def _run(server: _Server, listener: socket.socket) -> None:
    server.run(sockets=[listener])
    if not server.service.is_idle:
        os._exit(0)  # A network is in the middle of a window; everybody is answered, what is finished of a job is in the spool.


def _supervise(options: ServeOptions, listener: socket.socket) -> None:
    """Keep as many processes as are wanted, until a signal ends them."""
    from prometheus_client.multiprocess import mark_process_dead

    context = multiprocessing.get_context("spawn")
    processes: list[SpawnProcess] = []
    ending = False

    def start() -> None:
        processes.append(context.Process(target=_work, args=(options, listener)))
        processes[-1].start()

    def end(number: int, frame: FrameType | None) -> None:
        del number, frame
        nonlocal ending
        ending = True
        for process in processes:
            process.terminate()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    for _ in range(options.workers):
        start()
    while processes:
        wait([process.sentinel for process in processes])
        for process in [process for process in processes if not process.is_alive()]:
            processes.remove(process)
            mark_process_dead(process.pid)  # type: ignore[no-untyped-call]
            if not ending:
                time.sleep(_PAUSE_SECONDS)
                start()


def _work(options: ServeOptions, listener: socket.socket) -> None:
    """One of several processes; it ends with the one that keeps them."""

    def follow() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=follow, daemon=True).start()
    _run(new_server(options), listener)


class _Protocol(HttpToolsProtocol):
    """Also closes connections whose client begins a request and does not come to its end, or breaks off HTTP in the middle."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._silent = 0
        self._in_head, self._head_bytes = False, 0
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._head_bytes = True, 0

    def on_headers_complete(self) -> None:
        self._in_head = False
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        goes_on = self._in_head
        super().data_received(data)
        if goes_on and self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > _LONGEST_HEAD:
                self.send_400_response("The head of the request is too long.")

    def send_400_response(self, msg: str) -> None:
        if self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete:
            self.transport.close()
        else:
            super().send_400_response(msg)

    def _look(self) -> None:
        busy = self.cycle is not None and not self.cycle.response_complete
        self._silent = 0 if busy else self._silent + 1
        if self._silent > _MOST_LOOKS:
            self.transport.close()
        self._timer = self.loop.call_later(_LOOK_SECONDS, self._look)


class _Server(uvicorn.Server):
    """Tells the service that it is to end before it waits for requests that are worked on."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self.service = service

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal is no failure: the process ends with 0."""
        del frame
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.service.stop()
        await super().shutdown(sockets)


def _listener(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(place)
            listener.listen(_WAITING_CONNECTIONS)
        except BaseException:
            listener.close()
            raise
    except (OSError, OverflowError, UnicodeError) as exc:
        raise UsageError(f"{host}:{port}: cannot be listened on ({exc}); choose another --host or --port") from exc
    listener.set_inheritable(True)
    return listener
