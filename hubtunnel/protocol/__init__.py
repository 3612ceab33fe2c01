"""The protocol core: bytes and a time in; bytes, events and a deadline out.

Nothing here opens a socket, reads a clock, draws a random number or writes a log line. docs/PROTOCOL.md is
normative; its step numbers (HS1, RT3, RS5 …) stand beside the code that carries them out.
"""

from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import find_spec


def compiled() -> bool:
    """Whether what mail passes through was compiled when hubtunnel was built (docs/OPERATING.md), or is pure Python."""
    spec = find_spec("hubtunnel.protocol.session")
    return spec is not None and spec.origin is not None and spec.origin.endswith(tuple(EXTENSION_SUFFIXES))
