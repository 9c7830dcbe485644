"""Login, CSRF protection and pages of the Prefect server, as a browser or a program meets them."""

from __future__ import annotations

import base64
import ssl
from collections.abc import Iterator, Mapping
from typing import Final
from urllib.parse import urlsplit
from urllib.request import (  # type: ignore[attr-defined]
    proxy_bypass_environment,
)

import httpx
from prefect.settings import (
    PREFECT_API_AUTH_STRING,
    PREFECT_API_SSL_CERT_FILE,
    PREFECT_API_TLS_INSECURE_SKIP_VERIFY,
    get_current_settings,
)
from pydantic import ValidationError

from cli.client import redirect_target
from cli.doctor.finding import LONGEST, DoctorFinding, said
from cmek.addresses import is_loopback
from cmek.models import FrozenModel
from cmek.plain_text import shortened

_SECONDS: Final = 10.0
"""For each answer."""
_NO_CSRF: Final = 422
"""What Prefect answers to the request for a token where the protection is off."""


def check_proxy(url: str, proxies: Mapping[str, str]) -> DoctorFinding:
    """Whether Prefect's own client, which reads the environment, sends the login through a proxy.

    Args:
        url: Of the server.
        proxies: From the environment, `no` among them: as `getproxies_environment` gives them.
    """
    parts = urlsplit(url)
    host, proxied = parts.hostname or "", parts.scheme in proxies or "all" in proxies
    if not proxied or is_loopback(url) or proxy_bypass_environment(host, dict(proxies)):
        return DoctorFinding(check="proxy", status="pass", found=f"none between here and {host}")
    return DoctorFinding(
        check="proxy",
        status="warn",
        found=f"a proxy is set and NO_PROXY does not name {host}: each call to the Prefect server, "
        "with its login, goes through the proxy",
        remedy=f"add {host} to NO_PROXY and no_proxy, here and in worker.env; a proxy is for "
        "Google and Anthropic",
    )


def check_web(url: str) -> Iterator[DoctorFinding]:
    """Login, CSRF protection and UI, as a browser or another program meets them."""
    url = url.rstrip("/")
    headers = get_current_settings().client.custom_headers
    with httpx.Client(
        trust_env=not is_loopback(url), timeout=_SECONDS, verify=_tls(), headers=headers
    ) as http:
        bare = http.build_request("GET", f"{url}/admin/version")
        bare.headers.pop("authorization", None)  # a login, for whomever it is
        yield _login(_sent(http, bare), is_local=is_loopback(url))
        asked = {"client": "cmek-doctor"}
        token = http.build_request("GET", f"{url}/csrf-token", params=asked)
        if login := PREFECT_API_AUTH_STRING.value():
            basic = base64.b64encode(str(login).encode()).decode()
            token.headers.setdefault("authorization", f"Basic {basic}")
        yield _csrf(_sent(http, token))
        yield _ui(
            _sent(http, http.build_request("GET", f"{url.removesuffix('/api')}/ui-settings")), url
        )


def _tls() -> ssl.SSLContext:
    """As Prefect's own client makes it: the settings name an authority, or accept any."""
    if PREFECT_API_TLS_INSECURE_SKIP_VERIFY.value():
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context
    authority = PREFECT_API_SSL_CERT_FILE.value()
    return ssl.create_default_context(cafile=authority) if authority else httpx.create_ssl_context()


def _sent(http: httpx.Client, request: httpx.Request) -> httpx.Response | str:
    """What was answered, or why nothing was."""
    try:
        return http.send(request)
    except httpx.HTTPError as error:
        return f"{request.url}: {error or type(error).__name__}"


def _unclear(check: str, answer: httpx.Response | str) -> DoctorFinding:
    if isinstance(answer, str):
        found = shortened(answer, LONGEST)
    else:
        to = f" to {redirect_target(answer)}" if answer.is_redirect else f", {said(answer)}"
        found = f"{answer.url} answers HTTP {answer.status_code}{to}"
    return DoctorFinding(
        check=check,
        status="unknown",
        found=found,
        remedy="something before the Prefect server answers, or nothing: PREFECT_API_URL, "
        "PREFECT_CLIENT_CUSTOM_HEADERS and PREFECT_API_SSL_CERT_FILE say how it is reached; else"
        " run cmek doctor beside the server",
    )


def _login(answer: httpx.Response | str, *, is_local: bool) -> DoctorFinding:
    if isinstance(answer, str):
        return _unclear("login", answer)
    if answer.status_code in {401, 403}:
        return DoctorFinding(check="login", status="pass", found="the API wants a login")
    if not _is_accepted(answer):
        return _unclear("login", answer)
    return DoctorFinding(
        check="login",
        status="warn" if is_local else "fail",
        found="the API wants no login: whoever reaches it can run code as the worker",
        remedy="set PREFECT_SERVER_API_AUTH_STRING for the server, PREFECT_API_AUTH_STRING here",
    )


def _is_accepted(answer: httpx.Response) -> bool:
    """Whether the API has done what was asked; a proxy's page for a login may be a 200 too."""
    return answer.is_success and "json" in answer.headers.get("content-type", "")


def _csrf(answer: httpx.Response | str) -> DoctorFinding:
    if isinstance(answer, str):
        return _unclear("CSRF protection", answer)
    on = _is_accepted(answer)
    if not on and answer.status_code != _NO_CSRF:
        return _unclear("CSRF protection", answer)
    return DoctorFinding(
        check="CSRF protection",
        status="pass" if on else "warn",
        found="on" if on else "off: a page in a browser can send writes",
        remedy="set PREFECT_SERVER_CSRF_PROTECTION_ENABLED=true for the server",
    )


class _UiSettings(FrozenModel):
    """What Prefect's server says of its pages."""

    available_uis: tuple[str, ...] = ()
    api_url: str = ""


def _ui(response: httpx.Response | str, url: str) -> DoctorFinding:
    if isinstance(response, str):
        return _unclear("UI", response)
    try:
        settings = _UiSettings.model_validate_json(response.raise_for_status().content)
    except (httpx.HTTPStatusError, ValidationError):
        return DoctorFinding(
            check="UI",
            status="unknown",
            found=f"{response.url} answers {response.status_code}",
            remedy="switched off (PREFECT_SERVER_UI_ENABLED), or served elsewhere",
        )
    if not settings.available_uis:
        return DoctorFinding(
            check="UI",
            status="fail",
            found="the server has no pages to serve: it could not write them",
            remedy="set PREFECT_SERVER_UI_STATIC_DIRECTORY to a folder that its user can write",
        )
    same = settings.api_url.rstrip("/") == url.rstrip("/")
    return DoctorFinding(
        check="UI",
        status="pass" if same else "warn",
        found=f"its pages call {settings.api_url}",
        remedy=""
        if same
        else f"right if a browser reaches that; else set"
        f" PREFECT_SERVER_UI_API_URL={url} for the server",
    )
