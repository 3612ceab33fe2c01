"""One run from beginning to end: the stage, the proofs, and, where asked for, the hubs left up to be tried by hand."""

from __future__ import annotations

import asyncio
import json
import signal
import sys

import uvloop

from hubtunnel.demo.scenario import prove, start
from hubtunnel.demo.show import Show
from hubtunnel.demo.stage import Stage, set_up


def play(*, keep: bool, as_json: bool) -> bool:
    """Run the demo; whether everything was proved. With `as_json` the report is the only thing on stdout.

    SIGINT, SIGTERM and SIGHUP end it early, with everything cleaned up, by raising KeyboardInterrupt.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_play(keep=keep, as_json=as_json))


async def _play(*, keep: bool, as_json: bool) -> bool:
    task = asyncio.current_task()
    assert task is not None
    stopped: list[signal.Signals] = []

    def stop(number: signal.Signals) -> None:
        stopped.append(number)
        task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop, number)
    show = Show(quiet=as_json)
    try:
        async with set_up() as stage:
            report = await prove(stage, show)
            show.table(report)
            if as_json:
                print(json.dumps(report.as_json(), indent=2), flush=True)  # noqa: T201
            if keep:
                await _stay(stage)
    except asyncio.CancelledError:
        if stopped:
            raise KeyboardInterrupt from None
        raise
    return report.ok


async def _stay(stage: Stage) -> None:
    """Bring both hubs up again, say how to send a message and where it lands, and report each until interrupted."""
    mail = stage.folder / "mail"
    stage.far.sink.keep_in = mail
    await stage.near.hub.stop()  # a fresh one dials at once, however often its carriers were cut
    await start(stage, Show(quiet=True))
    _say(
        f"""
Both hubs stay up. Send a message by hand:

  python3 -c 'import smtplib; smtplib.SMTP("127.0.0.1", {stage.near.hub.submit}).sendmail(\
"you@near.example", "friend@far.example", "Subject: by hand\\n\\nHello.\\n")'

or speak SMTP yourself:  nc 127.0.0.1 {stage.near.hub.submit}
What arrives lands in    {mail}
Look at the near hub:    {sys.executable} -m hubtunnel --config {stage.near.hub.config} status
Recorded carriers:       {stage.folder / "carriers"}

Ctrl-C ends it and removes all of this."""
    )
    while True:
        path = await stage.far.sink.kept.get()
        _say(f"arrived: {path}")


def _say(text: str) -> None:
    """On stderr, since stdout may hold a report for a program."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201
