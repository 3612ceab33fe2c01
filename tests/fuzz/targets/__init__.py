"""Every target by name. A target takes bytes, gives them to one parser or machine, and raises for what must not be."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Target:
    """A function, the longest input that is worth trying, and its share of the time."""

    module: str
    function: str
    longest: int
    weight: int = 1

    @property
    def run(self) -> Callable[[bytes], None]:
        """The function; its module is imported only now, since each one costs time under the fuzzer."""
        function: Callable[[bytes], None] = getattr(importlib.import_module(f"{__name__}.{self.module}"), self.function)
        return function


TARGETS: Mapping[str, Target] = MappingProxyType(
    {
        "records": Target("wire", "records", 4096),
        "frames": Target("wire", "frames", 4096),
        "payloads": Target("wire", "payloads", 1024),
        "card": Target("cards", "card", 16384),
        "card_fields": Target("cards", "fields", 2048),
        "armour": Target("cards", "armoured", 16384),
        "fingerprint": Target("cards", "fingerprint", 256),
        "config": Target("files", "config", 2048),
        "keyfile": Target("files", "key_file", 512),
        "bundle": Target("files", "key_bundle", 8192),
        "state": Target("files", "state_file", 2048),
        "control": Target("control", "request", 2048),
        "control_answer": Target("control", "answer", 2048),
        "responder": Target("handshakes", "responder", 8192, 2),
        "initiator": Target("handshakes", "initiator", 8192, 2),
        "core": Target("core", "core", 2048, 6),
        "hubs": Target("hubs", "hubs", 512, 5),
    }
)
