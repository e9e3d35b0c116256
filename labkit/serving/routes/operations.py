"""What those who run the server ask: does it live, does it serve, how is it."""

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import JSONResponse, Response

from labkit.serving.errors import unavailable
from labkit.serving.gateway import Gateway


def router(gateway: Gateway) -> APIRouter:
    """The routes over one gateway."""
    routes = APIRouter()

    @routes.get("/health")
    async def health() -> Response:
        """The process answers; 503 if its engine is past mending, so that it be restarted."""
        if gateway.backend.load().broken:
            raise unavailable(gateway.backend.unready())
        return JSONResponse({"status": "ok"})

    @routes.get("/ready")
    async def ready() -> Response:
        """Requests are taken; 503 while starting, reconciling or shutting down."""
        if why := gateway.unready():
            raise unavailable(why)
        return JSONResponse({"status": "ready"})

    @routes.get("/metrics")
    async def metrics() -> Response:
        return Response(gateway.metrics.render(), media_type=CONTENT_TYPE_LATEST)

    return routes
