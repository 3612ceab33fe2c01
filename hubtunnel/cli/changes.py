"""Changes to `peers.d` and to keys that are in force when a command returns, or undone.

A running daemon is asked for them and may refuse; without one the command takes the state's lock, so that no daemon
starts in between, and checks and stores by itself.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hubtunnel.cli.common import CommandError, complain
from hubtunnel.config import Config, load
from hubtunnel.errors import HubtunnelError
from hubtunnel.identity import files, operations
from hubtunnel.identity.caller import Caller
from hubtunnel.identity.pins import Notice, load_hub
from hubtunnel.identity.state import State, StateLockedError

PSK_SUFFIX = ".psk"  # of a private file beside a peer's


@contextlib.contextmanager
def peers_lock(config: Config) -> Iterator[None]:
    """Keep other commands from changing `peers.d` meanwhile."""
    files.make_folder(config.peers_folder, 0o755)
    descriptor = os.open(config.peers_folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CommandError(f"{config.peers_folder}: another command is changing peers", "try again") from None
        yield
    finally:
        os.close(descriptor)


def put_in_force(
    config: Config, changes: Mapping[Path, bytes | None], what: str, details: Mapping[str, Any]
) -> list[Notice]:
    """Write (or with None delete) files, in the order given, and put the result in force; undo them all if that fails.

    `what` and `details` go on the trail. Returns what the check of the new state of things noticed, none when a daemon
    did it.
    """
    notices: list[Notice] = []
    try:
        state = State.open(config.state, write=True)
    except StateLockedError as exc:
        with applied(changes):
            _reload_daemon(config, exc)
    else:
        with state, applied(changes):
            notices = list(load_hub(load(config.path), state).notices)
    try:
        change_keys(config, "record", what=what, details=dict(details))
    except HubtunnelError as exc:
        complain(f"this is in force but not on the trail: {exc}")
    return notices


def change_keys(config: Config, operation: str, **arguments: Any) -> operations.Result:
    """Carry out an operation on keys (`hubtunnel.identity.operations`), by the daemon where one runs.

    Warnings of its result are told here. Raises `HubtunnelError`.
    """
    try:
        state = State.open(config.state, write=True)
    except StateLockedError as exc:
        result = _ask_daemon(config, exc, operation, arguments)
    else:
        with state:
            context = operations.Context(state, config, time.time(), Caller.me())
            result = operations.run(context, operation, arguments)
    for warning in result["warnings"]:
        complain(warning)
    return result


def _ask_daemon(
    config: Config, locked: StateLockedError, operation: str, arguments: Mapping[str, Any]
) -> operations.Result:
    from hubtunnel.cli.running import RELOAD_TIMEOUT
    from hubtunnel.daemon.control import ControlUnavailable, request

    try:
        answer = request(
            config.control_socket, "operation", timeout=RELOAD_TIMEOUT, name=operation, arguments=dict(arguments)
        )
    except ControlUnavailable as exc:
        raise CommandError(
            f"{locked}, but {exc}", "nothing was changed; is a daemon starting or stopping? then try again"
        ) from None
    return dict(answer["result"])


def _reload_daemon(config: Config, locked: StateLockedError) -> None:
    from hubtunnel.cli.running import RELOAD_TIMEOUT
    from hubtunnel.daemon.control import ControlUnavailable, request

    try:
        request(config.control_socket, "reload", timeout=RELOAD_TIMEOUT)
    except ControlUnavailable as exc:
        raise CommandError(
            f"{locked}, but {exc}", "nothing was changed; is a daemon starting or stopping? then try again"
        ) from None
    except HubtunnelError as exc:
        problems = getattr(exc, "problems", None) or [str(exc)]
        raise CommandError("the daemon refused, nothing was changed: " + "\n".join(problems)) from None


@contextlib.contextmanager
def applied(changes: Mapping[Path, bytes | None]) -> Iterator[None]:
    """Make the changes; what was changed is put back when one of them, or the body, fails."""
    undo: list[tuple[Path, bytes | None]] = []
    try:
        for path, data in changes.items():
            before = path.read_bytes() if path.exists() else None
            _put(path, data)
            undo.append((path, before))
        yield
    except BaseException:
        for path, before in reversed(undo):
            _put(path, before)
        raise


def _put(path: Path, data: bytes | None) -> None:
    if data is not None and path.suffix == PSK_SUFFIX:
        files.atomic_write(path, data, mode=files.PRIVATE_MODE, owner=files.state_owner())
    elif data is not None:
        files.atomic_write(path, data)
    elif path.exists():
        path.unlink()
        files.sync_folder(path.parent)
