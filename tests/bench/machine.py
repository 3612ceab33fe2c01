"""On what it was measured, and with which versions."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from tests.e2e.processes import ENVIRONMENT, missing

_PYTHON_PACKAGES = ("cryptography", "uvloop", "pynacl", "msgspec")
_ASKED = {
    "haproxy": ("haproxy", "-v"),
    "stunnel": ("stunnel4", "-version"),
    "spiped": ("spiped", "-v"),
    "wireguard-go": ("wireguard-go", "--version"),
    "postfix": ("postconf", "-d", "-h", "mail_version"),
    "openssl": ("openssl", "version"),
}
_VERSION = re.compile(r"[0-9]+\.[0-9][-.0-9a-z+~]*")


def machine() -> dict[str, Any]:
    """CPU, memory, kernel, and how busy it is."""
    return {
        "cpus": os.cpu_count(),
        "cpu": _value("/proc/cpuinfo", "model name") or platform.machine(),
        "memory_mb": int(_value("/proc/meminfo", "MemTotal").split()[0]) // 1024,
        "kernel": platform.release(),
        "congestion_control": Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip(),
        # Of one minute and five: above the number of CPUs plus a little, somebody else was at work as well.
        "load_average": [round(load, 1) for load in os.getloadavg()[:2]],
    }


def versions() -> dict[str, str]:
    """Of everything that takes part and is installed."""
    found = {"hubtunnel": _commit(), "python": platform.python_version()}
    found |= {name: metadata.version(name) for name in _PYTHON_PACKAGES}
    for name, argv in _ASKED.items():
        if not missing(argv[:1]):
            done = subprocess.run(argv, capture_output=True, text=True, check=False, env=ENVIRONMENT)
            match = _VERSION.search(done.stdout + done.stderr)
            found[name] = match[0] if match else "unknown"
    return found


def command_line() -> str:
    """The command that measures this."""
    return " ".join(["python -m tests.bench", *sys.argv[1:]])


def _commit() -> str:
    version = metadata.version("hubtunnel")
    folder = Path(__file__).resolve().parents[2]
    argv = ["git", "-C", str(folder), "rev-parse", "--short", "HEAD"]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return version
    return f"{version} ({done.stdout.strip()})" if done.returncode == 0 else version


def _value(path: str, key: str) -> str:
    lines = Path(path).read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), "")
