"""From samples to figures, ratios, verdicts and the page: on figures made up so that the right result is known."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.bench import report
from tests.bench.kept import as_json, read
from tests.bench.loads import percentiles
from tests.bench.runs import Notebook
from tests.bench.samples import Sample, Samples
from tests.bench.targets import COMPILED, TARGETS, Target, Verdict, per_peer_kb

HEAD = {
    "at": "2026-01-02T03:04:05Z",
    "machine": {
        "cpus": 2,
        "cpu": "a CPU",
        "memory_mb": 1000,
        "kernel": "6",
        "congestion_control": "cubic",
        "load_average": [0.1, 0.2],
    },
    "versions": {"hubtunnel": "0"},
    "command": "python -m tests.bench all",
    "seconds": 7,
}


def mail(number: int, pair: str, rate: float) -> Sample:
    return Sample("mail", "new", pair, number, {"messages_per_s": rate})


def latency(pair: str, p50: float) -> Sample:
    return Sample("latency", "noop", pair, 0, {"p50_us": p50})


def named(what: str, unit: str) -> Target:
    (target,) = (target for target in TARGETS if target.what == what and target.unit == unit)
    return target


def test_ratios_are_taken_within_a_round() -> None:
    """Where the whole machine slows down from round to round, the ratio stays what it is."""
    samples = Samples(
        tuple(mail(n, pair, 1000 * rate / (n + 1)) for n in range(3) for pair, rate in (("haproxy", 1), ("ours", 2)))
    )

    ratio = samples.ratio("mail", "new", "ours", "haproxy", "messages_per_s")
    figure = samples.figure("mail", "new", "ours", "messages_per_s")

    assert ratio is not None
    assert (ratio.median, ratio.least, ratio.most, ratio.count) == (2.0, 2.0, 2.0, 3)
    assert figure is not None
    assert (figure.median, figure.least, figure.most) == (1000.0, 2000 / 3, 2000.0)


def test_a_round_without_the_other_pair_gives_no_ratio() -> None:
    samples = Samples((mail(0, "haproxy", 10), mail(1, "ours", 10)))

    assert samples.ratio("mail", "new", "ours", "haproxy", "messages_per_s") is None


def test_cpu_time_below_a_tick_gives_no_ratio() -> None:
    samples = Samples((mail(0, "haproxy", 0.0), mail(0, "ours", 10)))

    assert samples.ratio("mail", "new", "ours", "haproxy", "messages_per_s") is None


def test_percentiles_are_values_that_were_seen() -> None:
    assert percentiles([float(n) for n in range(101)]) == (50.0, 99.0)
    assert percentiles([7.0]) == (7.0, 7.0)


@pytest.mark.parametrize(("ours", "verdict"), [(40.0, Verdict.REACHED), (41.0, Verdict.MISSED)])
def test_added_latency_is_without_what_the_direct_way_takes(ours: float, verdict: Verdict) -> None:
    """HAProxy adds 20 µs to 10, so we may add 30."""
    samples = Samples((latency("direct", 10), latency("haproxy-tls", 30), latency("hubtunnel", ours)))

    value, found = named("added latency of an idle SMTP round trip, median", "× HAProxy TLS").judge(samples)

    assert value is not None
    assert value.median == pytest.approx((ours - 10) / 20)
    assert found is verdict


def test_each_of_our_pairs_is_judged_by_its_own_samples() -> None:
    others = (latency("direct", 10), latency("haproxy-tls", 30))
    samples = Samples((*others, latency("hubtunnel", 50), latency("hubtunnel-compiled", 20)))
    target = named("added latency of an idle SMTP round trip, median", "× HAProxy TLS")

    assert target.judge(samples)[1] is Verdict.MISSED
    assert target.judge(samples, COMPILED)[1] is Verdict.REACHED


def test_what_was_not_measured_is_no_success() -> None:
    assert {target.judge(Samples(()))[1] for target in TARGETS} == {Verdict.UNKNOWN}


def test_memory_of_a_peer_is_the_slope() -> None:
    points = [Sample("scale", "connected", "hubtunnel", x, {"resident_mb": 50 + 0.03 * x}) for x in (50, 100, 200)]

    value = per_peer_kb(Samples(tuple(points)))

    assert value is not None
    assert value.median == pytest.approx(30)


def test_the_page_says_what_the_file_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the kept JSON to the page and back to its words; a part that was skipped is named with its reason."""
    monkeypatch.setattr(report, "DOCS", tmp_path)
    monkeypatch.setattr("tests.bench.plots.draw", lambda samples, folder: [])
    notebook = Notebook()
    for number in range(3):
        notebook.write(mail(number, "haproxy", 100))
        notebook.write(mail(number, "hubtunnel", 111))
    notebook.skipped["mail: spiped"] = "not installed: spiped"
    path = tmp_path / "bench.json"
    path.write_text(json.dumps(as_json(notebook, HEAD)))

    report.write(read(path))
    text = (tmp_path / "BENCHMARKS.md").read_text()

    assert "| **hubtunnel** | 111 (111-111) | 1.11 (1.11-1.11) |" in text
    assert "| ≥ 1.1 × HAProxy plain | 1.11 (1.11-1.11) | reached |" in text
    assert "- mail: spiped: not installed: spiped" in text
    assert "`python -m tests.bench all`" in text
    path.write_text('{"schema": 1}')
    with pytest.raises(SystemExit, match="schema"):
        read(path)
