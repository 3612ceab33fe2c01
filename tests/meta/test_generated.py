"""What contrib/generate.py makes is current, and the shells and troff take it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.meta.tree import ROOT

GENERATE = [sys.executable, str(ROOT / "contrib" / "generate.py")]
COMPLETION = ROOT / "contrib" / "completion"
PAGES = sorted((ROOT / "contrib" / "man").iterdir())


def run(*argv: str | Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
    if shutil.which(argv[0]) is None:
        pytest.skip(f"needs {argv[0]}")
    return subprocess.run(
        argv,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
        env=os.environ | {"HOME": "/nowhere"},
    )


def test_everything_is_current() -> None:
    done = run(*GENERATE, "--check")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "", "run contrib/generate.py and commit what it writes"


def test_a_stale_file_would_be_found(tmp_path: Path) -> None:
    """The control of the test above: a copy of the tree with one word changed in a page."""
    for name in ("hubtunnel", "contrib", "docs"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    page = tmp_path / "contrib" / "man" / "hubtunnel.1"
    page.write_text(page.read_text().replace("hubs", "hosts", 1))
    done = run(sys.executable, tmp_path / "contrib" / "generate.py", "--check")
    assert (done.returncode, done.stdout) == (1, "contrib/man/hubtunnel.1\n")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_are_without_a_warning(page: Path) -> None:
    done = run("groff", "-man", "-ww", "-z", "-Tutf8", str(page))
    assert (done.returncode, done.stderr) == (0, "")


def test_a_broken_page_would_be_warned_of(tmp_path: Path) -> None:
    page = tmp_path / "broken.1"
    page.write_text(PAGES[0].read_text() + ".NOSUCHMACRO x\n")
    assert "NOSUCHMACRO" in run("groff", "-man", "-ww", "-z", "-Tutf8", str(page)).stderr


# --- completion ---------------------------------------------------------------------------------------------------

TYPED = [
    ("hubtunnel key ro", ["rotate"]),
    ("hubtunnel key list --j", ["--json"]),
    ("hubtunnel peer re", ["remove", "repin"]),
    ("hubtunnel run --loop u", ["uvloop"]),
]

_BASH = """\
source "$1"
COMP_LINE=$2 COMP_POINT=${#2}
read -ra COMP_WORDS <<<"$2"
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
_shtab_hubtunnel hubtunnel "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.parametrize(("typed", "offered"), TYPED)
def test_bash_offers(typed: str, offered: list[str]) -> None:
    done = run("bash", "--norc", "-c", _BASH, "bash", str(COMPLETION / "hubtunnel.bash"), typed)
    assert (sorted(done.stdout.split()), done.stderr) == (offered, "")


@pytest.mark.parametrize(("typed", "offered"), TYPED)
def test_fish_offers(typed: str, offered: list[str]) -> None:
    done = run("fish", "--no-config", "-c", f"source {COMPLETION / 'hubtunnel.fish'}; complete -C '{typed}'")
    assert sorted(line.split("\t")[0] for line in done.stdout.splitlines()) == offered


def test_zsh_takes_the_file() -> None:
    done = run("zsh", "-f", "-c", f"autoload -Uz compinit && compinit -D && source {COMPLETION / '_hubtunnel'}")
    assert "parse error" not in done.stderr
    assert run("zsh", "-f", "-n", str(COMPLETION / "_hubtunnel")).returncode == 0
