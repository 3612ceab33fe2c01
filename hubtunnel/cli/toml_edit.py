"""One key of a peer's file changed, everything else in it (order, comments) left as its admin wrote it."""

from __future__ import annotations

import re

import msgspec

from hubtunnel.cli.common import CommandError


def with_value(text: str, key: str, value: str | None, where: str) -> str:
    """`text` with the top-level `key` set to a value that needs no escaping, or taken out for None.

    Raises `CommandError`, which says what to edit by hand, when the result would not say that.
    """
    line = f'{key} = "{value}"' if value is not None else f'# {key} = ""'
    head, section, rest = _split(text)
    there = re.compile(rf"(?m)^[ \t]*{re.escape(key)}[ \t]*=.*$")
    commented = re.compile(rf"(?m)^[ \t]*#[ \t]*{re.escape(key)}[ \t]*=.*$")
    for pattern in (there, commented):
        if pattern.search(head):
            head = pattern.sub(lambda _: line, head, count=1)
            break
    else:
        if value is not None:
            head = f"{head.rstrip()}\n{line}\n" + ("\n" if section else "")
    changed = head + section + rest
    try:
        found = msgspec.toml.decode(changed).get(key)
    except (msgspec.DecodeError, UnicodeDecodeError):
        found = msgspec.UNSET
    if found != value:
        raise CommandError(f"{where}: {key} could not be changed", f"write {line} there, then `hubtunnel reload`")
    return changed


def _split(text: str) -> tuple[str, str, str]:
    """What stands before the first section, its heading, and the rest."""
    match = re.search(r"(?m)^[ \t]*\[", text)
    return (text, "", "") if match is None else (text[: match.start()], text[match.start()], text[match.end() :])
