"""What a run by command found, kept as a file in `results/`."""

from __future__ import annotations

import datetime
import json
import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.mta.lab import Site

RESULTS = Path(__file__).parent / "results"
PACKAGES = {
    "postfix": "postfix",
    "exim-heavy": "exim4-daemon-heavy",
    "exim-light": "exim4-daemon-light",
    "opensmtpd": "opensmtpd",
    "sendmail": "sendmail-bin",
    "courier": "courier-mta",
}


def version_of(site: Site) -> str:
    """Of the mail server, as Debian counts it."""
    return site.machine.run("dpkg-query", "-W", "-f", "${Version}", PACKAGES[site.server.name])


def keep(out: Path, began: float, versions: Mapping[str, str], found: Mapping[str, Any]) -> int:
    """Write it down; the whole seconds that it took since `began`, of the monotonic clock."""
    seconds = round(time.monotonic() - began)
    result = {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "system": Path("/etc/debian_version").read_text().strip() + " " + platform.machine(),
        "versions": versions,
        **found,
        "seconds": seconds,
    }
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")
    return seconds
