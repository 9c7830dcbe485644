"""How many calls an onboarding makes, each of them by name."""

from __future__ import annotations

import asyncio
from collections import Counter

from blocks.anthropic_admin import AnthropicAdmin
from blocks.google_kms import GoogleKms
from cmek.gcp.project_apis import GoogleReads
from cmek.keys.prerequisites import run_checks
from cmek.keys.reader import Clients
from cmek.onboarding.request import OnboardingForm, OnboardingRequest, resolve
from tests.support.born import creates, start_to_create
from tests.support.onboarding import Onboardings
from tests.support.requests import LENIENT


async def _check(bench: Onboardings, request: OnboardingRequest) -> None:
    sandbox = bench.sandbox
    admin = AnthropicAdmin(base_url=sandbox.http, admin_key=sandbox.admin_key).get_client()
    kms = GoogleKms(endpoint=sandbox.grpc, checks_endpoint=sandbox.http).get_client()
    google = GoogleReads(None, base_url=sandbox.http)
    try:
        await run_checks(request, Clients(admin, kms, google))
    finally:
        for client in (admin, kms, google):
            await client.aclose()


def of_checks(bench: Onboardings, request: OnboardingRequest) -> Counter[str]:
    """The calls of all prerequisite checks in the sandbox's present state."""
    bench.control.clear_log()
    asyncio.run(_check(bench, request))
    return counted(bench)


def counted(bench: Onboardings, upto: int = 10**9) -> Counter[str]:
    """Calls to Cloud KMS and the Admin API since the log was cleared; clears it."""
    log = [one for one in bench.control.log() if one["number"] <= upto]
    bench.control.clear_log()
    return Counter(one["call"] for one in log if one["service"] in {"kms", "admin"})


def end_of_read_back(bench: Onboardings) -> int:
    """The number of the call that completes the onboarding.

    Later calls set label and tag and read the key for Terraform: best effort, never repeated.
    """
    (attach,) = [*bench.attaches(), *creates(bench)]
    after = (one for one in bench.control.log() if one["number"] > attach["number"])
    number: int = next(one["number"] for one in after if one["call"] == "external_keys.retrieve")
    return number


def test_a_fresh_onboarding_makes_19_calls_before_the_ask_and_13_after(
    bench: Onboardings,
) -> None:
    """The checks are not counted; every call is one that its step needs."""
    run = bench.start()
    request = resolve(OnboardingForm.model_validate(run.parameters["request"]), LENIENT)
    checks = of_checks(bench, request)
    run.execute()
    before = counted(bench) - checks - of_checks(bench, request)  # once more with the key
    assert before == {
        "organization.me": 2,  # admission, live facts
        "workspaces.list": 2,  # it is not the default one; who else has the key
        "GetKeyRing": 1,
        "CreateKeyRing": 1,
        "CreateCryptoKey": 1,
        "GetIamPolicy": 2,  # read-modify-write, live facts
        "SetIamPolicy": 1,
        "external_keys.list": 2,  # registration; whoever else has the key
        "external_keys.create": 1,
        "external_keys.validate": 1,
        "workspaces.retrieve": 1,
        "external_keys.retrieve": 1,
        "GetCryptoKey": 2,  # the name to register, live facts
        "ListCryptoKeyVersions": 1,
    }
    assert before.total() == 19

    checks = of_checks(bench, request)
    run.approve()
    after = counted(bench, upto=end_of_read_back(bench)) - checks
    assert after == {
        "organization.me": 1,
        "workspaces.list": 1,  # who else has the key
        "workspaces.retrieve": 3,  # live facts, right before the attach, read-back
        "external_keys.retrieve": 2,  # live facts, read-back
        "external_keys.list": 1,
        "GetCryptoKey": 1,
        "GetIamPolicy": 1,
        "ListCryptoKeyVersions": 1,
        "external_keys.validate": 1,
        "workspaces.update": 1,
    }
    assert after.total() == 13


def test_a_new_workspace_costs_no_call_more(bench: Onboardings) -> None:
    run = start_to_create(bench)
    request = resolve(OnboardingForm.model_validate(run.parameters["request"]), LENIENT)
    checks = of_checks(bench, request)
    run.execute()
    before = counted(bench) - checks - of_checks(bench, request)
    assert before["workspaces.list"] == 2  # nothing has the name or our tag; live facts
    assert before["workspaces.retrieve"] == 0
    assert before.total() <= 19

    checks = of_checks(bench, request)
    run.approve()
    after = counted(bench, upto=end_of_read_back(bench)) - checks
    assert after == {
        "organization.me": 1,
        "workspaces.list": 2,  # live facts, right before the create
        "workspaces.create": 1,
        "workspaces.retrieve": 1,  # read-back
        "external_keys.retrieve": 2,
        "external_keys.list": 1,
        "GetCryptoKey": 1,
        "GetIamPolicy": 1,
        "ListCryptoKeyVersions": 1,
        "external_keys.validate": 1,
    }
