"""Under CI=true a skip is a failure, and on a desk it is a skip."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).parents[1] / "conftest.py"

MODULES = {
    "mark": "import pytest\n@pytest.mark.skip(reason='no root here')\ndef test_it(): pass\n",
    "call": "import pytest\ndef test_it(): pytest.skip('no root here')\n",
    "fixture": "import pytest\n@pytest.fixture\ndef lab(): pytest.skip('no root here')\ndef test_it(lab): pass\n",
    "module": "import pytest\npytest.skip('no root here', allow_module_level=True)\n",
    "expected": "import pytest\n@pytest.mark.xfail(reason='known', strict=True)\ndef test_it(): assert False\n",
    "passing": "def test_it(): pass\n",
}


@pytest.mark.parametrize(
    ("ci", "ending"),
    [
        ("true", "1 failed, 1 passed, 1 xfailed, 3 errors in"),
        ("", "1 passed, 4 skipped, 1 xfailed in"),
    ],
)
def test_a_skip_fails_in_ci_and_nowhere_else(tmp_path: Path, ci: str, ending: str) -> None:
    shutil.copy(CONFTEST, tmp_path / "conftest.py")
    for name, source in MODULES.items():
        (tmp_path / f"test_{name}.py").write_text(source)
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:randomly",
            "-p",
            "no:cacheprovider",
            "--continue-on-collection-errors",
        ],
        env=os.environ | {"CI": ci},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert ending in run.stdout
    assert (run.returncode == 0) == (ci == "")
    assert run.stdout.count("no root here") >= (4 if ci else 0), "a failure says what was skipped, and why"
