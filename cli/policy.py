"""`cmek policy show`: what a platform team has decided for all onboardings."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Annotated, Any, Final

import typer
from prefect.client.orchestration import SyncPrefectClient
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL, temporary_settings

from blocks.onboarding_policy import OnboardingPolicy
from cli.client import connected
from cli.options import JsonObject, check_block
from cli.terminal import new_console, printable, show_rows
from cmek.keys.prerequisites import unknown_warnings
from cmek.onboarding.policy import DEFAULT_POLICY, SETTINGS, PolicyModel, deviations, shown_value
from tasks.clients import onboarding_policy

policy_command = typer.Typer(
    help="Show an onboarding policy, and what differs from the guide's recommendation.",
    no_args_is_help=True,
    add_completion=False,
)


_TITLES: Final = ("", "setting", "value", "guide", "a request may override")


@policy_command.callback()
def _group() -> None:
    """Without it, typer would make the only command the group itself."""


@policy_command.command("show")
def show_command(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="Of the OnboardingPolicy block.", callback=check_block),
    ] = DEFAULT_POLICY,
    *,
    as_json: JsonObject = False,
) -> None:
    """Print the settings of a policy, and which of them a request may override."""
    with connected():
        policy = asyncio.run(onboarding_policy(name))
    if as_json:
        typer.echo(json.dumps(_facts(name, policy)))
        return
    console = new_console()
    show_rows(console, _TITLES, _rows(policy))
    differing = deviations(policy)
    console.print(
        f"Policy {printable(name)}: "
        + (
            f"{len(differing)} differ from the guide (!)"
            if differing
            else "as the guide recommends"
        ),
        soft_wrap=True,
    )
    if unknown := unknown_warnings(policy):
        console.print(
            f"No check is called {printable(', '.join(unknown))}, so that accepts nothing. The ids "
            "are in docs/troubleshooting.md",
            soft_wrap=True,
        )


def _facts(name: str, policy: PolicyModel) -> dict[str, Any]:
    differing = {one.field: one.recommended for one in deviations(policy)}
    return {
        "policy": name,
        "settings": policy.model_dump(mode="json", include=set(SETTINGS)),
        "may_override": list(policy.may_override),
        "recommended_instead": differing,
    }


def _rows(policy: PolicyModel) -> Iterator[tuple[str, ...]]:
    recommended = {one.field: one.recommended for one in deviations(policy)}
    for name in PolicyModel.model_fields:
        differs = name in recommended
        yield (
            "[yellow]![/]" if differs else " ",
            name,
            printable(shown_value(getattr(policy, name))),
            printable(shown_value(recommended[name])) if differs else "the same",
            "yes" if name in policy.may_override else "",
        )


def save_default_policy(client: SyncPrefectClient) -> bool:
    """Make the block `default` with the guide's values, unless there is one; whether it was made.

    A team's own decisions are never overwritten.
    """
    slug = OnboardingPolicy.get_block_type_slug()
    try:
        client.read_block_document_by_name(DEFAULT_POLICY, slug, include_secrets=False)
    except ObjectNotFound:
        with temporary_settings({PREFECT_API_URL: str(client.api_url)}):
            OnboardingPolicy().save(DEFAULT_POLICY)
        return True
    return False
