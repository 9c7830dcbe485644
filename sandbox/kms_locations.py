"""The locations of Cloud KMS: single regions, and the multi-regions that the guide refuses.

HSM is offered everywhere unless `KmsState.locations_without_hsm` says otherwise.
Source: https://docs.cloud.google.com/kms/docs/locations
"""

from __future__ import annotations

from typing import Final

from cmek.names import US_SINGLE_REGIONS

MULTI_REGIONS: Final = (
    "global", "us", "ca", "europe", "eur3", "eur4", "eur5", "eur6", "asia", "asia1", "nam3", "nam4",
    "nam6", "nam7", "nam8", "nam9", "nam10", "nam11", "nam12",
)  # fmt: skip
REGIONS_ELSEWHERE: Final = (
    "asia-east1", "asia-northeast1", "asia-south1", "asia-southeast1", "australia-southeast1",
    "europe-north1", "europe-west1", "europe-west2", "europe-west3", "europe-west4",
    "europe-west6", "northamerica-northeast1", "southamerica-east1",
)  # fmt: skip
LOCATIONS: Final = tuple(sorted((*US_SINGLE_REGIONS, *MULTI_REGIONS, *REGIONS_ELSEWHERE)))
