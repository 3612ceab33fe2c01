"""The short form of `tests.keys.long`: two daemons, steady mail, and every change of keys."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.keys.long import SHORT, run


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_every_change_of_keys_under_steady_mail(tmp_path: Path) -> None:
    report = asyncio.run(run(SHORT, tmp_path))
    assert report["failures"] == []
    assert report["ok"], report
    assert min(report["session_resumed"]) >= SHORT.rotations + SHORT.keys  # the session moved and was never begun anew
    (ours,), (theirs,) = report["in_use"]  # `key list` at both ends tells of the same connection
    assert (ours["our_key"], ours["their_key"]) == (theirs["their_key"], theirs["our_key"])
    near, far = report["on_trail"]
    assert near["rotated"] + far["rotated"] >= SHORT.rotations
    assert near["issued"] == far["identity rotated"] == far["revoked"] == 1
    for seen in report["key_list"]:
        assert seen["acknowledged"] == [seen["card"]]
    assert report["key_list"][1]["keys"]["revoked"] == 1
    near, far = report["in_log"]
    assert (
        near["operation=rotate"] + far["operation=rotate"] >= SHORT.rotations + 2
    )  # the identity, before the revocation
    assert near["operation=issue"] == far["operation=revoke"] == 1
    assert "alarm" not in near.keys() | far.keys()
