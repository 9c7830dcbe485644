"""The gcloud commands and console pages of our remedies, with the real names filled in."""

from __future__ import annotations

from collections.abc import Sequence
from shlex import quote
from typing import Final

from cmek.anthropic_identity import MEMBER
from cmek.names import BadNameError, KeyName

CONSOLE: Final = "https://console.cloud.google.com"
_ADD: Final = "add-iam-policy-binding"
_REMOVE: Final = "remove-iam-policy-binding"


def key_flags(key: KeyName) -> str:
    """The flags that name the ring of a key."""
    return f"--keyring={key.key_ring} --location={key.location} --project={key.project}"


def on_key(key: KeyName, verb: str, rest: str = "") -> str:
    """`gcloud kms keys VERB KEY …`."""
    return " ".join(f"gcloud kms keys {verb} {key.crypto_key} {key_flags(key)} {rest}".split())


def on_version(key: KeyName, verb: str, version: str) -> str:
    """`gcloud kms keys versions VERB VERSION …`."""
    return f"gcloud kms keys versions {verb} {version} --key={key.crypto_key} {key_flags(key)}"


def key_in(resource: str) -> KeyName | None:
    """The crypto key, if the resource is one."""
    try:
        return KeyName.parse(resource)
    except BadNameError:
        return None


def policy_of(key: KeyName) -> str:
    """Show the key's IAM policy."""
    return on_key(key, "get-iam-policy")


def new_primary(key: KeyName) -> str:
    """Create a version and make it the primary."""
    return f"gcloud kms keys versions create --primary --key={key.crypto_key} {key_flags(key)}"


def import_version(key: KeyName) -> str:
    """Import a version into an import-only key; Cloud KMS generates none for such a key."""
    return (
        "gcloud kms keys versions import --import-job=JOB --target-key-file=FILE "
        f"--algorithm=google-symmetric-encryption --key={key.crypto_key} {key_flags(key)}"
    )


def grant(key: KeyName, role: str, member: str = MEMBER) -> str:
    """Guide step 3 for one role.

    Without `--condition=None` gcloud asks a question if the policy has a conditional binding.
    """
    return bind(str(key), member, role)


def bind(resource: str, member: str, role: str) -> str:
    """Give a member a role without a condition."""
    command = _policy_command(resource, _ADD)
    return f"{command} --member={quote(member)} --role={role} --condition=None"


def revoke(resource: str, member: str, role: str) -> str:
    """Take a role away from a member; `--all`: under every condition."""
    return f"{_policy_command(resource, _REMOVE)} --member={quote(member)} --role={role} --all"


def make_admin(resource: str, member: str) -> str:
    """Give the member the role that the guide requires of the caller."""
    return bind(resource, member, "roles/cloudkms.admin")


def _policy_command(resource: str, verb: str) -> str:
    """`gcloud … VERB` for a key, ring, project, folder or organization: each has its own group."""
    parts = resource.split("/")
    if "cryptoKeys" in parts:
        return on_key(KeyName.parse(resource), verb)
    if "keyRings" in parts:
        return f"gcloud kms keyrings {verb} {parts[5]} --location={parts[3]} --project={parts[1]}"
    group = {
        "projects": "projects",
        "folders": "resource-manager folders",
        "organizations": "organizations",
    }[parts[0]]
    return f"gcloud {group} {verb} {parts[1]}"


def enable_api(service: str, project: str) -> str:
    """Enable an API."""
    return f"gcloud services enable {service} --project={project}"


def org_policy_page(constraint: str, project: str) -> str:
    """The console page of one organization policy."""
    return f"{CONSOLE}/iam-admin/orgpolicies/{constraint.replace('.', '-')}?project={project}"


def leave_perimeter(perimeter: str, members: Sequence[str], *, dry_run: bool) -> str:
    """Take members out of a perimeter, which ends the protection of everything in them.

    Args:
        perimeter: `accessPolicies/N/servicePerimeters/NAME`.
        members: `projects/NUMBER` or `folders/N`, as the perimeter lists them.
        dry_run: Whether out of its dry run, instead of what is in force.
    """
    policy, _, name = perimeter.removeprefix("accessPolicies/").partition("/servicePerimeters/")
    group = "perimeters dry-run" if dry_run else "perimeters"
    return (
        f"gcloud access-context-manager {group} update {name} --policy={policy} "
        f"--remove-resources={','.join(members)}"
    )


def perimeters_page(organization: str) -> str:
    """The console page of VPC Service Controls."""
    return f"{CONSOLE}/security/service-perimeter?organizationId={organization.rpartition('/')[2]}"
