"""What the benchmark needs beside the project's own packages: `python -m tests.bench install` fetches it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.bench import compiled

PACKAGES = (
    *("postfix", "haproxy", "stunnel4", "spiped"),
    *("wireguard-go", "wireguard-tools", "iproute2", "openssl"),
    *("gcc", "python3-dev"),
)
INSTALL = f"apt-get install --no-install-recommends {' '.join(PACKAGES)}"
_POLICY = Path("/usr/sbin/policy-rc.d")
_LOCK = Path(__file__).resolve().parents[2] / "contrib/requirements-bench.lock"


def install() -> None:
    """By apt, as root, and by pip into this interpreter; compile. Raises CalledProcessError when one of them fails."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    with _no_services():
        for command in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", *PACKAGES]):
            subprocess.run(["apt-get", *command], check=True, env=environment)
    # The packages of the extra `bench`, not the project with them: an editable install of that stays what it is.
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "install", "--require-hashes", "-r", str(_LOCK)], check=True)
    compiled.build()


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
