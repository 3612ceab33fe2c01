"""RESUME and RESUMED and their proofs (PROTOCOL.md 7.1): both sides hold root m, on this very handshake."""

from __future__ import annotations

from hubtunnel import crypto
from hubtunnel.protocol.constants import Label
from hubtunnel.protocol.wire import RESUME, RESUMED


def say(root: bytes, th_new: bytes, sid: bytes, m: int, received: int, base: int, boot: bytes, dial: int) -> bytes:
    """RS5: a whole RESUME."""
    head = RESUME.pack(sid, m, received, base, boot, dial)
    return head + _proof_i(root, th_new, head)


def answer(root: bytes, th_new: bytes, said: bytes, boot: bytes, received: int, base: int) -> bytes:
    """RS6: a whole RESUMED with status 1, the answer to a RESUME."""
    head = RESUMED.pack(1, boot, received, base)
    return head + _proof_r(root, th_new, said, head)


def proves(said: bytes, root: bytes, th_new: bytes) -> bool:
    """Whether a RESUME proves root m."""
    return crypto.equal(_proof_i(root, th_new, said), RESUME.get(said, "proof_I"))


def answers(answered: bytes, root: bytes, th_new: bytes, said: bytes) -> bool:
    """Whether a RESUMED proves root m to whoever said that RESUME."""
    return crypto.equal(_proof_r(root, th_new, said, answered), RESUMED.get(answered, "proof_R"))


def _proof_i(root: bytes, th_new: bytes, said: bytes) -> bytes:
    return crypto.expand(root, Label.RESUME_I, th_new + RESUME.before(said, "proof_I"))


def _proof_r(root: bytes, th_new: bytes, said: bytes, answered: bytes) -> bytes:
    context = th_new + RESUME.get(said, "proof_I") + RESUMED.before(answered, "proof_R")
    return crypto.expand(root, Label.RESUME_R, context)
