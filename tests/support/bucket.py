"""As much of Cloud Storage's JSON API as Prefect's `GcsBucket` needs for its objects."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from email.parser import BytesParser
from email.policy import HTTP
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.support.web_server import QuietHandler, serving

Objects = dict[str, bytes]
"""Content by `bucket/name`."""


@contextmanager
def running_bucket() -> Iterator[tuple[str, Objects]]:
    """The server's address, for STORAGE_EMULATOR_HOST, and its objects. Every bucket exists."""
    objects: Objects = {}

    class Handler(QuietHandler):
        def do_GET(self) -> None:
            url = urlsplit(self.path)
            _, _, place = url.path.partition("/b/")
            bucket, _, name = place.partition("/o/")
            key = f"{bucket}/{unquote(name)}"
            if name and key not in objects:
                self.reply(404, _json({"error": {"code": 404, "message": "No such object"}}))
            elif parse_qs(url.query).get("alt") == ["media"]:
                self.reply(200, objects[key], "application/octet-stream")
            else:
                self.reply(200, _json({"name": unquote(name) or bucket, "bucket": bucket}))

        def do_POST(self) -> None:
            head = f"content-type: {self.headers['content-type']}\r\n\r\n".encode()
            about, content = BytesParser(policy=HTTP).parsebytes(head + self.body()).iter_parts()
            # not get_content(), which decodes text/plain to a str
            kept: Any = content.get_payload(decode=True)
            name = json.loads(about.get_content())["name"]
            bucket = urlsplit(self.path).path.partition("/b/")[2].partition("/")[0]
            objects[f"{bucket}/{name}"] = kept
            self.reply(200, _json({"name": name, "bucket": bucket}))

    with serving(Handler) as address:
        yield address, objects


def _json(content: object) -> bytes:
    return json.dumps(content).encode()
