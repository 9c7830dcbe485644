"""Guide step 4: the key's full resource name, as Cloud KMS returns it."""

from __future__ import annotations

from prefect import get_run_logger

from cmek.names import KeyName
from tasks._task_options import NotYetError, not_yet, uncached_task
from tasks.clients import kms_client


class KeyNotReadableYetError(NotYetError):
    """A key that was made a moment ago can't be read yet: Cloud KMS is consistent eventually."""


@uncached_task(
    name="4 Key name",
    retries=3,
    retry_delay_seconds=[1, 3, 9],
    retry_jitter_factor=0.5,
    retry_condition_fn=not_yet,
)
async def read_key_name(kms_block: str, key_name: str) -> str:
    """The name to register, read from Cloud KMS: once registered it can never be changed.

    Raises:
        KeyNotReadableYetError: Retried; Cloud KMS does not know the key yet.
        GoogleApiError: Refused by Google.
        BadNameError: The name is not the full resource name of a crypto key.
    """
    key = await (await kms_client(kms_block)).get_crypto_key(key_name)
    if key is None:
        raise KeyNotReadableYetError(f"Cloud KMS does not know {key_name} yet")
    name = str(KeyName.parse(key.name))
    get_run_logger().info("The key's full resource name is %s", name)
    return name
