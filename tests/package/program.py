"""This checkout's `hubtunnel` as a program of a machine: the interpreter of the tests, its packages, the sources.

All three are bound in below /opt, since the unit hides /home and /root, where checkouts and interpreters like to live.
"""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

from tests.e2e.hubs import ROOT
from tests.mta.machines import in_every_root
from tests.package.booted import Machine

_HERE = "/opt/hubtunnel-test"
PROGRAM = "/usr/bin/hubtunnel"


def binds() -> dict[Path, str]:
    """Folder of this system -> where the machine has it."""
    found = {ROOT: f"{_HERE}/tree", Path(sysconfig.get_path("purelib")): f"{_HERE}/packages"}
    if not in_every_root(Path(sys.base_prefix)):
        found[Path(sys.base_prefix)] = f"{_HERE}/python"
    return found


def install(machine: Machine) -> None:
    """Put the command where the unit looks for it."""
    interpreter = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    if not in_every_root(Path(sys.base_prefix)):
        interpreter = Path(f"{_HERE}/python", interpreter.relative_to(sys.base_prefix))
    program = machine.path(PROGRAM)
    program.unlink(missing_ok=True)
    program.write_text(
        "#!/bin/sh\n"
        f"export PYTHONPATH={_HERE}/tree:{_HERE}/packages PYTHONDONTWRITEBYTECODE=1\n"
        f"export LD_LIBRARY_PATH={_HERE}/python/lib\n"
        f'exec {interpreter} -P -s -m hubtunnel "$@"\n'
    )
    program.chmod(0o755)
