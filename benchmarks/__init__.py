"""Measurements: `make bench`. They send no telemetry, and neither does what they start."""

import os

os.environ |= {"DO_NOT_TRACK": "1", "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
