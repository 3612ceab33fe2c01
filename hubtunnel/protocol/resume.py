"""The proofs of RESUME and RESUMED (PROTOCOL.md 7.1, RS5, RS6): both sides hold root m, on this very handshake."""

from __future__ import annotations

from hubtunnel import crypto
from hubtunnel.protocol.constants import Label
from hubtunnel.protocol.wire import RESUME, RESUMED


def proof_i(root: bytes, th_new: bytes, said: bytes) -> bytes:
    """RS5: the initiator's proof over RESUME up to the proof itself."""
    return crypto.expand(root, Label.RESUME_I, th_new + RESUME.before(said, "proof_I"))


def proof_r(root: bytes, th_new: bytes, said: bytes, answer: bytes) -> bytes:
    """RS6: the responder's proof over the initiator's and RESUMED up to the proof itself."""
    context = th_new + RESUME.get(said, "proof_I") + RESUMED.before(answer, "proof_R")
    return crypto.expand(root, Label.RESUME_R, context)


def proves(said: bytes, root: bytes, th_new: bytes) -> bool:
    """Whether a RESUME proves root m."""
    return crypto.equal(proof_i(root, th_new, said), RESUME.get(said, "proof_I"))


def answers(answer: bytes, root: bytes, th_new: bytes, said: bytes) -> bool:
    """Whether a RESUMED proves root m to whoever said that RESUME."""
    return crypto.equal(proof_r(root, th_new, said, answer), RESUMED.get(answer, "proof_R"))
