"""What the benchmark needs beside the project's own packages: `python -m tests.bench install` fetches it."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PACKAGES = (
    *("postfix", "haproxy", "stunnel4", "spiped"),
    *("wireguard-go", "wireguard-tools", "iproute2", "openssl"),
)
INSTALL = f"apt-get install --no-install-recommends {' '.join(PACKAGES)}"
_POLICY = Path("/usr/sbin/policy-rc.d")
_ROOT = Path(__file__).resolve().parents[2]


def install() -> None:
    """By apt, as root, and by pip into this interpreter. Raises CalledProcessError when either fails."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    with _no_services():
        for command in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", *PACKAGES]):
            subprocess.run(["apt-get", *command], check=True, env=environment)
    # The packages of the extra, not the project with it: an editable install of that stays what it is.
    extras = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *extras["bench"]], check=True)


@contextmanager
def _no_services() -> Iterator[None]:
    """Debian starts what it installs; a benchmark wants the programs, not the services."""
    if _POLICY.exists():
        yield
        return
    _POLICY.write_text("#!/bin/sh\nexit 101\n")
    _POLICY.chmod(0o755)
    try:
        yield
    finally:
        _POLICY.unlink()
