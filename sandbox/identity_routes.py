"""Google's side of tokens over HTTP: `/token`, its public keys, and a machine's metadata server.

Access and identity tokens of Google expire by the machine's time, as google-auth decides by that
when to renew them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from sandbox.http_calls import HttpCall, answer
from sandbox.identity_tokens import LIFETIME_SECONDS, TokenRefusedError
from sandbox.world import World

METADATA_HEADER: Final = {"Metadata-Flavor": "Google"}
METADATA_ACCOUNTS: Final = "/computeMetadata/v1/instance/service-accounts"
CLOUD_SCOPE: Final = "https://www.googleapis.com/auth/cloud-platform"


def identity_routes(world: World) -> list[Route]:
    """What google-auth asks, by a credentials file's `token_uri` or by `GCE_METADATA_HOST`."""
    return [
        Route("/token", _google_token(world), methods=["POST"]),
        Route("/oauth2/v3/certs", _google_keys(world), methods=["GET"]),
        Route("/", _metadata_ping, methods=["GET"]),
        Route(f"{METADATA_ACCOUNTS}/{{account}}/{{what:path}}", _metadata(world), methods=["GET"]),
    ]


def _google_token(world: World) -> Callable[[Request], Any]:
    async def endpoint(request: Request) -> Response:
        form = dict(parse_qsl((await request.body()).decode("utf-8", "replace")))
        refusals: list[TokenRefusedError] = []

        def handler() -> dict[str, Any]:
            try:
                return world.identities.token_endpoint(form)
            except TokenRefusedError as error:
                refusals.append(error)
                return error.to_json()

        call = HttpCall(
            service="oauth",
            call="google.token",
            resource="",
            caller="unknown",
            write=False,
            handler=handler,
            body={"grant_type": form.get("grant_type")},
        )
        response = await answer(world, request, call)
        if refusals and response.status_code == 200:
            response.status_code = 400
        return response

    return endpoint


def _google_keys(world: World) -> Callable[[Request], Any]:
    async def endpoint(_: Request) -> Response:
        return JSONResponse(world.identities.key.jwks())

    return endpoint


async def _metadata_ping(_: Request) -> Response:
    return PlainTextResponse("computeMetadata/\n", headers=METADATA_HEADER)


def _metadata(world: World) -> Callable[[Request], Any]:
    """The metadata server of a machine that runs as the onboarding service account."""

    async def endpoint(request: Request) -> Response:
        if request.headers.get("metadata-flavor") != "Google":
            return PlainTextResponse("Missing Metadata-Flavor:Google header.", status_code=403)
        identity, audience = world.identities.onboarding, request.query_params.get("audience")
        match request.path_params["what"]:
            case "":
                facts = {"aliases": ["default"], "email": identity.email, "scopes": [CLOUD_SCOPE]}
                return JSONResponse(facts, headers=METADATA_HEADER)
            case "token":
                answer = {
                    "access_token": world.identities.issue_token(identity),
                    "expires_in": LIFETIME_SECONDS,
                    "token_type": "Bearer",
                }
                return JSONResponse(answer, headers=METADATA_HEADER)
            case "identity" if audience:
                token = world.identities.identity_token(identity, audience)
                return PlainTextResponse(token, headers=METADATA_HEADER)
        return PlainTextResponse("Not Found", status_code=404, headers=METADATA_HEADER)

    return endpoint
