"""Why a validation failed: known causes, each proved or excluded by our own reads."""

from cmek.diagnosis.diagnose import diagnose
from cmek.diagnosis.gather import Failure, gather_facts
from cmek.diagnosis.model import Cause, DiagnosisFacts

__all__ = ["Cause", "DiagnosisFacts", "Failure", "diagnose", "gather_facts"]
