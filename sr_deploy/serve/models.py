"""Which networks there are, and whether the service is up."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict

from sr_deploy.serve.service import Service


class ModelFacts(BaseModel):
    """A network that is served."""

    name: str
    scale: int
    channels: int
    default: bool
    description: str


class ModelList(BaseModel):
    """All networks that are served."""

    model_config = ConfigDict(protected_namespaces=())

    models: list[ModelFacts]


class StateFacts(BaseModel):
    """Whether the service is up."""

    status: str


def model_routes(service: Service) -> APIRouter:
    """`/v1/models`."""
    router = APIRouter(prefix="/v1", tags=["models"])

    @router.get("/models", summary="The networks that are served")
    async def models() -> ModelList:
        default = service.networks.default
        return ModelList(
            models=[
                ModelFacts(
                    name=network.name,
                    scale=network.scale,
                    channels=network.bundle.card.channels,
                    default=network is default,
                    description=network.description,
                )
                for network in service.networks
            ]
        )

    return router


def state_routes(service: Service) -> APIRouter:
    """`/live` and `/ready`, which need no token, for probes."""
    router = APIRouter(tags=["state"])

    @router.get("/live", summary="Whether the process answers")
    async def live() -> StateFacts:
        return StateFacts(status="live")

    @router.get("/ready", summary="Whether requests are taken", responses={503: {"model": StateFacts}})
    async def ready(response: Response) -> StateFacts:
        response.status_code = 503 if service.is_stopping else 200
        return StateFacts(status="ending" if service.is_stopping else "ready")

    return router


def metric_routes(service: Service) -> APIRouter:
    """`/metrics`."""
    router = APIRouter(tags=["state"])

    @router.get("/metrics", response_class=Response, summary="Counters for Prometheus")
    def metrics() -> Response:
        service.metrics.spooled(service.spool.used())
        text, media_type = service.metrics.text()
        return Response(text, media_type=media_type)

    return router
