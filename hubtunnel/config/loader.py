"""Reads `hubtunnel.toml` and `peers.d/` and gathers every mistake of all of them before it raises."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import msgspec
from msgspec import NODEFAULT, Struct

from hubtunnel.config import checks
from hubtunnel.config.model import DEFAULT_PATH, PEERS_FOLDER, Config, Peer, file_keys
from hubtunnel.config.values import HostName, Pin, decode_value, read_psk
from hubtunnel.errors import ConfigError, KeyFileError
from hubtunnel.identity.files import read_at_most

ENVIRONMENT = "HUBTUNNEL_CONFIG"
FILE_MAX = 1 << 20  # bytes of one configuration file
PEERS_MAX = 10_000

_Struct = TypeVar("_Struct", bound=Struct)
_Table = dict[str, Any]


def config_path(given: str | os.PathLike[str] | None) -> Path:
    """The configuration file: as given, else `$HUBTUNNEL_CONFIG`, else `/etc/hubtunnel/hubtunnel.toml`."""
    path = given or os.environ.get(ENVIRONMENT) or DEFAULT_PATH
    return Path(os.path.abspath(path))


def load(path: str | os.PathLike[str] | None = None) -> Config:
    """The configuration in `path` (see `config_path`) and the `peers.d` beside it.

    Raises `ConfigError` whose `problems` are all mistakes found, a line each: file, key, what is wrong, cure.
    """
    config, problems = load_with_problems(path)
    if config is None or problems:
        raise ConfigError(problems)
    return config


def load_with_problems(path: str | os.PathLike[str] | None = None) -> tuple[Config | None, list[str]]:
    """What could be read and everything wrong with it; None when the main file could not be read at all."""
    file = config_path(path)
    problems: list[str] = []
    table = _read_toml(file, problems)
    if table is None:
        return None, problems
    # A name that cannot be used is a problem already; the empty one lets every other check go on.
    given: _Table = {"path": file, "name": HostName("")}
    config = _read_table(Config, table, _Place(file), problems, given)
    problems += checks.hub_problems(config)
    peers = tuple(_read_peers(file.parent / PEERS_FOLDER, config, problems))
    config = msgspec.structs.replace(config, peers=peers)
    problems += checks.peer_problems(config)
    return config, problems


class _Place:
    """Where in which file a value stands, for messages."""

    def __init__(self, file: Path, section: str = "") -> None:
        self.file, self.section = file, section

    def problem(self, key: str, text: str) -> str:
        return checks.problem(self.file, f"{self.section}{key}", text)


def _read_toml(file: Path, problems: list[str]) -> _Table | None:
    try:
        data = read_at_most(file, FILE_MAX + 1)
    except FileNotFoundError:
        problems.append(f"{file}: there is no such file; `hubtunnel init --name NAME` makes it, --config names another")
        return None
    except OSError as exc:
        problems.append(f"{file}: cannot be read: {exc.strerror}")
        return None
    if len(data) > FILE_MAX:
        problems.append(f"{file}: larger than {FILE_MAX} bytes, so it is no configuration")
        return None
    try:
        return cast(_Table, msgspec.toml.decode(data))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        problems.append(f"{file}: not TOML: {exc}")
        return None


def _read_table(
    kind: type[_Struct], table: _Table, place: _Place, problems: list[str], given: _Table, base: Struct | None = None
) -> _Struct:
    """`table` as a `kind`; `given` are values the file cannot set or stand-ins for required ones, `base` defaults."""
    keys = file_keys(kind)
    values = dict(given)
    for key, value in table.items():
        if key not in keys:
            problems.append(place.problem(key, _unknown(key, keys, isinstance(value, dict))))
            continue
        field = keys[key]
        default = getattr(base, key) if base is not None else field.default
        if isinstance(field.type, type) and issubclass(field.type, Struct):
            if isinstance(value, dict):
                section = _Place(place.file, f"[{key}] ")
                values[key] = _read_table(field.type, value, section, problems, {}, given.get(key))
            else:
                problems.append(place.problem(key, f"must be a section [{key}], not a value"))
            continue
        if value == "" and default is None:
            continue
        try:
            values[key] = decode_value(field.type, value, place.file.parent)
        except ValueError as exc:
            problems.append(place.problem(key, str(exc)))
    for key, field in keys.items():
        if field.default is NODEFAULT and field.default_factory is NODEFAULT and key not in table:
            problems.append(place.problem(key, "is missing"))
    if base is not None:
        return cast(_Struct, msgspec.structs.replace(base, **values))
    return kind(**values)


def _read_peers(folder: Path, hub: Config, problems: list[str]) -> list[Peer]:
    try:
        files = sorted(p for p in folder.iterdir() if p.suffix == ".toml" and not p.name.startswith("."))
    except FileNotFoundError:
        return []
    except OSError as exc:
        problems.append(f"{folder}: cannot be read: {exc.strerror}")
        return []
    if len(files) > PEERS_MAX:
        problems.append(f"{folder}: {len(files)} peers, at most {PEERS_MAX} can be served")
        return []
    return [peer for file in files if (peer := _read_peer(file, hub, problems)) is not None]


def _read_peer(file: Path, hub: Config, problems: list[str]) -> Peer | None:
    table = _read_toml(file, problems)
    if table is None:
        return None
    given: _Table = {"path": file, "name": HostName(file.stem), "pin": Pin(), "deliver": hub.deliver}
    peer = _read_table(Peer, table, _Place(file), problems, given)
    if peer.psk_file is None:
        return peer
    try:
        return msgspec.structs.replace(peer, psk=read_psk(peer.psk_file))
    except KeyFileError as exc:
        problems.append(checks.problem(file, "psk_file", str(exc)))
        return peer


def _unknown(key: str, keys: Mapping[str, Any], is_section: bool) -> str:
    what = "section" if is_section else "key"
    import difflib  # for mistakes alone

    near = difflib.get_close_matches(key, keys, n=1)
    return f"unknown {what}" + (f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(keys)}")
