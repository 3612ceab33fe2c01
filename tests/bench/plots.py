"""Plots of a result, as SVG that is the same for the same figures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench.pairs import REFERENCE
from tests.bench.samples import Samples
from tests.bench.targets import OURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_OURS, _OTHERS = "#b3261e", "#7a8896"
_INCHES = (9.0, 3.4)


def draw(samples: Samples, folder: Path) -> list[Path]:
    """One file for each part that has a plot and was measured. Raises SystemExit without matplotlib."""
    try:
        import matplotlib as mpl
    except ImportError:
        raise SystemExit("the plots need matplotlib: python -m tests.bench install") from None
    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": "hubtunnel", "svg.fonttype": "none", "font.size": 9, "axes.spines.top": False})
    mpl.rcParams["axes.spines.right"] = False
    from matplotlib.figure import Figure

    folder.mkdir(exist_ok=True)
    written = []
    for part, panels in _PLOTS.items():
        if part not in samples.parts():
            continue
        figure = Figure(figsize=_INCHES, layout="constrained")
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
        for axis, panel in zip(axes, panels, strict=True):
            panel(axis, samples)
        path = folder / f"{part}.svg"
        figure.savefig(path, metadata={"Date": None})
        written.append(path)
    return written


def _bars(part: str, load: str, value: str, title: str, reference: str | None) -> Callable[[Axes, Samples], None]:
    """A bar for each pair with its spread; as ratio to a reference where there is one."""

    def panel(axis: Axes, samples: Samples) -> None:
        names, medians, below, above = [], [], [], []
        for pair in reversed(samples.pairs(part)):
            if reference is None:
                figure = samples.figure(part, load, pair, value)
            else:
                figure = samples.ratio(part, load, pair, reference, value)
            if figure is not None:
                names.append(pair)
                medians.append(figure.median)
                below.append(figure.median - figure.least)
                above.append(figure.most - figure.median)
        colours = [_OURS if name.startswith(OURS) else _OTHERS for name in names]
        axis.barh(names, medians, xerr=[below, above], color=colours, error_kw={"elinewidth": 0.8})
        axis.set_title(title)
        if reference is not None:
            axis.axvline(1.0, color="black", linewidth=0.6)

    return panel


def _line(load: str, value: str, title: str, across: str) -> Callable[[Axes, Samples], None]:
    def panel(axis: Axes, samples: Samples) -> None:
        points = samples.curve("scale", load, value)
        axis.plot([x for x, _ in points], [y for _, y in points], marker="o", color=_OURS)
        axis.set_title(title)
        axis.set_xlabel(across)
        axis.set_ylim(bottom=0)
        axis.set_xlim(left=0)

    return panel


_PLOTS: dict[str, tuple[Callable[[Axes, Samples], None], ...]] = {
    "mail": (
        _bars("mail", "new", "messages_per_s", "a connection each, × HAProxy plain", REFERENCE),
        _bars("mail", "kept", "messages_per_s", "connections kept, × HAProxy plain", REFERENCE),
    ),
    "bulk": (
        _bars("bulk", "one", "mb_per_s", "one stream, MB/s", None),
        _bars("bulk", "sixteen", "mb_per_s", "16 streams, MB/s", None),
    ),
    "latency": (_bars("latency", "noop", "p50_us", "a NOOP, median µs", None),),
    "crowded": (
        _bars("crowded", "crowded", "idle_p99_ms", "a NOOP alone, p99 ms", None),
        _bars("crowded", "crowded", "busy_p99_ms", "beside 25 MB mails, p99 ms", None),
    ),
    "delivery": (_bars("delivery", "delivery", "round_trips", "round trips until the last 250", None),),
    "scale": (
        _line("connected", "resident_mb", "memory MB", "peers connected"),
        _line("configured", "start_s", "listens after s", "peers configured"),
        _line("connected", "idle_cpu_percent", "idle CPU %", "peers connected"),
        _line("streams", "resident_mb", "memory MB", "idle streams"),
    ),
}
