"""`python -m benchmarks.revalidation`: a revalidation, and an onboarding against the guide by hand.

Prints one line for each measurement, and exits with 1 when a wanted number is missed.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.by_hand import compare
from benchmarks.sweeps import Conditions, Measured, measure
from tests.support.server import lone_server

MOST_RATIO = {10: 2.0, 100: 1.3, 1000: 1.1}
"""By the number of keys: with few keys, the start of a run takes longer than the keys."""
MOST_READS = {"full": 2.2, "quick": 1.1}
MOST_MEMORY_GROWTH = 1.2
MOST_OF_GUIDE = 0.9
HEAD = (
    f"{'keys':>6} {'seconds':>8} {'floor':>7} {'ratio':>6} {'KMS reads/key':>14} "
    f"{'requests/key':>13} {'reads/min':>10} {'peak MB':>8}  ended as"
)


def main() -> int:
    """Measure, print, judge."""
    options = _options()
    latency = Conditions(options.kms_seconds, options.validate_seconds)
    _print(
        f"Revalidation, full: Cloud KMS answers after {options.kms_seconds:g} s, validate after "
        f"{options.validate_seconds:g} s, {latency.concurrency} keys at once, no quota"
    )
    _print(HEAD)
    with _server():
        # not counted: a new server's first run takes a fifth of a second more
        measure(min(options.keys), latency)
        sweeps = [_shown(measure(keys, latency)) for keys in options.keys]
        quota = Conditions(options.kms_seconds, options.validate_seconds, options.quota)
        _print(f"\nThe same at {options.quota} reads a minute")
        paced = _shown(measure(max(options.keys), quota))
        _print("\nA quick check after that, of which nothing has changed")
        quick = _shown(measure(max(options.keys), latency, depth="quick"))
    _print("\nOne onboarding, against the guide by hand")
    with _server():
        own_part = compare(_print)
    missed = [*_missed(sweeps, paced, options.quota), *_too_many_reads(sweeps[-1], quick)]
    if own_part is not None and own_part > MOST_OF_GUIDE:
        missed.append(
            f"MISSED: an onboarding took {own_part:.2f} of the guide, not {MOST_OF_GUIDE}"
        )
    _print("\n" + ("\n".join(missed) if missed else "Every wanted number is met."))
    return 1 if missed else 0


def _missed(sweeps: list[Measured], paced: Measured, quota: int) -> Iterator[str]:
    largest = sweeps[-1]
    for one in (*sweeps, paced):
        most = MOST_RATIO[max(keys for keys in MOST_RATIO if keys <= max(one.keys, 10))]
        if one.ratio > most:
            yield f"MISSED: {one.keys} keys took {one.ratio:.2f} of the floor, not {most}"
    if paced.fastest_minute > quota * 1.02:
        yield f"MISSED: {paced.fastest_minute} reads in a minute, the quota is {quota}"
    hundred = next((one for one in sweeps if one.keys == 100), None)
    if hundred and largest.peak_mb > MOST_MEMORY_GROWTH * hundred.peak_mb:
        yield f"MISSED: {largest.peak_mb:.0f} MB, with 100 keys {hundred.peak_mb:.0f} MB"


def _too_many_reads(full: Measured, quick: Measured) -> Iterator[str]:
    for depth, one in (("full", full), ("quick", quick)):
        reads = one.kms_reads / one.keys
        if reads > MOST_READS[depth]:
            yield f"MISSED: {reads:.2f} reads a key, {depth}, not {MOST_READS[depth]}"
    if quick.validations:
        yield f"MISSED: {quick.validations} validations although nothing had changed"


def _shown(one: Measured) -> Measured:
    _print(
        f"{one.keys:>6} {one.seconds:>8.1f} {one.floor_seconds:>7.1f} {one.ratio:>6.2f} "
        f"{one.kms_reads / one.keys:>14.2f} {one.requests / one.keys:>13.2f} "
        f"{one.fastest_minute:>10} {one.peak_mb:>8.0f}  {one.state}"
    )
    return one


@contextmanager
def _server() -> Iterator[None]:
    """A Prefect server of our own, for this process and the processes of the sweeps."""
    with lone_server() as address:
        own = {"PREFECT_API_URL": address, "PREFECT_LOGGING_LEVEL": "WARNING"}
        os.environ.update(own)
        try:
            yield
        finally:
            for name in own:
                del os.environ[name]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=int, nargs="+", default=[10, 100, 1000, 10_000])
    parser.add_argument("--kms-seconds", type=float, default=0.1)
    parser.add_argument("--validate-seconds", type=float, default=1.0)
    parser.add_argument("--quota", type=int, default=2400, help="Cloud KMS reads a minute")
    return parser.parse_args()


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
