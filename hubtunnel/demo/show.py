"""What the demo looks like: a line a step, a bar while mail moves, and the table at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.table import Table
from rich.text import Text

from hubtunnel.demo.proofs import Report, amount, many

Advance = Callable[[int], None]
"""Called with a number of bytes that arrived."""


class Show:
    """Tells people what the demo does; says nothing when made with `quiet`, for programs."""

    def __init__(self, console: Console | None = None, *, quiet: bool = False) -> None:
        self.console = console or Console(highlight=False)
        self._quiet = quiet

    def step(self, text: str) -> None:
        """A new step begins."""
        if not self._quiet:
            self.console.print(f"[bold]-[/] {text}")

    @contextmanager
    def meter(self, text: str, total: int) -> Iterator[Advance]:
        """A step that moves `total` bytes of mail: a bar on a terminal, a line elsewhere."""
        if self._quiet or not self.console.is_terminal:
            self.step(text)
            yield lambda size: None
            return
        columns = (
            TextColumn("[bold]-[/] {task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
        )
        with Progress(*columns, console=self.console) as progress:
            task = progress.add_task(text, total=total)
            yield lambda size: progress.advance(task, size)

    def table(self, report: Report) -> None:
        """What was proved, a row a claim with its evidence, and the sum of it."""
        if self._quiet:
            return
        table = Table(show_lines=True)
        table.add_column("")
        table.add_column("What was claimed", max_width=28)
        table.add_column("What this run showed")
        for proof in report.proofs:
            mark = "[bold green]proved[/]" if proof.proved else "[bold red]NOT PROVED[/]"
            table.add_row(mark, Text(proof.claim), Text(proof.evidence))
        self.console.print()
        self.console.print(table)
        held = sum(proof.proved for proof in report.proofs)
        self.console.print(
            f"{held} of {len(report.proofs)} proved: {many(report.identical, 'message')} of {report.messages:,} arrived"
            f" identical ({amount(report.bytes)}), in {report.seconds:.1f} s."
        )
