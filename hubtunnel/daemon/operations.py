"""Changes to keys, asked for by a command or due by themselves: in force when they are answered.

What they change is taken up, and nothing else: an edit of the configuration waits for a reload. Only what goes with a
change of `peers.d` brings a reload of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from hubtunnel.config import Config, load
from hubtunnel.daemon.control import CALLER, Answer
from hubtunnel.daemon.logs import event, log
from hubtunnel.daemon.workers import Workers
from hubtunnel.errors import HubtunnelError
from hubtunnel.identity import operations
from hubtunnel.identity.caller import Caller
from hubtunnel.identity.state import State

SILENT = frozenset({"record", "signer"})  # change nothing that the daemon holds
ASKING = frozenset({"signer"})  # change nothing at all
WITH_FILES = frozenset({"repin"})  # belong to files of `peers.d` that their command has just written


class OperationRunner:
    """Runs operations one at a time, off the event loop, then has the daemon take the result over.

    `take_up` puts our own keys in force anew, `reload` everything. `lock` is the one that both hold, for all of them
    write the state; they, and `before`, which is given each operation that is about to run, are called without it.
    """

    def __init__(
        self,
        state: State,
        workers: Workers,
        lock: asyncio.Lock,
        config: Callable[[], Config],
        unix_time: Callable[[], float],
        take_up: Callable[[], Awaitable[Any]],
        reload: Callable[[], Awaitable[Any]],
        before: Callable[[str, Mapping[str, Any], Caller], Awaitable[None]],
    ) -> None:
        self._state = state
        self._workers = workers
        self._lock = lock
        self._config = config
        self._unix_time = unix_time
        self._take_up = take_up
        self._reload = reload
        self._before = before

    async def answer(self, asked: Mapping[str, Any]) -> Answer:
        """The control command `operation`: `name` and `arguments`."""
        arguments = asked.get("arguments")
        if not isinstance(arguments, dict):
            raise HubtunnelError("an operation needs its arguments")
        return {"result": await self.run(str(asked.get("name")), arguments, Caller.of(int(asked[CALLER])))}

    async def run(self, name: str, arguments: Mapping[str, Any], by: Caller) -> operations.Result:
        """Run one operation and put it in force. Raises `HubtunnelError`; then nothing has changed."""
        await self._before(name, arguments, by)
        async with self._lock:
            result = await self._workers.call(lambda: self._run(name, arguments, by))
        if name not in ASKING:
            log_result(name, by, result)
        if name in SILENT:
            return result
        try:
            await (self._reload() if name in WITH_FILES else self._take_up())
        except HubtunnelError as exc:
            text = f"done and kept, but the daemon could not take it over; cure this, then `hubtunnel reload`: {exc}"
            return {**result, "warnings": [*result["warnings"], text]}
        return result

    def _run(self, name: str, arguments: Mapping[str, Any], by: Caller) -> operations.Result:
        config = self._config()
        if name in WITH_FILES:  # for what the reload will take over: a mistake in it must be told before
            config = load(config.path)
        return operations.run(operations.Context(self._state, config, self._unix_time(), by), name, arguments)


def log_result(name: str, by: Caller, result: operations.Result) -> None:
    """One line for a change, with nothing secret: arguments may hold passphrases and keys, results never do."""
    fields = {"card": result.get("card"), "made": " ".join(key["id"] for key in result.get("made", []))}
    given = {key: value for key, value in fields.items() if value}
    event(log.info, "keys_changed", operation=name, user=by.name, **given)
    for deleted in result.get("deleted", []):
        event(log.info, "key_deleted", key=deleted["key"], why=deleted["why"])
    for warning in result["warnings"]:
        event(log.warning, "notice", text=warning)
