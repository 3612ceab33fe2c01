"""Who may use a listener: whose a connection is, as the kernel says it, and that nobody else's is taken."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hubtunnel.daemon import owners
from hubtunnel.daemon.owners import OwnerUnknownError
from tests.conftest import RunLoop
from tests.daemon.hubs import Mta, Pair, connected, link, mail_port, pair, read_all, read_exactly, until

OURS, OTHERS = "daemon", "bin"
"""Two users that every Debian has: the one that may hand over mail in these tests, and one that may not."""

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to connect as other users: run as root")


def uid(name: str) -> int:
    return pwd.getpwnam(name).pw_uid


# --- what the kernel says -------------------------------------------------------------------------------------


@contextlib.contextmanager
def connection(listen: str = "127.0.0.1", connect: str | None = None) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of one; the first is the end of the one who connected."""
    family = socket.AF_INET6 if ":" in (connect or listen) else socket.AF_INET
    with (
        socket.create_server((listen, 0), family=socket.AF_INET6 if ":" in listen else socket.AF_INET) as server,
        socket.socket(family) as near,
    ):
        near.connect((connect or listen, server.getsockname()[1]))
        far, _ = server.accept()
        with far:
            yield near, far


def of(far: socket.socket) -> int:
    return owners.uid_of(far.getpeername()[:2], far.getsockname()[:2])


@pytest.mark.parametrize(
    ("listen", "connect"), [("127.0.0.1", None), ("127.0.1.2", None), ("::1", None), ("127.0.1.2", "::ffff:127.0.1.2")]
)
def test_the_owner_of_a_connection(listen: str, connect: str | None) -> None:
    """Also where a program connects to an IPv4 address with a socket of IPv6."""
    with connection(listen, connect) as (_, far):
        assert of(far) == os.geteuid()


@needs_root
@pytest.mark.parametrize("name", [OURS, OTHERS])
def test_the_owner_is_who_made_the_socket(name: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        os.seteuid(uid(name))
        try:
            near = socket.create_connection(server.getsockname())
        finally:
            os.seteuid(0)
        far, _ = server.accept()
        with near, far:
            assert of(far) == uid(name)


def test_a_socket_that_nobody_holds_any_more_has_no_owner() -> None:
    """Its user would be given as 0 by many kernels, and root may always."""
    with connection() as (near, far):
        near.sendall(b"EHLO\r\nMAIL FROM:<>\r\n")
        near.close()
        with pytest.raises(OwnerUnknownError, match="closed already"):
            of(far)


def test_the_owner_of_a_listener_is_not_that_of_a_connection() -> None:
    """Where there is no connection from a port, the kernel answers with who listens there."""
    with connection() as (_, far), socket.create_server(("127.0.0.1", 0)) as listener:
        with pytest.raises(OwnerUnknownError):
            owners.uid_of(listener.getsockname(), far.getsockname())
        # The control: the kernel did answer, and not with an error.
        number = 7
        with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, 4) as netlink:
            netlink.sendto(owners.question(listener.getsockname(), far.getsockname(), number), (0, 0))
            answer = netlink.recv(4096)
        assert struct.unpack_from("=HH", answer, 4)[0] == 20


def test_a_connection_that_is_not_there_has_no_owner() -> None:
    with pytest.raises(OwnerUnknownError, match="tcp_diag"):
        owners.uid_of(("127.0.0.1", 1), ("127.0.0.1", 2))


def test_what_the_system_does_not_allow_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """As under a sandbox without AF_NETLINK; here by a protocol that the kernel does not have."""
    monkeypatch.setattr(owners, "_NETLINK_SOCK_DIAG", 4000)
    with connection() as (_, far), pytest.raises(OwnerUnknownError, match="cannot be asked: Protocol not supported"):
        of(far)


# --- the kernel's bytes ---------------------------------------------------------------------------------------

SOURCE, TARGET, NUMBER, OWNER = ("127.0.0.1", 40522), ("127.0.1.2", 24), 77, 1234


def answer(
    *, number: int = NUMBER, kind: int = 20, family: int = socket.AF_INET, state: int = 1, sport: int = SOURCE[1],
    dport: int = TARGET[1], src: str = SOURCE[0], dst: str = TARGET[0], inode: int = 99, tail: bytes = b"",
) -> bytes:  # fmt: skip
    """As the kernel lays it out (linux/inet_diag.h)."""
    body = struct.pack("=BBBB", family, state, 0, 0) + struct.pack("!HH", sport, dport)
    body += b"".join(socket.inet_pton(family, each).ljust(16, b"\0") for each in (src, dst))
    body += struct.pack("=III", 0, 5, 6) + struct.pack("=IIIII", 0, 0, 0, OWNER, inode) + tail
    return struct.pack("=IHHII", 16 + len(body), kind, 0, number, 0) + body


def read(data: bytes) -> int:
    return owners.read_answer(data, SOURCE, TARGET, NUMBER)


@given(tail=st.binary(max_size=64))
def test_the_owner_is_read_whatever_attributes_follow(tail: bytes) -> None:
    assert read(answer(tail=tail)) == OWNER


def test_ipv4_addresses_in_a_socket_of_ipv6_are_the_same_addresses() -> None:
    mapped = answer(family=socket.AF_INET6, src="::ffff:127.0.0.1", dst="::ffff:127.0.1.2")
    assert read(mapped) == OWNER


@pytest.mark.parametrize(
    "other",
    [
        {"number": NUMBER + 1}, {"kind": 3}, {"state": 10}, {"inode": 0}, {"sport": 40523}, {"dport": 25},
        {"src": "127.0.0.2"}, {"dst": "127.0.1.3"}, {"family": socket.AF_INET6, "src": "::1", "dst": "::1"},
    ],
    ids=str,
)  # fmt: skip
def test_an_answer_about_anything_else_is_none(other: dict[str, int]) -> None:
    with pytest.raises(OwnerUnknownError):
        read(answer(**other))  # type: ignore[arg-type]


@given(st.integers(0, len(answer()) - 1))
def test_an_answer_cut_short_is_none(length: int) -> None:
    data = answer()[:length]
    with pytest.raises(OwnerUnknownError):
        read(data)
    with pytest.raises(OwnerUnknownError):
        read(struct.pack("=I", length) + data[4:])


@given(st.binary(max_size=200))
@example(struct.pack("=IHHII", 20, 2, 0, NUMBER, 0) + struct.pack("=i", -(2**31)))
@example(struct.pack("=IHHII", 20, 2, 0, NUMBER, 0) + struct.pack("=i", 0))
@example(answer(family=socket.AF_INET)[:16] + b"\xff" + answer()[17:])
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    """Nothing but an answer to the question is one, and nothing ends in another error."""
    with pytest.raises(OwnerUnknownError):
        read(data)


@given(st.integers(16, len(answer()) - 1), st.integers(1, 255))
def test_one_byte_changed_names_no_other_user_for_another_connection(place: int, change: int) -> None:
    """Of all bytes of an answer only those of the uid change who it is; those of both ends make it another's."""
    data = bytearray(answer())
    data[place] ^= change
    uid_at, ends = 16 + 4 + 48 + 12, range(20, 56)
    try:
        found = read(bytes(data))
    except OwnerUnknownError:
        return
    assert (found == OWNER) is (place not in range(uid_at, uid_at + 4))
    # Behind the four bytes of an IPv4 address is room that means nothing.
    assert place not in (*ends[:8], *ends[20:24])


# --- at a listener --------------------------------------------------------------------------------------------


async def _as(name: str, port: int) -> str:
    """What a process of that user reads when it connects: the first line."""
    script = f"exec 3<>/dev/tcp/127.0.0.1/{port}; head -n 1 <&3"
    ended = await asyncio.to_thread(
        subprocess.run, ["/bin/bash", "-c", script], user=uid(name), group=65534, extra_groups=[], cwd="/",
        capture_output=True, text=True, timeout=20, check=True,
    )  # fmt: skip
    return ended.stdout


async def _greeted(hubs: Pair, mta: Mta, name: str) -> bool:
    """Whether a connection of that user reaches the far mail server, which then greets it."""
    asked = asyncio.create_task(_as(name, mail_port(hubs.a, "b")[1]))
    _, writer = await mta.next()
    writer.write(b"220 far\r\n")
    return (await asked).strip() == "220 far"


@needs_root
def test_only_the_users_that_are_named(run_loop: RunLoop, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with Mta() as mta, pair(tmp_path, mta.address, extra=f'listen_users = ["{OURS}"]') as hubs:
            port = mail_port(hubs.a, "b")[1]
            told = await _as(OTHERS, port)
            assert told.startswith(
                f"421 4.4.1 hubtunnel: mx.b.example: user: connections of uid {uid(OTHERS)} are not taken: "
                "listen_users in mx.b.example.toml"
            )
            assert link(hubs.a, "b").local.opened == 0
            assert mta.connections.empty()
            assert await _greeted(hubs, mta, OURS)
            # Root, for it could become any of them.
            async with connected(mail_port(hubs.a, "b")) as (reader, _):
                (await mta.next())[1].write(b"220 far\r\n")
                assert await read_exactly(reader, 9) == b"220 far\r\n"

    with caplog.at_level("WARNING", logger="hubtunnel"):
        run_loop(scenario())
    (said,) = (record for record in caplog.records if record.msg == "user_refused")
    assert said.__dict__["fields"]["uid"] == uid(OTHERS)


@needs_root
def test_a_reload_changes_who_may(run_loop: RunLoop, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Mta() as mta, pair(tmp_path, mta.address) as hubs:
            assert await _greeted(hubs, mta, OTHERS)  # without the setting everybody
            file = hubs.a_place.folder / "peers.d" / "mx.b.example.toml"
            before = file.read_text()
            for users, may in ((f'"{uid(OURS)}"', False), (f'"{uid(OURS)}", "{OTHERS}"', True)):
                file.write_text(f"listen_users = [{users}]\n{before}")
                await hubs.a.reload()
                if may:
                    assert await _greeted(hubs, mta, OTHERS)
                else:
                    assert "user: connections of uid" in await _as(OTHERS, mail_port(hubs.a, "b")[1])

    run_loop(scenario())


def test_whose_cannot_be_told_is_refused(run_loop: RunLoop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even root: nothing is known of who connects."""
    monkeypatch.setattr(owners, "_NETLINK_SOCK_DIAG", 4000)

    async def scenario() -> None:
        async with Mta() as mta, pair(tmp_path, mta.address, extra=f'listen_users = ["{OURS}"]') as hubs:
            async with connected(mail_port(hubs.a, "b")) as (reader, _):
                said = (await read_all(reader)).decode()
            assert "user: whose connection this is cannot be told (the kernel cannot be asked" in said
            assert mta.connections.empty()
            await until(lambda: not link(hubs.a, "b").local.relays)

    run_loop(scenario())


def test_without_the_setting_nobody_asks(run_loop: RunLoop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(*_: object) -> int:
        raise AssertionError("the kernel was asked for nothing")

    monkeypatch.setattr(owners, "uid_of", asked)

    async def scenario() -> None:
        async with (
            Mta() as mta,
            pair(tmp_path, mta.address) as hubs,
            connected(mail_port(hubs.a, "b")) as (reader, _),
        ):
            (await mta.next())[1].write(b"220 far\r\n")
            assert await read_exactly(reader, 9) == b"220 far\r\n"

    run_loop(scenario())
