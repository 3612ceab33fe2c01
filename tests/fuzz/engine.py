"""One target under atheris, in a process of its own: libFuzzer never comes back.

python -m tests.fuzz.engine TARGET [libFuzzer's own options and corpus folders]
"""

from __future__ import annotations

import logging
import sys
import warnings

import atheris

from tests.fuzz.targets import TARGETS


def main() -> None:
    name, *options = sys.argv[1:]
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("error")
    with atheris.instrument_imports(include=["hubtunnel"]):
        target = TARGETS[name].run
    atheris.Setup([sys.argv[0], *options], target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
