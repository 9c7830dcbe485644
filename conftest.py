"""Before anything of Prefect is imported: no test, and nothing that one starts, sends telemetry.

Nor does a test depend on the proxies, the profile or the variables of Prefect of whoever runs it.
"""

import os

from cli.launch import collect_rarely
from cli.main import bypass_proxies

collect_rarely()
for name in [one for one in os.environ if one.startswith("PREFECT_")]:
    del os.environ[name]
bypass_proxies(os.environ)
os.environ |= {
    "PREFECT_PROFILES_PATH": os.devnull,
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    # without an address, a client would start a server of its own
    "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
}
