"""Showing a plan to a person and asking for the answer."""

from __future__ import annotations

import getpass
import socket
from dataclasses import dataclass, replace
from typing import Any, Literal

from rich.console import Console
from rich.prompt import Confirm, Prompt

from console.approvals import ApprovalError, Ask
from console.terminal import is_interactive, markdown, printable, until

Decision = Literal["approve", "reject"]


@dataclass(frozen=True, slots=True)
class Given:
    """What the command line brought along; None is asked for in the terminal."""

    workspace_id: str | None = None
    plan_digest: str | None = None
    approver: str | None = None
    comment: str | None = None
    acknowledge_warnings: bool = False
    workspace_name: str | None = None


def show(ask: Ask, console: Console) -> None:
    """Print the plan as the run describes it, and until when an answer counts."""
    console.rule("Plan")
    console.print(markdown(ask.description))
    console.rule(f"an answer counts for {until(ask.asked.expires_at)}")


def compose(ask: Ask, decision: Decision, given: Given, console: Console) -> dict[str, Any]:
    """Complete the answer: from the command line, else by asking.

    Without a terminal everything must be given, the digest included, so that no script answers
    for a plan that nobody has read.

    Raises:
        ApprovalError: something is missing, or what was given is not what the run asks about.
    """
    if is_interactive(console):
        given = _asked(ask, decision, given, console)
    missing = [name for name in _required(ask) if not getattr(given, name)]
    if missing:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in missing)
        raise ApprovalError(f"no terminal to ask in: give {options}")
    for name, asked in ((ask.workspace_field, ask.workspace), ("plan_digest", ask.plan_digest)):
        _must_match(ask, name, getattr(given, name), asked)
    return _fields(ask, decision, given)


def _required(ask: Ask) -> tuple[str, ...]:
    return (ask.workspace_field, "plan_digest", "approver", "comment")


def _asked(ask: Ask, decision: Decision, given: Given, console: Console) -> Given:
    acknowledged = given.acknowledge_warnings
    if ask.has_warnings and decision == "approve" and not acknowledged:
        acknowledged = Confirm.ask(
            "Do you accept the warnings above?", console=console, default=False
        )
    typed = getattr(given, ask.workspace_field) or _typed(ask, decision, console)
    return replace(
        given,
        **{ask.workspace_field: typed},
        plan_digest=given.plan_digest or ask.plan_digest,
        approver=given.approver or Prompt.ask("Your name", console=console, default=local_user()),
        comment=given.comment or Prompt.ask("Comment", console=console),
        acknowledge_warnings=acknowledged,
    )


def _typed(ask: Ask, decision: Decision, console: Console) -> str:
    what = ask.workspace_field.replace("_", " ")
    verb = "reject the plan for it"
    if decision == "approve":
        new = ask.workspace_field == "workspace_name"
        verb = "approve creating it with its key" if new else "approve attaching a key to it"
    return Prompt.ask(f"Type the {what} to {verb}", console=console)


def _must_match(ask: Ask, name: str, value: str, asked: str) -> None:
    if value != asked:
        raise ApprovalError(
            f"{name} {printable(value)!r}: run {ask.run.name} asks about {asked!r};"
            " nothing was answered"
        )


def _fields(ask: Ask, decision: Decision, given: Given) -> dict[str, Any]:
    fields: dict[str, Any] = {"decision": decision}
    fields |= {name: getattr(given, name) for name in _required(ask)}
    if ask.has_warnings:
        if decision == "approve" and not given.acknowledge_warnings:
            raise ApprovalError(
                "the plan has warnings, which an approval must accept (--acknowledge-warnings)"
            )
        fields["acknowledge_warnings"] = given.acknowledge_warnings
    return fields


def local_user() -> str:
    """Who runs this command, in the shape of an e-mail address; a claim like any other."""
    return f"{getpass.getuser()}@{socket.gethostname()}"
