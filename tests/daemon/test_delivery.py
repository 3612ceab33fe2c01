"""What the receiving mail server sees of a stream: where from, whose, and in which session."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from tests.conftest import RunLoop
from tests.daemon.hubs import Mta, connected, link, mail_port, name_of, pair, quiet, read_exactly

PRESENTED = "203.0.113.7"
BANNER = b"220 mta\r\n"


@pytest.mark.parametrize("source", ["", "127.0.0.25"])
@pytest.mark.parametrize("kind", ["v2", "v1", "none"])
def test_the_header_and_the_source_are_independent(run_loop: RunLoop, tmp_path: Path, kind: str, source: str) -> None:
    """`present_as` in the header whatever the source, and the source whatever the header; v2 names peer and session."""

    async def main() -> None:
        quiet()
        async with Mta() as mta:
            extra = f'present_as = "{PRESENTED}"'
            settings = f'[deliver]\nsource = "{source}"\n' if source else ""
            async with (
                pair(tmp_path, mta.address, proxy=kind, extra=extra, settings=settings) as hubs,
                connected(mail_port(hubs.a, "b")) as (reader, _),
            ):
                inside, answer = await mta.next()
                assert answer.get_extra_info("peername")[0] == (source or "127.0.0.1")
                port = answer.get_extra_info("peername")[1]
                assert port
                if kind == "v2":
                    head = await read_exactly(inside, 16)
                    assert head[:14] == b"\r\n\r\n\0\r\nQUIT\n\x21\x11"
                    body = await read_exactly(inside, struct.unpack(">H", head[14:])[0])
                    assert body[:4] == bytes(map(int, PRESENTED.split(".")))
                    (session,) = link(hubs.b, "a").core.sessions
                    name = name_of("a").encode()
                    assert body[12:] == (
                        struct.pack(">BH", 0xE0, len(name)) + name + struct.pack(">BH", 0xE1, 16) + session.sid
                    )
                elif kind == "v1":
                    line = await inside.readline()
                    assert line.startswith(f"PROXY TCP4 {PRESENTED} 127.0.0.1 ".encode())
                answer.write(BANNER)
                assert await read_exactly(reader, len(BANNER)) == BANNER

    run_loop(main())
