"""Answers of a bounded size: what stands between here and a service may send anything."""

from __future__ import annotations

from typing import Final

import httpx

MAX_BYTES: Final = 16 * 1024 * 1024
"""Of one answer, unpacked. The largest documented one is a page of 1,000 objects."""


async def send_bounded(http: httpx.AsyncClient, request: httpx.Request) -> httpx.Response:
    """Send, and read the answer as long as it is not too long.

    Raises:
        httpx.DecodingError: It is longer than `MAX_BYTES`, packed or unpacked.
        httpx.HTTPError: As `httpx.AsyncClient.send`.
    """
    answer = await http.send(request, stream=True)
    content = bytearray()
    try:
        async for part in answer.aiter_bytes():
            content += part
            if len(content) > MAX_BYTES:
                raise httpx.DecodingError(
                    f"the answer is longer than {MAX_BYTES} bytes", request=request
                )
    finally:
        await answer.aclose()
    kept = [
        (name, value)
        for name, value in answer.headers.multi_items()
        if name not in {"content-encoding", "content-length", "transfer-encoding"}
    ]
    return httpx.Response(answer.status_code, headers=kept, content=bytes(content), request=request)
