"""Guide step 4: the key's full resource name, as Cloud KMS returned it."""

from __future__ import annotations

from prefect import get_run_logger

from cmek.gcp.resources import CryptoKey
from cmek.names import KeyName
from tasks._uncached_task import uncached_task


@uncached_task(name="4 Key name", task_run_name="4 Key name")
async def read_key_name(key: CryptoKey) -> str:
    """The name to register, out of the response of guide step 2: no call of its own.

    Raises:
        BadNameError: The name is not the full resource name of a crypto key.
    """
    name = str(KeyName.parse(key.name))
    get_run_logger().info("The key's full resource name is %s", name)
    return name
