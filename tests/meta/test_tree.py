"""What no file of the project may hold, and how long one may be."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.meta.tree import ROOT, files, text

LINES_MAX = 600
PUBLISHED_KEYS = Path("keys")

# Written so that this file does not match itself.
PRIVATE_KEYS = {
    "PEM or OpenSSH": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KE[Y]-----\s+[A-Za-z0-9+/=]{40}"),
    "age": re.compile(r"AGE-SECRET-KE[Y]-1[0-9A-Z]{20}"),
}
OUR_KEY_FILE = b"hubtunnel private key\n"

STRAY = {
    "a path of somebody's machine": re.compile(r"(?<![\w.])/(?:wor[k]|hom[e]/\w+|roo[t]|Use[r]s)/[\w.]"),
    "a fixed path below the temporary folder": re.compile(r"(?<![\w.}])/tm[p]/[\w.]"),
    "a path out of the checkout": re.compile(r"\.\./share[d]\b"),
    "a local package index": re.compile(r"\bfil[e]:///"),
    "a mark of a merge": re.compile(r"^(?:<{7}|>{7}) ", re.MULTILINE),
    "a note to oneself": re.compile(r"\b(?:FIXM[E]|XX[X]|TOD[O])\b"),
}


def test_the_list_of_files_is_not_empty() -> None:
    assert Path("pyproject.toml") in files()
    assert len(files()) > 50


@pytest.mark.parametrize("kind", STRAY)
def test_nothing_stray_is_in_the_tree(kind: str) -> None:
    found = [f"{path}: {match[0]!r}" for path in files() if (match := STRAY[kind].search(text(path) or ""))]
    assert found == []


@pytest.mark.parametrize(
    ("kind", "sample"),
    [
        ("a path of somebody's machine", "see /hom" + "e/jo/notes"),
        ("a path of somebody's machine", "'/roo" + "t/.config'"),
        ("a fixed path below the temporary folder", "open('/tm" + "p/log')"),
        ("a path out of the checkout", "../share" + "d/x"),
        ("a local package index", "--find-links fil" + "e:///opt/x"),
        ("a mark of a merge", "x\n<<<<<<" + "< HEAD\n"),
        ("a note to oneself", "# TOD" + "O: later"),
    ],
)
def test_the_patterns_find_what_they_are_for(kind: str, sample: str) -> None:
    assert STRAY[kind].search(sample)


@pytest.mark.parametrize("kind", PRIVATE_KEYS)
def test_no_private_key_is_published_by_accident(kind: str) -> None:
    assert [path for path in files() if PRIVATE_KEYS[kind].search(text(path) or "")] == []


def test_our_own_key_files_are_in_keys_alone() -> None:
    holders = [path for path in files() if (ROOT / path).read_bytes().startswith(OUR_KEY_FILE)]
    assert [path for path in holders if path.parts[0] != str(PUBLISHED_KEYS)] == []
    assert holders, "the published test identities are what shows that this can find a key"


def test_no_file_is_too_long_to_read() -> None:
    python = [path for path in files() if path.suffix == ".py"]
    lengths = {path: (text(path) or "").count("\n") for path in python}
    assert {path: length for path, length in lengths.items() if length > LINES_MAX} == {}


def test_every_python_file_says_what_it_is() -> None:
    silent = [
        path
        for path in files()
        if path.suffix == ".py" and (ROOT / path).stat().st_size and not (text(path) or "").startswith(('"""', "#!"))
    ]
    assert silent == []


def test_text_ends_with_a_line_end_and_has_no_carriage_returns() -> None:
    texts = {path: text(path) for path in files() if path.suffix in {".py", ".md", ".toml", ".lock", ".service"}}
    assert [path for path, content in texts.items() if content and not content.endswith("\n")] == []
    assert [path for path, content in texts.items() if content and "\r" in content] == []
