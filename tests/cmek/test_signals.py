"""Signals: who may send them, and which keys they are about."""

from __future__ import annotations

import base64
import hmac
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import anthropic
import pytest
import requests
from google.auth.exceptions import TransportError
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks.webhooks import WebhookVerificationError

from cmek.evidence.report import signals_filter
from cmek.gcp._transport import TOKEN_SECONDS, TokenRequest
from cmek.keys.health_rules import THREATENING_METHODS
from cmek.revalidation.signals import (
    GOOGLE_CERTS,
    KnownKeys,
    Merger,
    PushVerifier,
    Signal,
    SignalRefusedError,
    _Remembered,
    verified_webhook,
    webhook_secrets,
)
from tests.support.signals import ACCOUNT, AUDIENCE, SECRET, Google, google, push, webhook

RING = "projects/acme-kms-prod/locations/us-east5/keyRings/anthropic-cmek"
KEY = f"{RING}/cryptoKeys/payments"
KEYS = KnownKeys(
    {
        "ekey_01Payments": KEY,
        "ekey_01Payments2": f"{KEY}-2",
        "ekey_01Other": f"{RING}-2/cryptoKeys/payments",
    }
)
SECRETS = webhook_secrets(SECRET)
REAL_DIGEST = hmac.digest


@pytest.fixture(scope="module")
def signer() -> Iterator[Google]:
    with google() as one:
        yield one


@pytest.fixture
def pushes(signer: Google) -> PushVerifier:
    return PushVerifier(AUDIENCE, ACCOUNT, signer.certs_url)


def test_the_signature_is_that_of_standard_webhooks() -> None:
    """The specification's example passes the signature check; a changed body does not."""
    headers = {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }
    body = b'{"test": 2432232314}'
    with pytest.raises(SignalRefusedError, match="documented form"):
        verified_webhook(headers, body, SECRETS, 1614265330)
    with pytest.raises(SignalRefusedError, match="signature"):
        verified_webhook(headers, body + b" ", SECRETS, 1614265330)


def official(headers: dict[str, str], body: bytes) -> bool:
    """Whether Anthropic's own SDK accepts the webhook."""
    client = anthropic.Anthropic(api_key="none")  # pragma: allowlist secret
    try:
        client.beta.webhooks.unwrap(body.decode(), headers=headers, key=SECRET)
    except (WebhookVerificationError, ValueError):
        return False
    return True


def ours(headers: dict[str, str], body: bytes) -> bool:
    try:
        return verified_webhook(headers, body, SECRETS, time.time()) is not None
    except SignalRefusedError:
        return False


FORGERIES: dict[str, Callable[[dict[str, str]], dict[str, str]]] = {
    "as it is": lambda headers: headers,
    "another id": lambda headers: headers | {"webhook-id": "evt_02"},
    "a second later": lambda headers: (
        headers | {"webhook-timestamp": str(int(headers["webhook-timestamp"]) + 1)}
    ),
    "a time that is none": lambda headers: headers | {"webhook-timestamp": "now"},
    "only the other version": lambda headers: headers | {"webhook-signature": "v1a,other"},
    "no version": lambda headers: (
        headers | {"webhook-signature": headers["webhook-signature"].replace("v1,", "")}
    ),
    "the signature twice": lambda headers: (
        headers | {"webhook-signature": " ".join([headers["webhook-signature"]] * 2)}
    ),
    "no signature": lambda headers: headers | {"webhook-signature": ""},
}


def test_a_body_is_hashed_once_for_each_secret_however_many_signatures_are_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Anyone may post here: a long body and thousands of signatures must cost no more than one."""
    hashed = []

    def digest(secret: bytes, signed: bytes, how: Any) -> bytes:
        hashed.append(secret)
        return REAL_DIGEST(secret, signed, how)

    headers, body = webhook("ekey_01Payments")
    monkeypatch.setattr("cmek.revalidation.signals.hmac.digest", digest)
    right = headers["webhook-signature"]
    many = headers | {"webhook-signature": " ".join(["v1,AAAA", "v2,x", ""] * 1000 + [right])}
    assert verified_webhook(many, body, SECRETS * 2, time.time()) is not None
    assert len(hashed) == 2


@pytest.mark.parametrize("name", FORGERIES)
def test_the_official_sdk_and_we_accept_and_refuse_the_same(name: str) -> None:
    headers, body = webhook("ekey_01Payments")
    changed = FORGERIES[name](headers)
    assert ours(changed, body) is official(changed, body)
    assert ours(changed, body) is (name in {"as it is", "the signature twice"})
    for at in (time.time() - 290, time.time() - 310, time.time() + 290, time.time() + 310):
        moved = webhook("ekey_01Payments", at=at)
        assert ours(*moved) is official(*moved)


def test_a_webhook_names_its_key_and_one_about_no_key_is_none() -> None:
    headers, body = webhook("ekey_01Payments", sent="evt_07")
    signal = verified_webhook(headers, body, SECRETS, time.time())
    assert signal == Signal(
        source="webhook", id="evt_07", what="external_key.failed", external_key_id="ekey_01Payments"
    )
    headers, body = webhook("prof_01", "user_profile.updated")
    assert verified_webhook(headers, body, SECRETS, time.time()) is None


OTHER = "whsec_" + "QUFB" * 8


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"later": -400}, "300 s"),
        ({"later": 400}, "300 s"),
        ({"secret": OTHER}, "signature"),
    ],
    ids=["an old one again", "from the future", "another secret"],
)
def test_a_forged_or_stale_webhook_is_refused_with_the_reason(
    changes: dict[str, Any], why: str
) -> None:
    later = changes.pop("later", 0) if (changes := dict(changes)) else 0
    headers, body = webhook("ekey_01Payments", at=time.time() + later, **changes)
    with pytest.raises(SignalRefusedError, match=why) as refused:
        verified_webhook(headers, body, SECRETS, time.time())
    assert refused.value.status == 401


HEADER = st.text(st.characters(max_codepoint=255), max_size=40)
DIGITS = st.integers(1, 6000).map(lambda count: "9" * count)


@given(HEADER, HEADER | DIGITS, HEADER, st.binary(max_size=40))
def test_whatever_a_stranger_sends_is_refused_and_not_a_fault(
    sent: str, at: str, signature: str, body: bytes
) -> None:
    """An exception would let anybody fill the log with tracebacks."""
    headers = {"webhook-id": sent, "webhook-timestamp": at, "webhook-signature": signature}
    with pytest.raises(SignalRefusedError):
        verified_webhook(headers, body, SECRETS, time.time())


TOKEN_PART = st.sampled_from(
    ["", "{}", "[]", "1", '{"alg":[]}', '{"alg":"RS256","kid":[]}', '{"exp":[]}', "[" * 5000]
).map(lambda text: base64.urlsafe_b64encode(text.encode()).decode().rstrip("="))


@given(st.lists(TOKEN_PART, max_size=4).map(".".join) | HEADER)
def test_whatever_token_a_stranger_sends_is_refused_and_not_a_fault(
    signer: Google, token: str
) -> None:
    """google-auth reads the sender's claims before it has verified them."""
    pushes = PushVerifier(AUDIENCE, ACCOUNT, signer.certs_url)
    with pytest.raises(SignalRefusedError):
        pushes.verified({"authorization": f"Bearer {token}"}, b"")
    signer.fetched.clear()


@pytest.mark.parametrize("name", ["webhook-id", "webhook-timestamp", "webhook-signature"])
def test_every_header_is_needed(name: str) -> None:
    headers, body = webhook("ekey_01Payments")
    for value in ("", "1e9", "٣"):
        with pytest.raises(SignalRefusedError):
            verified_webhook(headers | {name: value}, body, SECRETS, time.time())


def test_the_new_and_the_old_secret_are_valid_while_one_is_replaced() -> None:
    both = webhook_secrets(f"{OTHER}\n{SECRET}\n")
    for secret in (SECRET, OTHER):
        assert verified_webhook(*webhook("ekey_01", secret=secret), both, time.time())
    for text in ("", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", f"{SECRET}\nx"):
        with pytest.raises(ValueError, match="whsec_"):
            webhook_secrets(text)


@given(st.text(st.sampled_from("AZaz09+/=*_- é"), max_size=40))
def test_a_secret_that_is_not_whole_is_refused_and_not_quoted(text: str) -> None:
    """Anybody can sign with an empty secret; the padding may be left out."""
    digits = text.rstrip().rstrip("=")
    whole = re.fullmatch(r"[A-Za-z0-9+/]{32,}", digits) and len(digits) % 4 != 1
    if whole:
        (key,) = webhook_secrets(f"whsec_{text}")
        assert len(key) >= 24
        return
    with pytest.raises(ValueError, match="whsec_") as refused:
        webhook_secrets(f"whsec_{text}")
    assert len(digits) < 5 or digits not in str(refused.value)


def test_a_push_of_our_subscription_names_the_resource(
    pushes: PushVerifier, signer: Google
) -> None:
    """Google's certificates are fetched once, not for every push."""
    for number in range(3):
        body = push("UpdateCryptoKey", KEY, sent=str(number))
        assert pushes.verified(signer.token(), body) == Signal(
            source="audit log", id=str(number), what="UpdateCryptoKey", resource=KEY
        )
    assert len(signer.fetched) == 1
    signer.fetched.clear()


@pytest.mark.parametrize(
    "claims",
    [
        {"aud": "https://other.example.com"},
        {"email": "eve@evil.iam.gserviceaccount.com"},
        {"email_verified": False},
        {"email_verified": "true"},
        {"iss": "https://evil.example.com"},
        {"exp": 1},
        {"iat": time.time() + 3000},
    ],
    ids=lambda claims: next(iter(claims)),
)
def test_a_token_that_is_not_our_subscriptions_is_refused(
    pushes: PushVerifier, signer: Google, claims: dict[str, Any]
) -> None:
    with pytest.raises(SignalRefusedError) as refused:
        pushes.verified(signer.token(**claims), push("SetIamPolicy", KEY))
    assert refused.value.status == 401


def test_a_token_of_another_signer_is_refused(pushes: PushVerifier) -> None:
    with google() as other, pytest.raises(SignalRefusedError, match="is not valid"):
        pushes.verified(other.token(), push("SetIamPolicy", KEY))
    for headers in ({}, {"authorization": "Basic eA=="}, {"authorization": "Bearer x"}):
        with pytest.raises(SignalRefusedError):
            pushes.verified(headers, push("SetIamPolicy", KEY))


@pytest.mark.parametrize("body", [b"", b"[]", b'{"message": {"data": "%", "messageId": "1"}}'])
def test_a_push_of_another_form_is_refused(
    pushes: PushVerifier, signer: Google, body: bytes
) -> None:
    with pytest.raises(SignalRefusedError, match="no log entry") as refused:
        pushes.verified(signer.token(), body)
    assert refused.value.status == 400


def test_entries_about_no_key_or_no_threat_are_left_alone(
    pushes: PushVerifier, signer: Google
) -> None:
    """A sink may have a wider filter than ours."""
    for method, resource, service in (
        ("CreateCryptoKey", KEY, "cloudkms.googleapis.com"),
        ("SetIamPolicy", "projects/acme-kms-prod", "cloudresourcemanager.googleapis.com"),
    ):
        body = push(method, resource, service=service)
        assert pushes.verified(signer.token(), body) is None
    for method in THREATENING_METHODS:
        assert method in signals_filter("acme-kms-prod")
        assert pushes.verified(signer.token(), push(f"google.cloud.kms.v1.K.{method}", KEY))


def test_certificates_come_from_google_or_from_this_machine() -> None:
    assert PushVerifier(AUDIENCE, ACCOUNT)
    for url in ("https://evil.example.com/certs", GOOGLE_CERTS + "2"):
        with pytest.raises(ValueError, match="certificates are Google's"):
            PushVerifier(AUDIENCE, ACCOUNT, url)


@pytest.mark.parametrize(
    ("resource", "about"),
    [
        (KEY, ["ekey_01Payments"]),
        (f"{KEY}/cryptoKeyVersions/7", ["ekey_01Payments"]),
        (KEY.replace("acme-kms-prod", "123456789012"), ["ekey_01Payments"]),
        (RING, ["ekey_01Payments", "ekey_01Payments2"]),
        (f"{RING}/cryptoKeys/pay", []),
        (f"{RING}-3", []),
        ("", []),
    ],
)
def test_a_resource_is_about_the_keys_at_and_below_it(resource: str, about: list[str]) -> None:
    signal = Signal(source="audit log", id="1", what="SetIamPolicy", resource=resource)
    assert list(KEYS.about(signal)) == about


def test_a_webhook_is_about_a_key_that_is_watched() -> None:
    known = Signal(source="webhook", id="1", what="x", external_key_id="ekey_01Other")
    assert KEYS.about(known) == ("ekey_01Other",)
    assert KEYS.about(known.model_copy(update={"external_key_id": "ekey_01Unknown"})) == ()


def test_a_flood_is_one_event_now_and_one_at_the_end() -> None:
    merger = Merger(30, at_once=2)
    assert merger.wait("a", ("ekey_a",), 100) == 0
    later = [merger.wait("a", ("ekey_a",), 101 + number / 100) for number in range(500)]
    assert later == [29, *[None] * 499]
    assert merger.wait("b", ("ekey_b",), 101) == 0
    assert merger.wait("c", ("ekey_c", "ekey_d"), 101) is None, "a third at once waits as well"
    assert merger.taken(130) == {"a": ("ekey_a",), "c": ("ekey_c", "ekey_d")}
    assert merger.wait("a", ("ekey_a",), 131) == 29
    assert merger.wait("b", ("ekey_b",), 300) == 0


@given(
    st.lists(st.tuples(st.floats(0, 40), st.sampled_from("abcd")), max_size=40),
    st.integers(1, 3),
)
def test_an_event_follows_every_signal_and_few_are_sent_at_once(
    signals: list[tuple[float, str]], at_once: int
) -> None:
    """The check of a later event reads what a signal was about; nobody waits longer than said."""
    merger = Merger(30, at_once)
    events: list[tuple[float, set[str]]] = []
    at_ends: list[float] = []
    arrived: list[tuple[float, str]] = []
    now, due = 0.0, None
    for pause, about in [*signals, (1000.0, "e")]:
        if due is not None and due <= now + pause:
            events.append((due, set(merger.taken(due))))
            due = None
        now += pause
        arrived.append((now, about))
        wait = merger.wait(about, (about,), now)
        if wait == 0:
            events.append((now, {about}))
            at_ends.append(now)
        elif wait is not None:
            assert due is None, "one event at a time is due"
            due = now + wait
    for at, about in arrived:
        assert any(at <= posted <= at + 30 and about in of for posted, of in events)
    for first in at_ends:
        assert sum(first <= at < first + 30 for at in at_ends) <= at_once


def test_certificates_are_fetched_within_the_time_limit_of_tokens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """google-auth gives none, and requests would wait for ever."""
    timeouts: list[Any] = []

    def lost(*_: object, **options: object) -> None:
        timeouts.append(options["timeout"])
        raise requests.ConnectionError

    monkeypatch.setattr(requests.Session, "request", lost)
    with pytest.raises(TransportError):
        _Remembered(TokenRequest())("http://127.0.0.1:9/certs", method="GET")
    assert timeouts == [TOKEN_SECONDS]
