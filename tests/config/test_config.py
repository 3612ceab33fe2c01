"""Configuration: the defaults that the documents promise, and every mistake of every file named at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hubtunnel.config import Config, config_path, load
from hubtunnel.config.model import DEFAULT_SOCKET
from hubtunnel.errors import ConfigError
from hubtunnel.identity.fingerprint import to_text

PIN_B, PIN_C = to_text(b"b" * 32), to_text(b"c" * 32)

# Every section and every default, as the documents give them. A change here changes what operators were promised.
WHOLE = """\
name = "mx.a.example"
listen = ["[::]:2625", "0.0.0.0:2625"]
state = "/var/lib/hubtunnel"
[deliver]
address = "127.0.0.1:26"
proxy_protocol = "v2"
source = ""
[session]
ratchet_after = "2m"
ratchet_bytes = "1GiB"
linger = "150s"
hold = "5s"
idle = "30m"
drain = "2m"
keepalive = "15s"
[keys]
rotate = "30d"
[limits]
memory = "256MiB"
streams_per_peer = 500
handshakes = 256
[log]
format = "text"
level = "info"
[control]
socket = ""
[metrics]
listen = ""
[reports]
keep = "90d"
[hooks]
on_up = ""
on_down = ""
"""

PEER = f"""\
name = "mx.b.example"
pin = "{PIN_B}"
endpoints = ["mx.b.example:2625"]
listen = "127.0.1.2:24"
domains = ["b.example"]
mode = "enforce"
present_as = ""
receipts = false
psk_file = ""
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "peers.d").mkdir()
    return tmp_path


def _read(folder: Path, main: str = 'name = "mx.a.example"\n', **peers: str) -> Config:
    (folder / "hubtunnel.toml").write_text(main)
    for who, text in peers.items():
        (folder / "peers.d" / f"mx.{who}.example.toml").write_text(text)
    return load(folder / "hubtunnel.toml")


def _problems(folder: Path, main: str = 'name = "mx.a.example"\n', **peers: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        _read(folder, main, **peers)
    return caught.value.problems


def _peer(who: str, pin_text: str, **keys: str) -> str:
    given_keys = {"name": f'"mx.{who}.example"', "pin": f'"{pin_text}"', "endpoints": f'["mx.{who}.example"]', **keys}
    return "".join(f"{key} = {value}\n" for key, value in given_keys.items())


# --- defaults and values --------------------------------------------------------------------------------------


def test_the_whole_file_says_the_defaults(folder: Path) -> None:
    whole, short = _read(folder, WHOLE), _read(folder)

    assert whole == short
    assert (folder / "hubtunnel.toml").read_text() != WHOLE


def test_defaults_in_the_units_of_the_program(folder: Path) -> None:
    config = _read(folder, WHOLE, b=PEER)
    session = config.session

    assert (session.ratchet_after, session.ratchet_bytes, session.linger) == (120.0, 1 << 30, 150.0)
    assert (session.hold, session.idle, session.drain, session.keepalive) == (5.0, 1800.0, 120.0, 15.0)
    assert (config.limits.memory, config.limits.streams_per_peer, config.limits.handshakes) == (256 << 20, 500, 256)
    assert config.keys.rotate == 30 * 86400.0
    assert [tuple(address) for address in config.listen] == [("::", 2625), ("0.0.0.0", 2625)]
    assert config.deliver.address == ("127.0.0.1", 26)
    assert config.hooks.on_up == ()
    (peer,) = config.peers
    assert (peer.name, peer.pin, peer.listen) == ("mx.b.example", b"b" * 32, ("127.0.1.2", 24))
    assert (peer.endpoints, peer.domains) == ((("mx.b.example", 2625),), ("b.example",))
    assert (peer.psk, peer.present_as, peer.unsafe_listen) == (None, None, False)
    assert peer.card_path == folder / "peers.d" / "mx.b.example.card"


@pytest.mark.parametrize(
    ("text", "seconds"), [("100ms", 0.1), ("1.5s", 1.5), ("2m", 120.0), ("2 m", 120.0), ("1h", 3600.0), ("0s", 0.0)]
)
def test_times(folder: Path, text: str, seconds: float) -> None:
    assert _read(folder, f'name = "a.example"\n[session]\ndrain = "{text}"\n').session.drain == seconds


def test_timers_may_be_lowered_far(folder: Path) -> None:
    text = 'name = "a.example"\n[session]\nratchet_after = "100ms"\nratchet_bytes = "64KiB"\nkeepalive = "50ms"\n'
    session = _read(folder, text).session
    assert (session.ratchet_after, session.ratchet_bytes, session.keepalive) == (0.1, 65536, 0.05)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("mx.b.example", ("mx.b.example", 2625)),
        ("MX.B.Example:1", ("mx.b.example", 1)),
        ("192.0.2.1:26", ("192.0.2.1", 26)),
        ("192.0.2.1", ("192.0.2.1", 2625)),
        ("[2001:DB8::1]:26", ("2001:db8::1", 26)),
        ("[::1]", ("::1", 2625)),
    ],
)
def test_endpoints(folder: Path, text: str, address: tuple[str, int]) -> None:
    assert _read(folder, b=_peer("b", PIN_B, endpoints=f'["{text}"]')).peers[0].endpoints == (address,)


def test_deliver_of_a_peer_lies_over_the_hubs(folder: Path) -> None:
    main = 'name = "a.example"\n[deliver]\naddress = "127.0.0.1:2600"\nsource = "127.0.0.25"\n'
    peer = _peer("b", PIN_B) + '[deliver]\nproxy_protocol = "none"\n'
    config = _read(folder, main, b=peer, c=_peer("c", PIN_C))
    b, c = config.peers

    assert (b.deliver.address, b.deliver.proxy_protocol, b.deliver.source) == (
        ("127.0.0.1", 2600),
        "none",
        "127.0.0.25",
    )
    assert c.deliver == config.deliver


def test_relative_paths_are_relative_to_their_file(folder: Path) -> None:
    psk = folder / "peers.d" / "b.psk"
    psk.write_text("ab" * 16 + bytes(range(16)).hex() + "\n")
    psk.chmod(0o600)
    config = _read(
        folder,
        'name = "a.example"\nstate = "here"\n[control]\nsocket = "run/s"\n',
        b=_peer("b", PIN_B, psk_file='"b.psk"'),
    )

    assert config.state == folder / "here"
    assert config.control_socket == folder / "run" / "s"
    assert config.peers[0].psk == b"\xab" * 16 + bytes(range(16))
    assert "abab" not in repr(config)
    assert "abab" not in repr(config.peers[0].psk)
    assert "abab" not in str(config.peers[0].psk)


def test_control_socket(folder: Path) -> None:
    assert _read(folder).control_socket == folder / "control.sock"
    assert Config(name="a.example").control_socket == DEFAULT_SOCKET  # type: ignore[arg-type]


def test_hooks_are_split_as_a_shell_would(folder: Path) -> None:
    text = """name = "a.example"\n[hooks]\non_up = "/usr/sbin/postqueue -s 'b c'"\n"""
    assert _read(folder, text).hooks.on_up == ("/usr/sbin/postqueue", "-s", "b c")


def test_which_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("HUBTUNNEL_CONFIG", raising=False)
    assert config_path(None) == Path("/etc/hubtunnel/hubtunnel.toml")
    monkeypatch.setenv("HUBTUNNEL_CONFIG", "/srv/x.toml")
    assert config_path(None) == Path("/srv/x.toml")
    assert config_path("/y.toml") == Path("/y.toml")
    monkeypatch.chdir(tmp_path)
    assert config_path("y.toml") == tmp_path / "y.toml"


# --- mistakes -------------------------------------------------------------------------------------------------


def test_all_mistakes_of_all_files_at_once(folder: Path) -> None:
    """One run, one list: an operator mends everything before the next try."""
    problems = _problems(
        folder,
        'nane = "x"\nlisten = ["mx.a.example:1"]\n[session]\nhold = "soon"\nlinger = 5\n[limits]\nhandshakes = 0\n',
        b='name = "mx.b.example"\npin = "h1"\nlisten = "0.0.0.0:24"\n',
        c="not TOML at all",
        d='name = "mx.d.example"\npins = []\n',
    )
    text = "\n".join(problems)

    for expected in (
        "hubtunnel.toml: nane: unknown key; did you mean 'name'?",
        "hubtunnel.toml: name: is missing",
        "hubtunnel.toml: listen: 'mx.a.example:1'",
        "hubtunnel.toml: [session] hold: 'soon' is not a time",
        "hubtunnel.toml: [session] linger: must be a text in quotes, not 5",
        "hubtunnel.toml: [limits] handshakes:",
        "mx.b.example.toml: pin: ",
        "mx.b.example.toml: listen: 0.0.0.0:24 can be reached from other hosts",
        "mx.c.example.toml: not TOML: ",
        "mx.d.example.toml: pins: unknown key; did you mean 'pin'?",
        "mx.d.example.toml: pin: is missing",
    ):
        assert expected in text, expected
    assert len(problems) == 11


MAIN_MISTAKES = {
    "unknown section": ("[sessions]\n", "sessions: unknown section; did you mean 'session'?"),
    "section as value": ("session = 1\n", "session: must be a section [session]"),
    "value as section": ("[state]\n", "state: must be a text in quotes"),
    "listen as text": ('listen = "0.0.0.0:1"\n', "listen: expected `array`"),
    "listen by name": ('listen = ["localhost:1"]\n', "a name does not do here"),
    "port too high": ('listen = ["127.0.0.1:65536"]\n', "ports end at 65535"),
    "IPv6 without brackets": ('listen = ["::1:26"]\n', "needs brackets"),
    "same address twice": ('listen = ["127.0.0.1:1", "127.0.0.1:1"]\n', "cannot be bound beside"),
    "an address over a wildcard": ('listen = ["127.0.0.1:1", "0.0.0.0:1"]\n', "cannot be bound beside"),
    "wildcard of IPv6": ('listen = ["[::]:1", "[::1]:1"]\n', "cannot be bound beside"),
    "wildcard over an address": ('listen = ["0.0.0.0:1", "127.0.0.1:1"]\n', "cannot be bound beside"),
    "deliver without a port": ('[deliver]\naddress = "127.0.0.1"\n', "lacks a port"),
    "deliver to ourselves": ('[deliver]\naddress = "127.0.0.1:2625"\n', "mail would go in a circle"),
    "deliver to port 0": ('[deliver]\naddress = "127.0.0.1:0"\n', "port 0"),
    "PROXY v3": ('[deliver]\nproxy_protocol = "v3"\n', "must be one of 'v2', 'v1', 'none', not 'v3'"),
    "source not loopback": ('[deliver]\nsource = "192.0.2.1"\n', "is not a loopback address"),
    "source of another family": ('[deliver]\nsource = "::1"\n', "of one family"),
    "ratchet later than promised": ('[session]\nratchet_after = "121s"\n', "within 50ms to 2m"),
    "ratchet after more than promised": ('[session]\nratchet_bytes = "1025MiB"\n', "within 64KiB to 1GiB"),
    "number without a unit": ('[session]\nratchet_after = "2"\n', "is not a time such as"),
    "unit of size for time": ('[session]\nratchet_after = "2MiB"\n', "unknown unit 'MiB'"),
    "negative": ('[session]\nhold = "-1s"\n', "is not a time"),
    "too little memory": ('[limits]\nmemory = "1MiB"\n', "within 8MiB"),
    "streams true": ("[limits]\nstreams_per_peer = true\n", "expected `int`"),
    "log level": ('[log]\nlevel = "loud"\n', "must be one of"),
    "path with a NUL": ('[control]\nsocket = "x\\u0000"\n', "cannot hold a NUL"),
    "socket too long": (f'[control]\nsocket = "/{"x" * 107}"\n', "a socket's path at most 107"),
    "metrics": ('[metrics]\nlisten = "127.0.0.1:9100"\n', "this release has no metrics"),
    "reports": ('[reports]\nkeep = "1d"\n', "this release keeps no reports"),
    "hook not absolute": ('[hooks]\non_up = "postqueue -f"\n', "absolute path"),
    "hook with an open quote": ('[hooks]\non_up = "/bin/x \'y"\n', "quotation"),
    "derived key": ('path = "/x"\n', "path: unknown key"),
}


@pytest.mark.parametrize(("text", "says"), MAIN_MISTAKES.values(), ids=MAIN_MISTAKES.keys())
def test_mistake_in_the_main_file_is_named(folder: Path, text: str, says: str) -> None:
    (problem,) = _problems(folder, f'name = "mx.a.example"\n{text}')

    assert problem.startswith(f"{folder / 'hubtunnel.toml'}: ")
    assert says in problem


PEER_MISTAKES: dict[str, tuple[dict[str, str], str]] = {
    "named otherwise than its file": ({"name": '"mx.x.example"'}, "the file must be named mx.x.example.toml"),
    "name with a slash": ({"name": '"../x"'}, "is not a host name"),
    "pin mistyped": ({"pin": f'"{PIN_B[:20]}{"q" if PIN_B[20] != "q" else "p"}{PIN_B[21:]}"'}, "group 4"),
    "pin in hexadecimal": ({"pin": f'"{"ab" * 32}"'}, "must begin with 'h1'"),
    "endpoint twice": ({"endpoints": '["x", "x"]'}, "names one endpoint twice"),
    "endpoint a number": ({"endpoints": '["1.2.3"]'}, "neither a host name nor an IP address"),
    "listen by name": ({"listen": '"localhost:24"'}, "a name does not do here"),
    "listen from outside": ({"listen": '"192.0.2.1:24"'}, "unsafe_listen = true"),
    "listen on all": ({"listen": '"[::]:24"'}, "unsafe_listen = true"),
    "listen where carriers come in": ({"listen": '"127.0.0.1:2625"'}, "cannot be bound beside"),
    "listen where we deliver": ({"listen": '"127.0.0.1:26"'}, "mail would go in a circle"),
    "users of a listener for all": (
        {"listen": '"192.0.2.1:24"', "unsafe_listen": "true", "listen_users": '["root"]'},
        "needs a `listen` on loopback",
    ),
    "users without a listener": ({"listen_users": '["root"]'}, "needs a `listen` on loopback"),
    "user of no machine": ({"listen_users": '["no-such-user"]'}, "'no-such-user' is no user of this machine"),
    "user with a NUL": ({"listen_users": r'["a\u0000b"]'}, "is no user of this machine"),
    "user nobody": ({"listen_users": '["nobody"]'}, "nobody in particular"),
    "user beyond numbers": ({"listen_users": '["4294967295"]'}, "nobody in particular"),
    "users a text": ({"listen_users": '"root"'}, "expected `array`"),
    "domain twice": ({"domains": '["x.example", "X.example."]'}, "stands there twice"),
    "domain no name": ({"domains": '["x y"]'}, "is not a host name"),
    "mode": ({"mode": '"off"'}, "must be one of 'enforce', 'testing'"),
    "present as a name": ({"present_as": '"mx.b.example"'}, "is not an IP address"),
    "receipts": ({"receipts": "true"}, "this release has no receipts"),
    "psk missing": ({"psk_file": '"none.psk"'}, "No such file"),
    "psk in the file": ({"psk": '"00"'}, "psk: unknown key"),
    "deliver a value": ({"deliver": '"127.0.0.1:26"'}, "must be a section"),
}


@pytest.mark.parametrize(("keys", "says"), PEER_MISTAKES.values(), ids=PEER_MISTAKES.keys())
def test_mistake_in_a_peers_file_is_named(folder: Path, keys: dict[str, str], says: str) -> None:
    problems = _problems(folder, b=_peer("b", PIN_B, **keys))

    assert any(says in problem for problem in problems), problems
    assert all("mx.b.example.toml" in p or "hubtunnel.toml: [deliver]" in p for p in problems)


def test_unsafe_listen_is_taken_when_asked_for(folder: Path) -> None:
    peer = _peer("b", PIN_B, listen='"192.0.2.1:24"', unsafe_listen="true")
    assert _read(folder, b=peer).peers[0].listen == ("192.0.2.1", 24)


def test_listen_users_by_name_and_by_number(folder: Path) -> None:
    peer = _peer("b", PIN_B, listen='"127.0.1.2:24"', listen_users='["daemon", "4711"]')
    assert [user.uid for user in _read(folder, b=peer).peers[0].listen_users] == [1, 4711]


def test_mistakes_across_peers(folder: Path) -> None:
    problems = _problems(
        folder,
        b=_peer("b", PIN_B, listen='"127.0.1.2:24"', domains='["x.example"]'),
        c=_peer("c", PIN_B, listen='"127.0.1.2:24"', domains='["x.example"]'),
    )
    text = "\n".join(problems)

    assert "is the pin of mx.b.example.toml too" in text
    assert "cannot be bound beside 127.0.1.2:24 (mx.b.example.toml" in text
    assert "x.example stands in mx.b.example.toml too" in text
    assert len(problems) == 3


def test_port_0_is_any_free_port(folder: Path) -> None:
    zero = '"127.0.0.1:0"'
    config = _read(
        folder,
        f'name = "a.example"\nlisten = [{zero}]\n',
        b=_peer("b", PIN_B, listen=zero),
        c=_peer("c", PIN_C, listen=zero),
    )
    assert len(config.peers) == 2


def test_a_hub_is_not_its_own_peer(folder: Path) -> None:
    (problem,) = _problems(folder, 'name = "mx.b.example"\n', b=_peer("b", PIN_B))
    assert "this hub's own name" in problem


def test_somebody_must_be_able_to_dial(folder: Path) -> None:
    (problem,) = _problems(folder, 'name = "a.example"\nlisten = []\n', b=_peer("b", PIN_B, endpoints="[]"))
    assert "neither can dial the other" in problem


def test_no_file_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="hubtunnel init"):
        load(tmp_path / "none.toml")
    (tmp_path / "hubtunnel.toml").write_text('name = "a.example"\n')
    assert load(tmp_path / "hubtunnel.toml").peers == ()
    with pytest.raises(ConfigError, match="Is a directory"):
        load(tmp_path)


def test_other_files_in_the_folder_are_left_alone(folder: Path) -> None:
    for name in (".mx.b.example.toml.0123.new", "mx.b.example.toml~", "mx.b.example.card", ".hidden.toml", "README"):
        (folder / "peers.d" / name).write_text("not TOML")
    assert _read(folder).peers == ()


# --- pre-shared keys ------------------------------------------------------------------------------------------

RANDOM = bytes(range(100, 132))


def _psk(folder: Path, content: bytes, mode: int = 0o600) -> Any:
    path = folder / "peers.d" / "b.psk"
    path.write_bytes(content)
    path.chmod(mode)
    return _read(folder, b=_peer("b", PIN_B, psk_file='"b.psk"')).peers[0].psk


@pytest.mark.parametrize(
    "content",
    [
        RANDOM.hex().encode(),
        RANDOM.hex().upper().encode() + b"\n",
        b"ZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXp7fH1+f4CBgoM=\n",
    ],
    ids=["hexadecimal", "upper case", "base64"],
)
def test_psk_as_text(folder: Path, content: bytes) -> None:
    assert _psk(folder, content) == RANDOM


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"correct horse battery staple",
        RANDOM,
        RANDOM.hex()[:-2].encode(),
        RANDOM.hex().encode() + b"00",
        b"0" * 64,
    ],
    ids=["empty", "passphrase", "raw", "31 bytes", "33 bytes", "zeros"],
)
def test_psk_that_is_none_is_refused_and_not_shown(folder: Path, content: bytes) -> None:
    with pytest.raises(ConfigError, match="hubtunnel key psk PEER") as caught:
        _psk(folder, content)
    assert len(content) < 8 or content.decode("latin-1") not in str(caught.value)


def test_psk_that_others_can_read_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="chmod 0600"):
        _psk(folder, RANDOM.hex().encode(), 0o640)


# --- anything at all ------------------------------------------------------------------------------------------

TOML_VALUES = st.sampled_from(
    ["0", "-1", "1.5", "nan", "true", "[]", '[""]', "[1]", "[[]]", "{}", "{a = 1}", "1979-05-27", '"\\u0000"']
    + [f'"{text}"' for text in ("", "x", "2m", "1GiB", "1e999s", f"{'9' * 400}s", f"{'9' * 400}GiB", "٣s", "-1s")]
    + [f'"{text}"' for text in ("127.0.0.1:99999999999", "[::1", "[::1]:1", "a:b:c", "/x", "/" * 300, "'")]
)
HUB_KEYS = ["name", "listen", "state", "deliver", "session", "limits", "control", "hooks"]
INNER_KEYS = [
    ("deliver", "address"), ("deliver", "source"), ("session", "hold"), ("limits", "memory"), ("limits", "handshakes"),
    ("control", "socket"), ("hooks", "on_up"), ("log", "level"), ("metrics", "listen"), ("reports", "keep"),
]  # fmt: skip
PEER_KEYS = ["name", "pin", "endpoints", "listen", "domains", "mode", "present_as", "psk_file", "deliver"]


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(st.sampled_from(HUB_KEYS), TOML_VALUES),
    st.dictionaries(st.sampled_from(INNER_KEYS), TOML_VALUES),
    st.dictionaries(st.sampled_from(PEER_KEYS), TOML_VALUES),
)
def test_no_file_raises_anything_but_config_error(
    tmp_path: Path, main: dict[str, str], inner: dict[tuple[str, str], str], peer: dict[str, str]
) -> None:
    (tmp_path / "peers.d").mkdir(exist_ok=True)
    lines = [f"{key} = {value}" for key, value in main.items()]
    lines += [f"{section}.{key} = {value}" for (section, key), value in inner.items() if section not in main]
    peer_text = "".join(f"{key} = {value}\n" for key, value in peer.items())
    problems = []
    try:
        _read(tmp_path, "\n".join(lines), b=peer_text)
    except ConfigError as exc:
        problems = exc.problems
    assert all(str(tmp_path) in problem for problem in problems)
    assert problems or "name" in main


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_but_config_error(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "hubtunnel.toml"
    path.write_bytes(data)
    with pytest.raises(ConfigError):
        load(path)
