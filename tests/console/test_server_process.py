"""Where the server's cyclic garbage is freed."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import gc, threading, time
from console.server_process import collect_aside

freed = []

class Cycle:
    def __init__(self):
        self.itself = self
    def __del__(self):
        freed.append(threading.current_thread() is threading.main_thread())

collect_aside()
for _ in range(10 * gc.get_threshold()[0]):
    Cycle()
deadline = time.monotonic() + 20
while not freed and time.monotonic() < deadline:
    time.sleep(0.05)
print(len(freed) > 0, any(freed))
"""


def test_no_garbage_is_collected_in_the_event_loops_thread() -> None:
    """What would be collected there at once is freed, and elsewhere."""
    said = subprocess.run(
        [sys.executable, "-c", CODE], check=True, capture_output=True, text=True, timeout=60
    )
    assert said.stdout.split() == ["True", "False"]
