"""Reading and extending a policy does not change anybody else's grants."""

from __future__ import annotations

from google.iam.v1 import policy_pb2
from google.type import expr_pb2
from hypothesis import given
from hypothesis import strategies as st

from cmek.anthropic_identity import MEMBER, ROLES
from cmek.gcp.iam import PolicyView, unconditional_roles, with_grants

members = st.sampled_from([MEMBER, "user:a@example.com", "group:b@example.com", "allUsers"])
roles = st.sampled_from([*ROLES, "roles/owner", "roles/cloudkms.admin"])
conditions = st.none() | st.builds(
    expr_pb2.Expr, title=st.just("until"), expression=st.sampled_from(["true", "request.time < x"])
)
bindings = st.builds(
    policy_pb2.Binding,
    role=roles,
    members=st.lists(members, max_size=3, unique=True),
    condition=conditions,
)
audit_configs = st.builds(policy_pb2.AuditConfig, service=st.just("cloudkms.googleapis.com"))
policies = st.builds(
    policy_pb2.Policy,
    version=st.sampled_from([0, 1, 3]),
    bindings=st.lists(bindings, max_size=5),
    audit_configs=st.lists(audit_configs, max_size=1),
    etag=st.binary(min_size=1, max_size=8),
)
Grant = tuple[str, str, str | None]


def grants(policy: policy_pb2.Policy) -> set[Grant]:
    return {
        (binding.role, member, binding.condition)
        for binding in PolicyView.of(policy).bindings
        for member in binding.members
    }


def extended(policy: policy_pb2.Policy) -> policy_pb2.Policy:
    """The policy with Anthropic's grants, whether or not they were missing."""
    return with_grants(policy, MEMBER, ROLES) or policy


@given(policies)
def test_both_roles_are_held_afterwards_and_nothing_else_is_new(policy: policy_pb2.Policy) -> None:
    """Every earlier grant stays; new ones are only ours, without a condition."""
    after = extended(policy)
    assert unconditional_roles(after, MEMBER) >= set(ROLES)
    assert grants(after) - grants(policy) <= {(role, MEMBER, None) for role in ROLES}
    assert grants(policy) <= grants(after)


@given(policies)
def test_a_second_time_there_is_nothing_to_do(policy: policy_pb2.Policy) -> None:
    assert with_grants(extended(policy), MEMBER, ROLES) is None


@given(policies)
def test_etag_and_audit_configs_are_kept_and_the_version_is_3(policy: policy_pb2.Policy) -> None:
    """The written policy has the etag that was read, and the version that keeps conditions."""
    after = with_grants(policy, MEMBER, ROLES)
    if after is not None:
        assert after.etag == policy.etag
        assert list(after.audit_configs) == list(policy.audit_configs)
        assert after.version == 3


@given(policies)
def test_the_policy_that_was_read_is_not_changed(policy: policy_pb2.Policy) -> None:
    before = policy.SerializeToString(deterministic=True)
    with_grants(policy, MEMBER, ROLES)
    assert policy.SerializeToString(deterministic=True) == before


@given(policies)
def test_a_conditional_grant_is_not_enough(policy: policy_pb2.Policy) -> None:
    """Anthropic always needs the roles, so a role with a condition is still missing."""
    held = unconditional_roles(policy, MEMBER)
    ours = {(role, when) for role, member, when in grants(policy) if member == MEMBER}
    assert held == {role for role, when in ours if when is None}
    assert (with_grants(policy, MEMBER, ROLES) is None) is (held >= set(ROLES))


@given(policies)
def test_the_view_is_json(policy: policy_pb2.Policy) -> None:
    view = PolicyView.of(policy)
    assert PolicyView.model_validate_json(view.model_dump_json()) == view
