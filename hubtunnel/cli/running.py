"""`run`, and what asks a running daemon: `reload`, `stop`, `ping`."""

from __future__ import annotations

import argparse
import asyncio
import gc
import resource
import time
from collections.abc import Callable
from typing import Any

from hubtunnel.cli.common import DONE, add_json, load_readable, print_json
from hubtunnel.config import load
from hubtunnel.daemon.control import ControlRefused, ControlUnavailable, request
from hubtunnel.errors import ConfigError, UsageError
from hubtunnel.identity.state import State, StateLockedError

RELOAD_TIMEOUT = 120.0
PINGS_APART = 1.0
PINGS_MAX = 100_000
GONE_WITHIN = 10.0


def register(subparsers: Any) -> None:
    """Add the commands of this module."""
    run = subparsers.add_parser("run", help="the daemon, in the foreground", allow_abbrev=False)
    run.add_argument(
        "--loop", choices=("uvloop", "asyncio"), default="uvloop", help="event loop (default: %(default)s)"
    )
    # For the tests of this project alone: everybody has the private halves of those keys.
    run.add_argument("--allow-published-keys", action="store_true", help=argparse.SUPPRESS)
    run.set_defaults(run=_run)
    subparsers.add_parser(
        "reload", help="have the daemon take the configuration over, whole or not at all", allow_abbrev=False
    ).set_defaults(run=_reload)
    subparsers.add_parser(
        "stop", help="let running conversations end, then the daemon", allow_abbrev=False
    ).set_defaults(run=_stop)
    ping = subparsers.add_parser("ping", help="round trips through the tunnel", allow_abbrev=False)
    ping.add_argument("peer", metavar="PEER")
    ping.add_argument("-c", dest="count", metavar="N", type=int, default=4, help="how many (default: %(default)s)")
    add_json(ping)
    ping.set_defaults(run=_ping)


# --- the daemon -----------------------------------------------------------------------------------------------


def _run(args: argparse.Namespace) -> int:
    from hubtunnel.daemon import logs
    from hubtunnel.daemon.hub import Hub
    from hubtunnel.daemon.notify import Notifier
    from hubtunnel.identity.pins import load_hub

    config = load(args.config)
    logs.configure(config.log.format, config.log.level)
    _limit_process()
    with State.open(config.state, write=True) as state:
        published = args.allow_published_keys

        async def serve() -> None:
            notifier = Notifier()
            with notifier.alive(asyncio.get_running_loop()):
                await Hub(
                    config,
                    # Held by nobody else: keys that newer ones replace are not to lie in memory for the hub's life.
                    load_hub(config, state, allow_published=published),
                    state,
                    notifier=notifier,
                    allow_published=published,
                ).run()

        with asyncio.Runner(loop_factory=_loop_factory(args.loop)) as runner:
            runner.run(serve())
    return DONE


def _loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    if name == "asyncio":
        return asyncio.new_event_loop
    import uvloop

    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def _limit_process() -> None:
    """Keys stay in this process; as many descriptors as we may have, for each stream takes one."""
    from hubtunnel.daemon import memory

    memory.forbid_dumps()
    memory.lock()
    memory.shape_malloc()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    # What start-up made stays: the collector need not look at it again. What a conversation leaves behind are few and
    # small cycles, so that it need not look after every seven hundred objects either.
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


# --- asking it ------------------------------------------------------------------------------------------------


def _reload(args: argparse.Namespace) -> int:
    config = load_readable(args)
    try:
        answer = request(config.control_socket, "reload", timeout=RELOAD_TIMEOUT)
    except ControlRefused as exc:
        if exc.problems:
            raise ConfigError(exc.problems) from None
        raise
    said = [f"{len(answer[kind])} {kind}" for kind in ("added", "removed", "changed") if answer.get(kind)]
    print(f"reloaded: {', '.join(said) if said else 'no peer changed'}")
    if answer.get("later"):
        print(f"for sessions that begin from now on: {', '.join(answer['later'])}")
    return DONE


def _stop(args: argparse.Namespace) -> int:
    config = load_readable(args)
    answer = request(config.control_socket, "stop", timeout=config.session.drain + 30.0)
    deadline = time.monotonic() + GONE_WITHIN
    while not _state_is_free(config.state):
        if time.monotonic() > deadline:
            raise ControlUnavailable("the daemon has let its conversations end, but is still there")
        time.sleep(0.05)
    cut = int(answer.get("streams_cut", 0))
    print("stopped" if not cut else f"stopped; {cut} conversations had not ended in time and were broken off")
    return DONE


def _state_is_free(folder: Any) -> bool:
    """Whether the daemon has let go of the state: the last thing it does."""
    try:
        State.open(folder, write=True).close()
    except StateLockedError:
        return False
    return True


def _ping(args: argparse.Namespace) -> int:
    if not 1 <= args.count <= PINGS_MAX:
        raise UsageError(f"-c takes 1 to {PINGS_MAX}")
    config = load_readable(args)
    times: list[float] = []
    for number in range(args.count):
        if number:
            time.sleep(PINGS_APART)
        rtt = float(request(config.control_socket, "ping", peer=args.peer)["rtt_ms"])
        times.append(rtt)
        if not args.json:
            print(f"{args.peer}: {rtt:.3f} ms", flush=True)
    if args.json:
        print_json({"peer": args.peer, "rtt_ms": times})
    elif len(times) > 1:
        print(f"{len(times)} round trips: {min(times):.3f} / {sum(times) / len(times):.3f} / {max(times):.3f} ms")
    return DONE
