"""Before anything of Prefect is imported: no test, and nothing that one starts, sends telemetry."""

import os

from cli.launch import collect_rarely

collect_rarely()
os.environ |= {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    # without an address, a client would start a server of its own
    "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
}
