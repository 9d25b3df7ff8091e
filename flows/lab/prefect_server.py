"""`python -m flows.lab.prefect_server`: the Prefect server as `prefect server start` runs it, for the hosts that are the lab's own.

Prefect asks no request which host it thinks it is talking to; MLflow does. Without that question a web page anywhere could name this
machine's loopback address as its own host (DNS rebinding) and use a server that asks for no credentials.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flows.lab.launch import names
from flows.lab.settings import Settings

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

PROBES = ("/api/health", "/api/ready")
"""Whether the server lives may be asked under any name: Kubernetes asks by an address."""


def for_own_hosts(app: ASGIApp, hosts: list[str]) -> ASGIApp:
    """`app`, answering 400 to whoever believes to talk to another host than one of `hosts`."""
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    guarded = TrustedHostMiddleware(app, allowed_hosts=hosts, www_redirect=False)

    async def route(scope: Scope, receive: Receive, send: Send) -> None:
        await (app if scope.get("path") in PROBES else guarded)(scope, receive, send)

    return route


def main() -> None:
    """Serve until stopped, as the environment says (flows/lab/launch.py)."""
    import uvicorn
    from prefect.server.api.server import create_app
    from prefect.settings import get_current_settings

    api = get_current_settings().server.api
    uvicorn.run(
        for_own_hosts(create_app(final=True), names(Settings.load())),
        host=api.host,
        port=api.port,
        timeout_keep_alive=api.keepalive_timeout,
        ws_ping_interval=api.websocket_ping_interval,
        ws_ping_timeout=api.websocket_ping_timeout,
        log_level="warning",
    )


if __name__ == "__main__":
    main()
