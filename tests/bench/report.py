"""docs/BENCHMARKS.md and its plots, made from a kept result; nothing in it is written by hand but notes.md."""

from __future__ import annotations

from pathlib import Path

from tests.bench import features, plots
from tests.bench.kept import Result
from tests.bench.loads import BULK, MAIL, Batch, Crowded, Delivery, RoundTrips
from tests.bench.mtas import PATHS
from tests.bench.pairs import PAIRS, REFERENCE
from tests.bench.samples import Samples, Spread
from tests.bench.targets import COMPILED, OURS, TARGETS

DOCS = Path(__file__).resolve().parents[2] / "docs"
NOTES = Path(__file__).with_name("notes.md")
_PLOTS = "benchmarks"

_UNITS = {
    "messages_per_s": "messages/s",
    "cpu_per_message_us": "CPU µs/message",
    "mb_per_s": "MB/s",
    "cpu_per_gb_s": "CPU s/GB",
    "p50_us": "median µs",
    "p99_us": "p99 µs",
    "idle_p50_ms": "idle median ms",
    "idle_p99_ms": "idle p99 ms",
    "busy_p50_ms": "busy median ms",
    "busy_p99_ms": "busy p99 ms",
    "round_trips": "round trips",
    "arrived": "all arrived in time (1: yes)",
    "resident_mb": "memory MB",
    "first_resident_mb": "memory MB after the first contact",
    "per_stream_kb": "an idle stream KB",
    "start_ms": "start-up ms",
    "handshakes_per_s": "handshakes/s",
    "first_start_s": "first start, listens after s",
    "start_s": "listens after s",
    "dialled_up_s": "then sessions with those that it dials after s",
    "up_s": "and with all after s",
    "idle_cpu_percent": "idle CPU %",
    "cpu_s": "CPU s so far",
    "whole_us": "whole, CPU µs",
    "without_us": "without it, CPU µs",
    "costs_us": "it costs µs",
    "step_us": "CPU µs of both ends",
    "stop_s": "stops within s (at 5 s it was asked again)",
}
_RATIOS = ("messages_per_s", "cpu_per_message_us", "mb_per_s", "cpu_per_gb_s", "p50_us")
"""Values whose ratio to the reference stands beside them."""

_TITLES = {
    "mail": "Mail",
    "bulk": "Bulk",
    "latency": "Idle round trips",
    "crowded": "Small replies beside large mails, 100 Mbit/s with a queue of 20 ms",
    "delivery": "One message at a distance of 100 ms",
    "costs": "Memory and start-up",
    "features": "What features cost",
    "mtas": "From MTA to MTA",
    "scale": "Many peers",
}
_SCALE_TITLES = {
    "configured": "peers configured, none of them there",
    "connected": "peers configured, all of them connected",
    "full": "connected of five times as many configured, mail to 20 of them",
    "restart": "connected, after a restart of the hub",
    "streams": "idle streams, while mail goes to 20 peers",
}


def write(result: Result) -> list[Path]:
    """The page and its plots; the paths of all that was written."""
    drawn = plots.draw(result.samples, DOCS / _PLOTS)
    page = DOCS / "BENCHMARKS.md"
    lines = [
        "# Benchmarks",
        "",
        "Everything below was measured in one run, all pairs interleaved, and this page is written from its figures by "
        "`python -m tests.bench report`. A figure is the median over the rounds, with the least and the most in "
        "brackets. Absolute figures belong to this machine on this day; the ratios, which are taken within each round "
        "before their median is, are what to compare.",
        "",
        *_head(result),
        "",
        *_short(result),
        "## Targets",
        "",
        *_targets(result.samples),
        "",
        NOTES.read_text().strip(),
        "",
        *tables(result.samples, [path.stem for path in drawn]),
        *_skipped(result.skipped),
        *_legend(),
    ]
    page.write_text("\n".join(lines).rstrip() + "\n")
    return [page, *drawn]


def tables(samples: Samples, drawn: list[str] | None = None) -> list[str]:
    """All samples as tables in Markdown, with the plots that were drawn."""
    lines: list[str] = []
    for part in samples.parts():
        lines += [f"## {_TITLES.get(part, part.capitalize())}", ""]
        if part in (drawn or []):
            lines += [f"![{part}]({_PLOTS}/{part}.svg)", ""]
        for load in samples.loads(part):
            table = _curve(samples, load) if part == "scale" else _table(samples, part, load)
            lines += [f"{_load_text(load)}:", "", *table, ""]
    return lines


def _head(result: Result) -> list[str]:
    machine, versions = result.head["machine"], result.head["versions"]
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    return [
        f"- **machine** {machine['cpus']} cores of {machine['cpu']}, {machine['memory_mb']} MB, "
        f"Linux {machine['kernel']} with TCP's {machine['congestion_control']}",
        f"- **versions** {listed}",
        f"- **when** {result.head['at']}, load average before it {machine['load_average'][0]}",
        f"- **command** `{result.head['command']}`, as root; it took {result.head['seconds']} s. "
        "`python -m tests.bench install` fetches what it needs on a Debian 12",
    ]


def _short(result: Result) -> list[str]:
    if "--share" not in result.head["command"]:
        return []
    return ["**A short run, to try the benchmark out: figures from so little, on a busy machine, mean little.**", ""]


def _targets(samples: Samples) -> list[str]:
    rows = []
    for target in TARGETS:
        sign = "≤" if target.at_most else "≥"
        row = [target.what, f"{sign} {target.wanted:g} {target.unit}"]
        for pair in (OURS, COMPILED):
            value, verdict = target.judge(samples, pair)
            row += [_shown(value), "" if value is None and pair == COMPILED else verdict]
        rows.append(row)
    return _markdown(["what", "wanted", "measured", "", "compiled", ""], rows)


def _table(samples: Samples, part: str, load: str) -> list[str]:
    names = samples.names(part, load)
    reference = next(
        (name for name in (REFERENCE, "direct", "clear", features.DEFAULTS) if name in samples.pairs(part)), REFERENCE
    )
    header = ["part" if load in features.LOADS else "pair"]
    for name in names:
        header += [_UNITS.get(name, name), *([f"× {reference}"] if name in _RATIOS else [])]
    rows = []
    for pair in samples.pairs(part):
        row = [f"**{pair}**" if pair == OURS else pair]
        for name in names:
            row.append(_shown(samples.figure(part, load, pair, name)))
            if name in _RATIOS:
                row.append(_shown(samples.ratio(part, load, pair, reference, name)))
        if any(cell != "-" for cell in row[1:]):
            rows.append(row)
    return _markdown(header, rows)


def _curve(samples: Samples, load: str) -> list[str]:
    names = samples.names("scale", load)
    places = sorted({x for name in names for x, _ in samples.curve("scale", load, name)})
    curves = {name: dict(samples.curve("scale", load, name)) for name in names}
    rows = [[str(x), *(_number(curves[name][x]) if x in curves[name] else "-" for name in names)] for x in places]
    return _markdown(["", *(_UNITS.get(name, name) for name in names)], rows)


def _skipped(skipped: dict[str, str]) -> list[str]:
    if not skipped:
        return []
    return ["## Not measured", "", *(f"- {what}: {why}" for what, why in skipped.items()), ""]


def _legend() -> list[str]:
    entries = {**{pair.name: pair.text for pair in PAIRS.values()}, **PATHS, **features.TEXTS}
    entries["starttls"] += "; in the table of one message, smtplib to an SMTP server with TLS 1.3"
    return ["## Pairs", "", *(f"- **{name}** {text}" for name, text in entries.items())]


def _load_text(load: str) -> str:
    every = (*MAIL, *BULK, RoundTrips(), Crowded(), Delivery(1.0), Batch())
    texts = {one.name: one.text for one in every} | _SCALE_TITLES | features.LOADS
    text = texts.get(load, load)
    return text[0].upper() + text[1:]


def _shown(value: Spread | None) -> str:
    if value is None:
        return "-"
    if value.count == 1:
        return _number(value.median)
    return f"{_number(value.median)} ({_number(value.least)}-{_number(value.most)})"


def _number(value: float) -> str:
    """Three digits that count."""
    if value == 0:
        return "0"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _markdown(header: list[str], rows: list[list[str]]) -> list[str]:
    aligned = ["---", *("---:" for _ in header[1:])]
    return [f"| {' | '.join(cells)} |" for cells in (header, aligned, *rows)]
