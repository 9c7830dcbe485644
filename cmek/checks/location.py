"""The location: one US region, known to Cloud KMS, with HSM when that is asked for.

Source: guide step 1; https://docs.cloud.google.com/kms/docs/locations
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from cmek.checks.findings import Findings
from cmek.checks.model import Check, Prerequisite
from cmek.checks.outcome import Refused
from cmek.names import RECOMMENDED_REGIONS, is_us_single_region
from cmek.request import OnboardingRequest

LOCATION: Final = Prerequisite(
    "location",
    "Location is one US region with what is asked for",
    ("cloudkms GetLocation",),
    "whoever has cloudkms.locations.get on the project (roles/cloudkms.viewer)",
    "Anthropic uses keys of single US regions only, and a ring can't be moved.",
)


def check_location(request: OnboardingRequest, findings: Findings) -> Iterator[Check]:
    """The name's shape first, then the live location's word."""
    location, read = request.key_name.location, findings.kms.location
    remedy = f"ask for one of {', '.join(RECOMMENDED_REGIONS)}"
    if not is_us_single_region(location):
        yield LOCATION.failed(f"{location} is not one US region", remedy)
    elif isinstance(read, Refused) and read.status == "NOT_FOUND":
        yield LOCATION.failed(f"Cloud KMS does not know {location}", remedy)
    elif isinstance(read, Refused):
        yield LOCATION.unknown(read)
    elif request.protection_level == "HSM" and not read.value.hsm_available:
        yield LOCATION.failed(f"{location} has no HSM", remedy)
    else:
        hsm = "with HSM" if read.value.hsm_available else "without HSM, none is asked for"
        yield LOCATION.passed(f"{location}, {hsm}")
