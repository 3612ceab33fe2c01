"""Who asks for a change: it stands in the trail."""

from __future__ import annotations

import os
from dataclasses import dataclass

from hubtunnel.identity.files import user_name


@dataclass(frozen=True)
class Caller:
    """A user of this machine, by number and name; the daemon acting by itself says so in the name."""

    uid: int
    name: str

    @classmethod
    def of(cls, uid: int) -> Caller:
        """The user with that number."""
        return cls(uid, user_name(uid))

    @classmethod
    def me(cls) -> Caller:
        """The user that this process runs for."""
        return cls.of(os.getuid())

    @classmethod
    def daemon(cls) -> Caller:
        """The daemon, by itself and for nobody."""
        uid = os.geteuid()
        return cls(uid, f"{user_name(uid)} (by itself)")
