"""When a changed setting takes effect in a running daemon; whatever is not named here does at once."""

from __future__ import annotations

from collections.abc import Iterable

from hubtunnel.config import Config

# Settings that a session keeps from its beginning; a running one ends with its daemon, or when its peer restarts.
_OF_SESSIONS = (
    ("session", "ratchet_after"),
    ("session", "ratchet_bytes"),
    ("session", "linger"),
    ("session", "keepalive"),
)


def need_restart(before: Config, after: Config) -> list[str]:
    """What a running daemon cannot change about itself, a line each that names file, key and cure."""
    pairs: Iterable[tuple[str, object, object]] = (
        ("name", before.name, after.name),
        ("state", before.state, after.state),
        ("[control] socket", before.control_socket, after.control_socket),
    )
    return [f"{after.path}: {key}: changing it needs a restart" for key, old, new in pairs if old != new]


def later(before: Config, after: Config) -> list[str]:
    """The keys that were changed and hold for sessions begun from now on."""
    return [
        f"[{section}] {key}"
        for section, key in _OF_SESSIONS
        if getattr(getattr(before, section), key) != getattr(getattr(after, section), key)
    ]
