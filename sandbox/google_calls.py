"""One call to a Google API of the checks: which method, may the caller, what it answers."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from sandbox.errors import GoogleError
from sandbox.google_state import Json
from sandbox.iam_access import allows
from sandbox.identities import Identity
from sandbox.kms_errors import error_info, invalid
from sandbox.kms_state import Project
from sandbox.world import World

PROJECT: Final = r"(?P<project>[^/:]+)"


@dataclass(frozen=True, slots=True)
class Call:
    """A request that found its method."""

    world: World
    caller: Identity
    names: dict[str, str]
    """The path's parts by name."""
    query: dict[str, str] = field(default_factory=dict)
    body: Json = field(default_factory=dict)

    @property
    def project(self) -> Project:
        """The project in the path.

        Raises:
            GoogleError: PERMISSION_DENIED, as Google says of a project that does not exist.
        """
        given = self.names["project"]
        project = self.world.kms.project(given)
        if project is None:
            raise denied("resourcemanager.projects.get", f"projects/{given}")
        return project


@dataclass(frozen=True, slots=True)
class Method:
    """A method of a discovery document."""

    id: str
    """The discovery id, whose first part names the API."""
    verb: str
    path: re.Pattern[str]
    run: Callable[[Call], Json]
    permission: str | None = None
    write: bool = False

    @property
    def service(self) -> str:
        """`cloudbilling.googleapis.com`."""
        return f"{self.id.partition('.')[0]}.googleapis.com"

    def answer(self, call: Call) -> Json:
        """Run it, if its API is on and the caller may.

        Raises:
            GoogleError: PERMISSION_DENIED with SERVICE_DISABLED, or naming the permission.
        """
        if self.service in call.world.google.disabled_services:
            raise service_disabled(self.service, call)
        if self.permission is not None:
            require(call, self.permission)
        return self.run(call)


def require(call: Call, permission: str) -> None:
    """Refuse a caller who lacks the permission.

    Raises:
        GoogleError: PERMISSION_DENIED naming permission and resource.
    """
    verdict = call.caller.verdict(permission)
    if verdict is None and "project" in call.names:
        verdict = allows(call.world, call.caller, permission, f"projects/{call.project.id}")
    if not verdict:
        raise denied(permission, call.names.get("resource", "the requested resource"))


def denied(permission: str, resource: str) -> GoogleError:
    """The caller lacks `permission`, or there is no such resource."""
    message = f"Permission '{permission}' denied on resource '{resource}' (or it may not exist)."
    info = error_info(
        "IAM_PERMISSION_DENIED", "iam.googleapis.com", permission=permission, resource=resource
    )
    return GoogleError("PERMISSION_DENIED", message, [info])


def service_disabled(service: str, call: Call) -> GoogleError:
    """The API is off in the caller's project."""
    project = next(iter(call.world.kms.projects.values()))
    number = call.project.number if "project" in call.names else project.number
    message = (
        f"{service} has not been used in project {number} before or it is disabled. Enable it by "
        f"visiting https://console.developers.google.com/apis/api/{service}/overview?project="
        f"{number} then retry."
    )
    info = error_info("SERVICE_DISABLED", service=service, consumer=f"projects/{number}")
    return GoogleError("PERMISSION_DENIED", message, [info])


def page(call: Call, items: list[Json], field_name: str) -> Json:
    """One page of a list.

    Raises:
        GoogleError: INVALID_ARGUMENT for a bad size or token.
    """
    try:
        start = int(call.query.get("pageToken") or 0)
        size = int(call.query.get("pageSize") or 0) or call.world.google.page_size
    except ValueError as error:
        raise invalid("Request contains an invalid argument.") from error
    if not 0 <= start <= len(items) or size < 0:
        raise invalid("Request contains an invalid argument.")
    answer: Json = {field_name: items[start : start + size]} if items else {}
    if start + size < len(items):
        answer["nextPageToken"] = str(start + size)
    return answer
