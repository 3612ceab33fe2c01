"""What `status` shows: one line a peer, those in trouble first, in whatever width and height there is."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from hubtunnel.daemon.cures import cure_of

_PEERS_CAUSES = {"unknown_hint", "bad_auth"}  # what a peer's greeting can be taken for (docs/LOG.md)
_COLOURS = {"up": "green", "stopped": "red", "draining": "yellow"}


def screen(status: dict[str, Any], width: int, height: int | None = None) -> RenderableType:
    """The answer of a daemon in `width` columns, and in at most `height` lines where one is given.

    Peers in trouble come first, so that what does not fit any more is what is well.
    """
    head = list(_head(status))
    peers = sorted(status["peers"], key=lambda peer: (peer["state"] == "up", peer["name"]))
    if not peers:
        return Group(*head, Text("no peers; `hubtunnel peer add CARD` adds one"))
    errors = [_error(peer) for peer in peers if peer["last_error"] is not None]
    shown = peers
    if height is not None:
        room = max(1, height - _lines(head, width) - 2)
        # A third for the errors: each says what to do, but a hundred peers behind one dead line say the same.
        errors = _fitting(errors, width, room // 3)
        shown = peers[: max(1, room - _lines(errors, width) - 1)]
    parts: list[RenderableType] = [*head, _table(shown, width)]
    if len(shown) < len(peers):
        rest = peers[len(shown) :]
        up = sum(peer["state"] == "up" for peer in rest)
        parts.append(Text(f"and {len(rest)} more: {up} up, {len(rest) - up} not", style="dim"))
    return Group(*parts, *errors)


def _head(status: dict[str, Any]) -> Iterable[Text]:
    peers = status["peers"]
    up = sum(peer["state"] == "up" for peer in peers)
    line = Text.assemble(
        (status["hub"], "bold"),
        "  ",
        (f"{up} of {len(peers)} peers up", "green" if up == len(peers) else "yellow"),
        f"  running {span(status['uptime_s'])}"
        f"  card {status['card']}"
        f"  {size(status['memory_bytes'])} of {size(status['memory']['limit'])} in buffers"
        f"  version {status['version']}{' (compiled)' if status.get('compiled') else ''}  pid {status['pid']}",
    )
    if status["draining"]:
        line.append("  stopping", "yellow")
    yield line
    yield Text(f"fingerprint {status['fingerprint']}")
    causes = status["strangers"]["causes"]
    if causes:
        yield _strangers(status["strangers"])
    yield _limits(status["limits"])
    for listener in status["deliver"]:
        if listener["state"] == "failing":
            text = f"mail server at {listener['address']} fails since {listener['since']}: {listener['text']}"
            yield Text(text, "red")
    for warning in status["warnings"]:
        yield Text(f"warning: {warning}", style="yellow")


def _strangers(strangers: dict[str, Any]) -> Text:
    """How many were left without an answer; where that may be a peer, what to compare with it."""
    causes = strangers["causes"]
    line = Text("no answer given: " + ", ".join(f"{count} {cause}" for cause, count in sorted(causes.items())))
    latest = next(iter(strangers.get("sources", ())), None)
    if latest is not None:
        line.append(f"; the last to {latest['network']} at {latest['last']}")
        if not _PEERS_CAUSES.isdisjoint(latest["causes"]):
            line.append(
                f"\n  if a peer comes from {latest['network']}: it may hold another card of ours than we have"
                " (`hubtunnel peer show` there), we may hold another identity of it (`peer show` here), one of us may"
                " have a pre-shared key alone, or a clock is off by an hour",
                "yellow",
            )
    return line


# Title, the columns that a terminal must have for it to be shown, whether it is a figure, what stands in it.
_COLUMNS: tuple[tuple[str, int, bool, Callable[[dict[str, Any]], str | Text]], ...] = (
    ("PEER", 0, False, lambda peer: peer["name"] + (" (testing)" if peer["mode"] == "testing" else "")),
    ("STATE", 0, False, lambda peer: Text(peer["state"], style=_COLOURS.get(peer["state"], "yellow"))),
    ("CARRIER", 100, False, lambda peer: _carrier(peer)),
    ("RTT", 70, True, lambda peer: _rtt(peer)),
    ("STREAMS", 50, True, lambda peer: str(peer["streams"]["open"])),
    ("MAIL IN", 70, True, lambda peer: size(peer["mail_bytes"]["in"])),
    ("MAIL OUT", 70, True, lambda peer: size(peer["mail_bytes"]["out"])),
    ("SESSION", 100, True, lambda peer: span(peer["session"]["age_s"]) if peer["session"] else "-"),
    ("EPOCH", 100, True, lambda peer: str(peer["session"]["epoch"]) if peer["session"] else "-"),
    ("KEYS UNTIL", 100, False, lambda peer: _keys_end(peer)),
)


def _limits(limits: dict[str, dict[str, int]]) -> Text:
    line = Text("limits:")
    for name, limit in limits.items():
        if name != "memory" or limit["refused"]:  # how much it holds stands above
            line.append(f"  {name} {limit['used']}/{limit['bound']}")
        if limit["refused"]:
            line.append(f" ({limit['refused']} refused)", "yellow")
    return line


def _table(peers: list[dict[str, Any]], width: int) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    shown = [column for column in _COLUMNS if width >= column[1]]
    for title, _, figure, _ in shown:
        fold = title in ("PEER", "CARRIER")
        table.add_column(title, justify="right" if figure else "left", no_wrap=not fold, overflow="fold")
    for peer in peers:
        cells = [cell(peer) for _, _, _, cell in shown]
        table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in cells))  # never markup
    return table


def _carrier(peer: dict[str, Any]) -> str:
    return ", ".join(f"{each['endpoint']} {span(each['age_s'])}" for each in peer["carriers"][:1]) or "-"


def _rtt(peer: dict[str, Any]) -> str:
    rtt = peer["carriers"][0]["rtt_ms"] if peer["carriers"] else None
    return "-" if rtt is None else f"{rtt:.1f} ms"


def _keys_end(peer: dict[str, Any]) -> str:
    keys = peer["link_key"]
    return min(keys["ours"]["end"], keys["theirs"]["end"])[:10] if keys else "-"


def _error(peer: dict[str, Any]) -> Text:
    """The last error of a peer. One that is over is history, one that holds mail back says what to do."""
    error = peer["last_error"]
    line = f"{peer['name']}: {error['at']} {error['code']}: {error['text']}"
    if error.get("over", peer["state"] == "up" and error["code"] != "auth"):
        return Text(f"{line} (over)", style="dim")
    return Text(
        f"{line}\n  what to do: {cure_of(error['code'], error['text'])}", style="red" if error["code"] == "auth" else ""
    )


def _fitting(parts: list[Text], width: int, height: int) -> list[Text]:
    """As many of `parts`, from the first, as fit; one at least."""
    kept: list[Text] = []
    for part in parts:
        if kept and _lines([*kept, part], width) > height:
            break
        kept.append(part)
    return kept


def _lines(parts: Iterable[Text], width: int) -> int:
    """How many lines texts take when folded."""
    measure = Console(width=width, height=1000)
    return sum(len(part.wrap(measure, width)) for part in parts)


def span(seconds: float) -> str:
    """A time in its greatest unit, rounded down."""
    whole = int(seconds)
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if whole >= length:
            return f"{whole // length}{unit}"
    return f"{whole}s"


def size(count: int) -> str:
    """Bytes in a unit that keeps the number short."""
    amount = float(count)
    for unit in ("B", "KiB", "MiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} GiB"
