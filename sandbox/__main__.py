"""`python -m sandbox`: run the sandbox until it is told to stop."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from sandbox.server import serve


def main() -> int:
    """Read the command line and serve; 0 after SIGTERM or SIGINT, 1 when it cannot start."""
    parser = argparse.ArgumentParser(prog="python -m sandbox", description=__doc__)
    parser.add_argument("--http-port", type=int, default=0, help="0 chooses a free one")
    parser.add_argument("--grpc-port", type=int, default=0, help="0 chooses a free one")
    parser.add_argument("--state", type=Path, help="file that keeps the state across restarts")
    parser.add_argument("--host", default="127.0.0.1", help="a loopback address")
    parser.add_argument("--minimal", action="store_true", help="only two fresh workspaces")
    given = parser.parse_args()
    try:
        serve(given.http_port, given.grpc_port, given.state, given.host, minimal=given.minimal)
    except (OSError, ValueError, RuntimeError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
