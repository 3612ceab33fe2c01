"""What may be the name of a hub or a domain: names come from cards and become file names and terminal output."""

from __future__ import annotations

import re

from hubtunnel.protocol.constants import CARD_NAME_MAX

_LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)", re.ASCII)


def is_host_name(name: str) -> bool:
    """Whether `name` is made of labels as host names and mail domains have them (RFC 1123, underscores allowed)."""
    return 0 < len(name) <= CARD_NAME_MAX and all(_LABEL.fullmatch(label) for label in name.split("."))
