"""Messages that the services send by themselves, here to registered loopback addresses only.

Two senders: Anthropic's organization webhooks report that an external key in use has stopped or
started to work, signed by the Standard Webhooks scheme, which the official SDK verifies; and a
Pub/Sub push subscription sends Admin Activity entries of Cloud Audit Logs, with an OIDC token.
Their headers have the machine's time, which verifiers use; their contents have the sandbox's time.

Sources: https://github.com/standard-webhooks/standard-webhooks and
https://docs.cloud.google.com/pubsub/docs/authenticate-push-subscriptions
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import json
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

import httpx
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from sandbox.admin.external_keys import validate_key
from sandbox.admin.state import GcpConfig, StoredExternalKey, StoredWebhook, new_id, timestamp
from sandbox.audit import admin_activity
from sandbox.identities import PROJECT_ID, Identity
from sandbox.kms.state import canonical_project
from sandbox.transport import ServedCall
from sandbox.world import Json, World

PAUSES_SECONDS: Final = (0.0, 0.5, 2.0, 5.0)
"""The pause before each attempt; when the last one fails, delivery is given up."""
_ANSWER_SECONDS: Final = 5.0
_REMEMBERED: Final = 1000
Headers = dict[str, str]


def check_loopback(url: str) -> str:
    """The address, if it is one of this machine. Raises ValueError otherwise."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if parts.scheme not in {"http", "https"} or not loopback:
        message = f"{url!r}: the sandbox sends to loopback addresses only"
        raise ValueError(message)
    return url


class PushSubscription(BaseModel):
    """The Pub/Sub subscription behind the log sink; without `push_url` nothing is sent."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True)

    push_url: Annotated[str, AfterValidator(check_loopback)] | None = None
    push_audience: str | None = None
    """`aud` of the token; the address by default, as at Pub/Sub."""
    push_account: str = f"cmek-push@{PROJECT_ID}.iam.gserviceaccount.com"
    push_subscription: str = f"projects/{PROJECT_ID}/subscriptions/cmek-key-changes"
    delay_seconds: float = Field(default=0.0, ge=0.0)
    """How long every delivery, also of a webhook, waits before its first attempt."""


@dataclass(slots=True)
class Delivery:
    """One message and the state of its delivery."""

    kind: Literal["webhook", "push"]
    url: str
    name: str
    """The event's type, or the audit log's method."""
    at: str
    tries: int = 0
    status: str = "waiting"
    """The last answer's HTTP status, or what went wrong."""


class Signals:
    """Detects what calls and the control API change, and sends it to the registered addresses."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._stop = threading.Event()
        self._senders: ThreadPoolExecutor | None = None
        self.reset()

    def reset(self) -> None:
        """Remove registrations and entries; deliveries in progress go on."""
        self.push = PushSubscription()
        self.audit: deque[Json] = deque(maxlen=_REMEMBERED)
        self.deliveries: deque[Delivery] = deque(maxlen=_REMEMBERED)
        self._works: dict[str, bool] = {}
        """External key → whether Anthropic could use it at the last check."""
        self._kms_api = True

    def close(self) -> None:
        """Stop the deliveries in progress, and wait until their threads have ended."""
        self._stop.set()
        if self._senders is not None:
            self._senders.shutdown(cancel_futures=True)

    def to_json(self) -> Json:
        """The push subscription, and the newest deliveries."""
        return {
            "push": self.push.model_dump(),
            "deliveries": [asdict(one) for one in self.deliveries],
        }

    def called(self, call: ServedCall, response: Json) -> None:
        """Handle the effect of a call; the caller holds the world's lock."""
        if not call.write:
            return
        if call.service in {"kms", "google"}:
            self._log(admin_activity(self._world, call, response))
            self._kms_api = self._world.switches.kms_api_enabled
            self._look(call.resource if call.service == "kms" else None)
        else:  # an Admin API call changes no crypto key, but can put another one to use
            self._look("")

    def changed(self) -> None:
        """Handle a change by the control API; only that of the Cloud KMS API's state is logged."""
        enabled = self._world.switches.kms_api_enabled
        if enabled != self._kms_api:
            verb = "enable" if enabled else "disable"
            resource = f"projects/{PROJECT_ID}/services/cloudkms.googleapis.com"
            call = ServedCall(
                service="google",
                name=f"serviceusage.services.{verb}",
                handler=dict,
                resource=resource,
                caller="administrator",
                permission=f"serviceusage.services.{verb}",
                message={"name": resource},
            )
            self._log(admin_activity(self._world, call, {}))
            self._kms_api = enabled
        self._look(None)

    def take_stock(self) -> None:
        """Record the present state of the keys; later changes are compared with it."""
        self._works.clear()
        self._look(None)

    def _log(self, entry: Json) -> None:
        self.audit.append(entry)
        if self.push.push_url is not None:
            self._push(entry, self.push.push_url)

    def _look(self, touched: str | None) -> None:
        """Check the keys in use that `touched` may affect (None: all), and those never checked."""
        admin = self._world.admin
        hooks = [one for one in admin.webhooks.values() if one.state == "enabled"]
        if not hooks:
            return
        in_use = {one.external_key_id for one in admin.workspaces.values()}
        for key in (one for one in admin.external_keys.values() if one.id in in_use):
            known = self._works.get(key.id)
            if known is not None and not self._concerns(touched, key):
                continue
            works = self._works[key.id] = validate_key(self._world, key) is None
            if known is not None and works != known:
                event = "external_key.recovered" if works else "external_key.failed"
                for hook in hooks:
                    if event in hook.enabled_events:
                        self._tell(hook, event, key)

    def _concerns(self, touched: str | None, key: StoredExternalKey) -> bool:
        if touched is None or not isinstance(key.provider_config, GcpConfig):
            return touched is None
        names = (touched, key.provider_config.key_name)
        changed, name = (f"{canonical_project(self._world, one)}/" for one in names)
        return changed.startswith(name) or name.startswith(changed)

    def _tell(self, hook: StoredWebhook, event: str, key: StoredExternalKey) -> None:
        id_, organization_id = new_id("evt"), self._world.admin.organization.id
        created = timestamp(self._world.clock.now())
        data = {"type": event, "id": key.id, "organization_id": organization_id}
        facts = {"type": "event", "id": id_, "created_at": created, "data": data}
        body = json.dumps(facts, separators=(",", ":"))

        def headers() -> Headers:
            sent = str(int(time.time()))
            signature = webhook_signature(hook.signing_secret, id_, sent, body)
            return {
                "webhook-id": id_,
                "webhook-timestamp": sent,
                "webhook-signature": signature,
            }

        self._send(Delivery("webhook", hook.url, event, created), body, headers)

    def _push(self, entry: Json, url: str) -> None:
        published, number = entry["receiveTimestamp"], str(secrets.randbelow(10**16))
        message = {
            "data": base64.b64encode(json.dumps(entry).encode()).decode(),
            "attributes": {"logging.googleapis.com/timestamp": entry["timestamp"]},
            # Pub/Sub sends both spellings
            "messageId": number,
            "message_id": number,
            "publishTime": published,
            "publish_time": published,
        }
        body = json.dumps({"message": message, "subscription": self.push.push_subscription})
        account = Identity("push", f"serviceAccount:{self.push.push_account}", subject="1" * 21)
        audience = self.push.push_audience or url

        def headers() -> Headers:
            token = self._world.identities.identity_token(account, audience)
            return {"authorization": f"Bearer {token}", "user-agent": "CloudPubSub-Google"}

        method = entry["protoPayload"]["methodName"]
        self._send(Delivery("push", url, method, entry["timestamp"]), body, headers)

    def _send(self, delivery: Delivery, body: str, headers: Callable[[], Headers]) -> None:
        self.deliveries.append(delivery)
        if self._senders is None:
            self._senders = ThreadPoolExecutor(8, thread_name_prefix="sandbox-signals")
        self._senders.submit(self._try, delivery, body, headers, self.push.delay_seconds)

    def _try(
        self, delivery: Delivery, body: str, headers: Callable[[], Headers], delay: float
    ) -> None:
        """Send until the answer is 2xx; each attempt has its own time and signature."""
        json_type = {"content-type": "application/json"}
        for pause in (delay, *PAUSES_SECONDS[1:]):
            if self._stop.wait(pause):
                return
            delivery.tries += 1
            try:
                answer = httpx.post(
                    delivery.url,
                    content=body,
                    headers=json_type | headers(),
                    timeout=_ANSWER_SECONDS,
                    trust_env=False,
                )
            except httpx.HTTPError as error:
                delivery.status = type(error).__name__
            else:
                delivery.status = str(answer.status_code)
                if answer.is_success:
                    return


def webhook_signature(secret: str, id_: str, sent: str, body: str) -> str:
    """`v1,…` over id, time and body, with the key that follows `whsec_`."""
    key = base64.b64decode(secret.removeprefix("whsec_") + "==")
    digest = hmac.new(key, f"{id_}.{sent}.{body}".encode(), hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"
