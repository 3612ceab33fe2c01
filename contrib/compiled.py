"""Compiles what every message goes through into the wheel, for packagers who want it (docs/OPERATING.md, "Compiled").

Hatchling runs this where HATCH_BUILD_HOOKS_ENABLE=1 is set, and never otherwise: without a C compiler hubtunnel is
complete, only slower. mypyc makes C of the very modules that are type checked and tested; their sources stay beside
what it makes, so that a traceback can show its lines. Nothing is written into the checkout, where a library made once
would go on to run instead of the sources that were changed since.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PACKAGE = "hubtunnel"
# What every message goes through: the protocol core, and the daemon's way from one socket to the other. Handshakes,
# cards and the key schedule spend their time in `cryptography`. Beyond mypyc are classes that `dataclass` makes anew
# for their slots, as those of events and settings, and classes below one that is not compiled.
MODULES = (
    "daemon/carrier",
    "daemon/delivery",
    "daemon/link",
    "daemon/local",
    "daemon/relay",
    "protocol/bytestream",
    "protocol/carrier",
    "protocol/clock",
    "protocol/dispatch",
    "protocol/frames",
    "protocol/link",
    "protocol/mux",
    "protocol/ratchet",
    "protocol/records",
    "protocol/rivals",
    "protocol/session",
    "protocol/stepping",
    "protocol/streams",
    "protocol/wire",
)
# Only what cannot be compiled is reported: types are checked elsewhere, and strictly. pyproject.toml is not read.
OPTIONS = ("--config-file=", "--follow-imports=silent", "--ignore-missing-imports")
# No debugging information: it would name the place of the build, and weighs more than the code.
ENVIRONMENT = {"MYPYC_OPT_LEVEL": "3", "MYPYC_DEBUG_LEVEL": "0"}


class Compiled(BuildHookInterface):  # type: ignore[type-arg]  # of whatever builder asks
    """Adds the libraries to a wheel, which is then for one series of Python and one kind of machine."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile. An editable install stays as its sources are. Raises RuntimeError with what mypyc said."""
        if version == "editable":
            return
        self._scratch = tempfile.TemporaryDirectory(prefix="hubtunnel-")
        scratch = Path(self._scratch.name)
        self.app.display_info(f"compiling {len(MODULES)} modules of {PACKAGE}")
        try:
            made = compiled(Path(self.root), scratch)
        except BaseException:
            self._scratch.cleanup()
            raise
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
        build_data["force_include"].update({str(path): str(path.relative_to(scratch)) for path in made})

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """The libraries are in the wheel."""
        if version == "editable":
            return
        self._scratch.cleanup()


def compiled(root: Path, scratch: Path) -> list[Path]:
    """The libraries of the sources in `root`, where they belong under `scratch`. Raises RuntimeError."""
    shutil.copytree(root / PACKAGE, scratch / PACKAGE, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    done = subprocess.run(
        [sys.executable, "-m", "mypyc", *OPTIONS, *(f"{PACKAGE}/{name}.py" for name in MODULES)],
        cwd=scratch,
        env={**os.environ, **ENVIRONMENT},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    made = [*scratch.glob("*.so"), *sorted((scratch / PACKAGE).glob("*/*.so"))]
    if done.returncode or len(made) != len(MODULES) + 1:  # one for each, which are doors, and one that has it all
        raise RuntimeError(f"mypyc did not compile it (is there a C compiler?):\n{done.stdout}")
    return made
