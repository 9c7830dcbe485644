"""The sandbox's one state, shared by every API that it serves.

A clock that tests can move; switches for what is not known about the real services (the product
copes with either setting); the fault script; the log of every call in order; and what the Google
APIs of the checks return, besides Cloud KMS, its policies and constraints.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

ACCESS_POLICY: Final = "accessPolicies/987654321"

Json = dict[str, Any]


class Clock:
    """Real time plus an offset, which changes only when a test moves the clock."""

    def __init__(self) -> None:
        self.offset = timedelta(0)

    def now(self) -> datetime:
        """The sandbox's time, with time zone."""
        return datetime.now(UTC) + self.offset

    def advance(self, by: timedelta) -> None:
        """Move the clock; a negative `by` moves it back."""
        self.offset += by


class Switches(BaseModel):
    """Each field is a question that no public page answers, or a state of the world."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True)

    anonymous_caller: Literal["administrator", "unauthenticated"] = "administrator"
    cmek_enabled: bool = True
    duplicate_external_key: Literal["allowed", "conflict"] = "allowed"
    same_key_again: Literal["ok", "refused"] = "ok"
    replace_key_status: Literal[400, 409] = 400
    delete_attached_status: Literal[400, 409] = 409
    attach_archived: Literal["refused", "allowed"] = "refused"
    attach_validates: bool = True
    attach_cmek_disabled_status: Literal[400, 403] = 400
    create_checks_key_name: bool = True
    default_workspace_listed: bool = False
    kms_api_enabled: bool = True
    billing_enabled: bool = True
    initial_version_pending_seconds: float = 0.0
    iam_propagation_seconds: float = 0.0
    """How long a new grant has no effect yet for Anthropic's service account."""
    validate_seconds: float = 0.0
    kms_latency_seconds: float = 0.0
    create_cmek_disabled_status: Literal[400, 403] = 403
    validation_times_out: bool = False
    """Every validation ends as timed out, after `validate_seconds`."""
    workspace_policy_keys: list[str] | None = None
    """External keys that the organization's Workspace Policy allows; None: no such policy."""
    workspace_name_again: Literal["allowed", "refused"] = "allowed"
    """Whether a second live workspace may have the name of another."""
    workspace_name_again_status: Literal[400, 409] = 409
    workspace_limit: int | None = None
    """Most live workspaces besides the default one (Anthropic's default: 100); None: no limit."""
    organization_webhooks: bool = True
    """Whether Anthropic has turned the beta on for this organization."""
    workspace_order: Literal["oldest_first", "newest_first"] = "oldest_first"


class GoogleState(BaseModel):
    """States of the world that tests set. In a new sandbox all checks pass but a recommendation.

    Billing and the Cloud KMS API are switches, organization policies and the perimeter are in
    `OrgConstraints`, IAM policies and ancestors in `KmsState`.
    """

    model_config = ConfigDict(extra="forbid", validate_assignment=True)

    project_states: dict[str, Literal["ACTIVE", "DELETE_REQUESTED"]] = Field(default_factory=dict)
    """By project id; a project that is not listed is ACTIVE."""
    disabled_services: list[str] = Field(default_factory=list)
    """APIs other than Cloud KMS that are off, such as `cloudbilling.googleapis.com`."""
    data_access_logs: list[Literal["ADMIN_READ", "DATA_READ", "DATA_WRITE"]] = [
        "DATA_READ",
        "DATA_WRITE",
    ]
    """Audit logs of Cloud KMS in a project whose IAM policy was never written."""
    policy_rules: dict[str, list[Json]] = Field(default_factory=dict)
    """Constraint → the effective policy's rules, in place of those made from `OrgConstraints`."""
    custom_constraints: list[Json] = Field(default_factory=list)
    access_policies: list[Json] = [{"name": ACCESS_POLICY, "title": "default policy"}]
    perimeters: dict[str, list[Json]] = Field(default_factory=dict)
    """Access policy → service perimeters as they are listed, in place of the one made from
    `perimeter_blocks`, which alone decides whom Cloud KMS refuses."""
    protected_resources: dict[str, Json] = Field(default_factory=dict)
    """Crypto key → its ProtectedResourcesSummary."""
    page_size: int = Field(default=50, ge=1)
    """Of lists, when the caller does not give one."""
    latency_seconds: float = Field(default=0.0, ge=0.0)
    """How long each of these calls takes."""


class Fault(BaseModel):
    """One line of the script.

    Kinds: `error` answers with `status` (HTTP code or gRPC status name) and, when given, `body`
    (HTTP JSON) or `details` (Google error details as JSON with `@type`); `delay` waits `seconds`
    and goes on; `reset` breaks the connection in the middle of the answer (gRPC: UNAVAILABLE);
    `truncate` sends half of the JSON with status 200; `html` answers as a proxy would; `late`
    (HTTP, before) breaks the connection now, and the call takes effect after `seconds`, or at the
    next `release` when `seconds` is 0; `release` lets all late calls take effect and goes on, at
    the first matching call while there are late ones; `incomplete` (`workspaces.create`, before)
    makes the workspace without the fields `without` and answers 503
    `workspace_created_incomplete` with its id.
    """

    model_config = ConfigDict(extra="forbid")

    call: str = Field(
        description="fnmatch pattern over the log's call name, e.g. `CreateCryptoKey`"
    )
    resource: str = Field(default="*", description="fnmatch pattern over the log's resource")
    when: Literal["before", "after"] = "before"
    kind: Literal[
        "error", "delay", "reset", "truncate", "html", "late", "release", "incomplete"
    ] = "error"
    status: int | str = 503
    message: str = "injected fault"
    error_code: str | None = Field(default=None, description="of the Admin API's typed errors")
    body: dict[str, Any] | None = None
    details: list[dict[str, Any]] | dict[str, Any] = Field(
        default_factory=list, description="of Google: a list; of the Admin API: further fields"
    )
    without: list[str] = Field(default_factory=list, description="request fields that get lost")
    headers: dict[str, str] = Field(default_factory=dict)
    seconds: float = 0.0
    times: int = Field(default=1, ge=1, description="how often it strikes")
    skip: int = Field(default=0, ge=0, description="matching calls that pass unharmed first")


class Faults:
    """The script's state."""

    def __init__(self) -> None:
        self.script: list[Fault] = []
        self.late: list[Callable[[], None]] = []
        """The effects of late calls that wait for a `release`."""

    def add(self, fault: Fault) -> None:
        """Append a line."""
        self.script.append(fault)

    def clear(self) -> None:
        """Remove the script, and late calls that wait for a `release`."""
        self.script.clear()
        self.late.clear()

    def release(self) -> None:
        """Let all late calls that wait take effect."""
        late, self.late = self.late, []
        for effect in late:
            effect()

    def take(self, call: str, when: Literal["before", "after"], resource: str = "") -> Fault | None:
        """The fault for this call, if any; its `times` is reduced by one."""
        for fault in self.script:
            if fault.when != when or not fnmatchcase(call, fault.call):
                continue
            if not fnmatchcase(resource, fault.resource):
                continue
            if fault.kind == "release" and not self.late:
                continue
            if fault.skip:
                fault.skip -= 1
                continue
            fault.times -= 1
            if not fault.times:
                self.script.remove(fault)
            return fault
        return None


Service = Literal["kms", "admin", "oauth", "google"]


@dataclass(slots=True)
class Entry:
    """One call. `call` is the same for both transports.

    KMS and its mixins use the RPC name (`GetCryptoKey`, `SetIamPolicy`), the Admin API the name
    in Anthropic's documentation (`external_keys.create`), the Google APIs of the checks their
    discovery method id without the version (`cloudbilling.projects.getBillingInfo`).
    """

    number: int
    time: str
    service: Service
    call: str
    transport: Literal["grpc", "http"]
    resource: str
    caller: str
    write: bool
    """Create, update, setIamPolicy, attach, …; validate and reads by POST are not writes."""
    effect: bool = False
    """Whether the handler succeeded: false when a fault or an error came first."""
    status: str = "PENDING"
    """`OK`, a gRPC status name, or an HTTP status code as text."""
    request: dict[str, Any] = field(default_factory=dict)
    """The request body as JSON; for HTTP also `{"_http": {"method", "path", "query"}}`."""
    response: dict[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return asdict(self)


class RequestLog:
    """Append-only; only a test clears it."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self._number = 0

    def begin(self, **facts: Any) -> Entry:  # noqa: ANN401
        """Open an entry before anything happens to the call; the caller completes it."""
        self._number += 1
        entry = Entry(number=self._number, **facts)
        self.entries.append(entry)
        return entry

    def clear(self) -> None:
        """Remove the entries; numbers continue."""
        self.entries.clear()


if TYPE_CHECKING:
    from sandbox.admin.state import AdminState
    from sandbox.identities import Identities
    from sandbox.kms.state import KmsState
    from sandbox.signals import Signals


class World:
    """Clock, log, faults, switches and the services' data.

    Handlers are plain functions that run under `lock` and never wait inside it; the gRPC server's
    threads and the HTTP loop share the state through it.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.clock = Clock()
        self.log = RequestLog()
        self.faults = Faults()
        self.switches = Switches()
        self.identities: Identities
        self.kms: KmsState
        self.admin: AdminState
        self.signals: Signals
        self.google = GoogleState()
        self.may_go_on: Callable[[Entry], bool] = lambda _: True
        """Polled before a call's handler runs; a test in this process can hold a call with it."""
        self.control_token = secrets.token_urlsafe(32)
        """A caller of the control API must send it; a web page cannot know it."""
