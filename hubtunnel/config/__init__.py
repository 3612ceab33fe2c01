"""Configuration: `load()` gives a `Config`, or one `ConfigError` with all mistakes of all files."""

from hubtunnel.config.loader import ENVIRONMENT, config_path, load, load_with_problems
from hubtunnel.config.model import (
    DEFAULT_PATH,
    DEFAULT_SOCKET,
    DEFAULT_STATE,
    Config,
    Deliver,
    Hooks,
    KeySettings,
    Limits,
    Log,
    Peer,
    SessionSettings,
)
from hubtunnel.config.values import Address, ByteCount, Command, Endpoint, IpAddress, LocalUser, Seconds, Secret

__all__ = [
    "DEFAULT_PATH",
    "DEFAULT_SOCKET",
    "DEFAULT_STATE",
    "ENVIRONMENT",
    "Address",
    "ByteCount",
    "Command",
    "Config",
    "Deliver",
    "Endpoint",
    "Hooks",
    "IpAddress",
    "KeySettings",
    "Limits",
    "LocalUser",
    "Log",
    "Peer",
    "Seconds",
    "Secret",
    "SessionSettings",
    "config_path",
    "load",
    "load_with_problems",
]
