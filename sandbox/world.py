"""The sandbox's one state, shared by every surface that it serves."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from sandbox.clock import Clock
from sandbox.faults import Faults
from sandbox.google_state import GoogleState
from sandbox.request_log import RequestLog
from sandbox.switches import Switches

if TYPE_CHECKING:
    from sandbox.admin_state import AdminState
    from sandbox.identities import Identities
    from sandbox.kms_state import KmsState


class World:
    """Clock, log, faults, switches and the services' data.

    Handlers are plain functions that run under `lock` and never wait inside it; the gRPC server's
    threads and the HTTP loop share the state through it.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.clock = Clock()
        self.log = RequestLog()
        self.faults = Faults()
        self.switches = Switches()
        self.identities: Identities
        self.kms: KmsState
        self.admin: AdminState
        self.google = GoogleState()
