"""docs/SETTINGS.md has every key of the configuration, once, and its defaults are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from hubtunnel.config import load
from hubtunnel.config.model import Config, Peer, file_keys
from hubtunnel.identity import fingerprint
from tests.meta.tree import ROOT

DOCUMENT = ROOT / "docs" / "SETTINGS.md"
_ROW = re.compile(r"^\| `(\w+)` \| (?:`(.*?)`)? ?\| .+ \|$", re.MULTILINE)


def tables() -> dict[str, dict[str, str]]:
    """Heading to key to default as it is written."""
    parts = re.split(r"^## (.+)$", DOCUMENT.read_text(), flags=re.MULTILINE)[1:]
    return {heading: dict(_ROW.findall(text)) for heading, text in zip(parts[::2], parts[1::2], strict=True)}


def sections() -> dict[str, type[msgspec.Struct]]:
    kinds = {key: info.type for key, info in file_keys(Config).items()}
    return {
        f"[{key}]": kind for key, kind in kinds.items() if isinstance(kind, type) and issubclass(kind, msgspec.Struct)
    }


def test_every_section_and_key_is_there() -> None:
    found = tables()
    inner = sections()
    assert set(found) == {"hubtunnel.toml", "peers.d/NAME.toml", *inner}
    own = [key for key in file_keys(Config) if f"[{key}]" not in inner]
    assert list(found["hubtunnel.toml"]) == own
    assert list(found["peers.d/NAME.toml"]) == [key for key in file_keys(Peer) if key != "deliver"]
    for heading, kind in inner.items():
        assert list(found[heading]) == list(file_keys(kind)), heading


def written(found: dict[str, str]) -> str:
    return "".join(f"{key} = {default}\n" for key, default in found.items() if default)


@pytest.mark.parametrize("change", [None, ('"150s"', '"151s"')])
def test_the_defaults_are_those_of_the_code(tmp_path: Path, change: tuple[str, str] | None) -> None:
    """A file with every default written out is the same as one without; and (the control) another value is not."""
    found = tables()
    peer = found.pop("peers.d/NAME.toml")
    text = 'name = "mx.a.example"\n' + written(found.pop("hubtunnel.toml"))
    text += "".join(f"{heading}\n{written(keys)}" for heading, keys in found.items())
    if change:
        assert change[0] in text
        text = text.replace(*change)
    least = 'name = "mx.a.example"\nstate = "/var/lib/hubtunnel"\n'
    named = f'name = "mx.b.example"\npin = "{fingerprint.to_text(bytes(32))}"\n'
    configs = []
    for folder, hub, of_peer in (("full", text, named + written(peer)), ("least", least, named)):
        place = tmp_path / folder
        (place / "peers.d").mkdir(parents=True)
        (place / "hubtunnel.toml").write_text(hub)
        (place / "peers.d" / "mx.b.example.toml").write_text(of_peer)
        config = load(place / "hubtunnel.toml")
        peers = tuple(msgspec.structs.replace(each, path=Path()) for each in config.peers)
        configs.append(msgspec.structs.replace(config, path=Path(), peers=peers))
    assert (configs[0] == configs[1]) is (change is None)
