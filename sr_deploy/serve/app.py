"""The service as an application that any ASGI server runs."""

from __future__ import annotations

import hmac
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, Security
from fastapi.middleware.cors import CORSMiddleware
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from sr_deploy import __version__
from sr_deploy.serve.answers import RefusedError, add_error_answers
from sr_deploy.serve.guard import Guard
from sr_deploy.serve.jobs import job_routes
from sr_deploy.serve.models import metric_routes, model_routes, state_routes
from sr_deploy.serve.options import ServeOptions
from sr_deploy.serve.page import add_page
from sr_deploy.serve.pictures import picture_routes
from sr_deploy.serve.service import Service
from sr_deploy.serve.tensors import tensor_probes, tensor_routes

_BEARER = HTTPBearer(auto_error=False, description="The token that the service was started with; without one, none.")


def create_app(options: ServeOptions | None = None) -> FastAPI:
    """The service; its default network is open, its jobs go on once a server starts it.

    options: None is a service of `fast` for this machine alone.

    Raises: UsageError, BundleError, BackendUnavailableError.
    """
    options = options or ServeOptions()
    service = Service(options)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        service.close()

    app = FastAPI(
        title="sr-deploy",
        version=__version__,
        summary="Pictures and videos, upscaled.",
        docs_url=None,  # FastAPI's own pages load their scripts from elsewhere.
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.service = service
    token = [Depends(token_required(options.token))]
    for routes in (picture_routes, model_routes, job_routes, tensor_routes, metric_routes):
        app.include_router(routes(service), dependencies=token)
    for routes in (state_routes, tensor_probes):
        app.include_router(routes(service))
    add_page(app)
    add_error_answers(app)
    if options.origins:
        headers = ["Authorization", "Content-Type"]
        shown = ["X-Network", "X-Seconds", "X-Tiles", "X-Recomputed", "X-Replaced", "Retry-After"]
        app.add_middleware(
            CORSMiddleware, allow_origins=options.origins, allow_methods=["*"], allow_headers=headers, expose_headers=shown
        )
    app.add_middleware(Guard, options=options, metrics=service.metrics)
    return app


def token_required(token: str | None) -> Callable[[HTTPAuthorizationCredentials | None], Awaitable[None]]:
    """What refuses requests without the token; where there is none to be shown, nothing."""

    async def check(shown: Annotated[HTTPAuthorizationCredentials | None, Security(_BEARER)]) -> None:
        if token is None or (shown is not None and hmac.compare_digest(shown.credentials.encode(), token.encode())):
            return
        raise RefusedError(
            401,
            "the token is missing or wrong; send it as `Authorization: Bearer TOKEN`",
            headers={"WWW-Authenticate": "Bearer"},
        )

    return check
