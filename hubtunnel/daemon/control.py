"""The control socket: how commands ask a running daemon. Messages are length-prefixed msgpack maps.

    request   u32 length ‖ {"command": name, …arguments}        one per connection
    answer    u32 length ‖ {"ok": true, …} or {"ok": false, "error": text, "problems": [text …]}

Only root and the user that the daemon runs as are served, whatever the socket's mode: the kernel tells who is there
(SO_PEERCRED, unix(7)).
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import msgpack

from hubtunnel.daemon.logs import event, log
from hubtunnel.errors import ConfigError, HubtunnelError

PATH_MAX = 107  # bytes in sockaddr_un.sun_path but for the final NUL
REQUEST_MAX = 4 << 20  # a bundle of keys and cards
ANSWER_MAX = 64 << 20  # status of ten thousand peers
CONNECTIONS_MAX = 32
READ_TIMEOUT = 10.0
CALLER = "caller uid"  # in what a handler is given: set here, whatever was sent
CLIENT_TIMEOUT = 30.0
_LENGTH = struct.Struct(">I")
_UCRED = struct.Struct("3i")  # pid, uid, gid

Answer = dict[str, Any]
Handler = Callable[[Mapping[str, Any]], Awaitable[Answer]]


class ControlUnavailable(HubtunnelError):
    """No daemon answers at the control socket."""


class ControlRefused(HubtunnelError):
    """The daemon answered no. `problems` holds a line per mistake where there are several."""

    def __init__(self, text: str, problems: list[str] | None = None) -> None:
        super().__init__(text)
        self.problems = problems or []


def check_path(path: Path) -> None:
    """Raise `ControlUnavailable` for a path that no Unix socket can have."""
    length = len(os.fsencode(path))
    if length > PATH_MAX:
        raise ControlUnavailable(
            f"{path}: {length} bytes, a socket's path has at most {PATH_MAX}: set [control].socket to a shorter one"
        )


# --- the commands' side ---------------------------------------------------------------------------------------


def request(path: Path | str, command: str, *, timeout: float = CLIENT_TIMEOUT, **arguments: Any) -> Answer:
    """Ask the daemon behind `path` and wait up to `timeout` seconds for its answer.

    Raises `ControlUnavailable` when none runs there (or we may not ask it), `ControlRefused` when it says no.
    """
    path = Path(path)
    check_path(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as sock:
        sock.settimeout(timeout)
        try:
            sock.connect(os.fspath(path))
        except (FileNotFoundError, ConnectionRefusedError):
            raise ControlUnavailable(
                f"no daemon runs here (nothing answers at {path}); `hubtunnel check` says whether one can start, and"
                " `journalctl -u hubtunnel` why the last one ended"
            ) from None
        except PermissionError:
            raise ControlUnavailable(f"{path}: only root and the service's user may ask the daemon") from None
        except OSError as exc:
            raise ControlUnavailable(f"{path}: {exc.strerror or exc}") from exc
        try:
            body = msgpack.packb({"command": command, **arguments})
            sock.sendall(_LENGTH.pack(len(body)) + body)
            answer = _read_message(sock, time.monotonic() + timeout)
        except TimeoutError:
            raise ControlUnavailable(f"the daemon at {path} did not answer within {timeout:.0f} s") from None
        except OSError as exc:
            raise ControlUnavailable(f"the daemon at {path} went away: {exc.strerror or exc}") from exc
    if not answer.get("ok"):
        raise ControlRefused(answer.get("error", "refused"), answer.get("problems"))
    return answer


def _read_message(sock: socket.socket, deadline: float) -> Answer:
    (length,) = _LENGTH.unpack(_read_exactly(sock, _LENGTH.size, deadline))
    if length > ANSWER_MAX:
        raise _not_ours()
    body = _read_exactly(sock, length, deadline)
    try:
        answer = msgpack.unpackb(body)
    except (ValueError, msgpack.UnpackException):
        raise _not_ours() from None
    if not isinstance(answer, dict) or not isinstance(answer.get("error", ""), str):
        raise _not_ours()
    problems = answer.get("problems", [])
    if not isinstance(problems, list) or not all(isinstance(problem, str) for problem in problems):
        raise _not_ours()
    return cast(Answer, answer)


def _not_ours() -> ControlUnavailable:
    return ControlUnavailable("what answers at the control socket is not this version of hubtunnel")


def _read_exactly(sock: socket.socket, n: int, deadline: float) -> bytes:
    data = bytearray()
    while len(data) < n:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        sock.settimeout(left)
        chunk = sock.recv(min(n - len(data), 1 << 16))
        if not chunk:
            raise ConnectionResetError(None, "it closed the connection without an answer")
        data += chunk
    return bytes(data)


# --- the daemon's side ----------------------------------------------------------------------------------------


def bind(path: Path) -> socket.socket:
    """The listening socket, mode 0660; a file left by a daemon that died is replaced, a live one's is not.

    Raises `ControlUnavailable` with the cure.
    """
    check_path(path)
    _remove_stale(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    before = os.umask(0o117)
    try:
        sock.bind(os.fspath(path))
    except OSError as exc:
        sock.close()
        raise ControlUnavailable(
            f"{path}: the control socket cannot be made: {exc.strerror}; its folder must exist and be ours to write"
        ) from exc
    finally:
        os.umask(before)
    sock.setblocking(False)
    sock.listen(CONNECTIONS_MAX)
    return sock


def _remove_stale(path: Path) -> None:
    if not path.is_socket():
        if path.exists():
            raise ControlUnavailable(f"{path}: is not a socket; the control socket cannot be made there")
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as probe:
        try:
            probe.connect(os.fspath(path))
        except (ConnectionRefusedError, FileNotFoundError):
            with suppress(FileNotFoundError):
                path.unlink()
            return
        except OSError as exc:
            raise ControlUnavailable(f"{path}: {exc.strerror or exc}") from exc
    raise ControlUnavailable(f"{path}: another daemon runs with this configuration")


class ControlServer:
    """Answers requests with the handlers it was given, by command name."""

    def __init__(self, path: Path, handlers: Mapping[str, Handler]) -> None:
        self._path = path
        self._handlers = handlers
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Bind and serve. Raises `ControlUnavailable`."""
        self._server = await asyncio.start_unix_server(self._serve, sock=bind(self._path))

    async def stop(self) -> None:
        """Serve no more, let answers under way go out, remove the file."""
        if self._server is None:
            return
        self._server.close()
        with suppress(FileNotFoundError):
            self._path.unlink()
        others = {task for task in self._connections if task is not asyncio.current_task()}
        if others:
            _, late = await asyncio.wait(others, timeout=1.0)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = cast("asyncio.Task[None]", asyncio.current_task())
        self._connections.add(task)
        try:
            uid = _caller(writer.get_extra_info("socket"))
            if len(self._connections) > CONNECTIONS_MAX or uid is None:
                return
            answer = await self._answer(reader, uid)
            body = msgpack.packb(answer)
            writer.write(_LENGTH.pack(len(body)) + body)
            await asyncio.wait_for(writer.drain(), READ_TIMEOUT)
        except (OSError, EOFError, TimeoutError):
            return  # whoever asked is gone
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
            self._connections.discard(task)

    async def _answer(self, reader: asyncio.StreamReader, uid: int) -> Answer:
        try:
            asked = {**await asyncio.wait_for(_read_request(reader), READ_TIMEOUT), CALLER: uid}
            handler = self._handlers.get(asked["command"])
            if handler is None:
                return {"ok": False, "error": f"the running daemon knows no command {asked['command'][:40]!r}"}
            return {"ok": True, **await handler(asked)}
        except ConfigError as exc:
            return {"ok": False, "error": "the configuration has mistakes", "problems": exc.problems}
        except HubtunnelError as exc:
            return {"ok": False, "error": str(exc)}
        except (OSError, EOFError, TimeoutError, asyncio.CancelledError):
            raise
        except Exception:
            log.exception("control request failed")
            return {"ok": False, "error": "the daemon failed on this request; its log says how"}


async def _read_request(reader: asyncio.StreamReader) -> dict[str, Any]:
    (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
    if length > REQUEST_MAX:
        raise HubtunnelError("request too long")
    body = await reader.readexactly(length)
    try:
        asked = msgpack.unpackb(body)
    except (ValueError, msgpack.UnpackException):
        raise HubtunnelError("request is not msgpack") from None
    if not isinstance(asked, dict) or not all(isinstance(key, str) for key in asked):
        raise HubtunnelError("request is not a map")
    if not isinstance(asked.get("command"), str):
        raise HubtunnelError("request names no command")
    return asked


def _caller(sock: socket.socket) -> int | None:
    """The user who asks; None for one who may not."""
    pid, uid, _ = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    if uid in (0, os.geteuid()):
        return int(uid)
    event(log.warning, "control_refused", uid=uid, pid=pid)
    return None
