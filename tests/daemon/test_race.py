"""One dial over several addresses: who starts when, who wins, and that nobody is left behind."""

from __future__ import annotations

import asyncio
import itertools
import socket
import threading
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubtunnel.config import Endpoint
from hubtunnel.daemon import race, resolver
from hubtunnel.daemon.race import Race
from hubtunnel.daemon.reasons import Failure
from hubtunnel.daemon.resolver import Resolver, by_turns
from hubtunnel.errors import Reason
from tests.conftest import RunLoop
from tests.daemon.hubs import until

STAGGER = 0.05
FOUR, SIX = socket.AF_INET, socket.AF_INET6


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(race, "STAGGER", STAGGER)
    monkeypatch.setattr(race, "STAGGER_CONNECTED", 4 * STAGGER)


def failed(reason: Reason = Reason.REFUSED, text: str = "no") -> Failure:
    return Failure(reason, text, 0.0)


class Course:
    """Addresses and what becomes of an attempt at each; notes when each began."""

    def __init__(self, **names: list[str] | Failure | float) -> None:
        self.names = names
        self.outcomes: dict[str, Callable[[Callable[[], None]], object]] = {}
        self.begun: dict[str, float] = {}
        self.running = 0
        self.most = 0

    async def resolve(self, endpoint: Endpoint) -> list[str] | Failure:
        found = self.names[endpoint.host]
        if isinstance(found, float):
            await asyncio.sleep(found)
            return [endpoint.host + "1"]
        return found

    async def attempt(self, endpoint: Endpoint, address: str, connected: Callable[[], None]) -> Failure | None:
        self.begun[address] = asyncio.get_running_loop().time()
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            outcome = self.outcomes.get(address, failed)
            if outcome is connects:
                connected()
                await asyncio.sleep(99)
            if outcome is hangs:
                await asyncio.sleep(99)
            return None if outcome is works else failed(text=address)
        finally:
            self.running -= 1

    async def run(self) -> Failure | None:
        endpoints = [Endpoint(name, 2625) for name in self.names]
        try:
            async with asyncio.timeout(10):
                return await Race(endpoints, self.resolve, self.attempt).run()
        finally:
            assert self.running == 0


def works(connected: Callable[[], None]) -> object: ...
def hangs(connected: Callable[[], None]) -> object: ...
def connects(connected: Callable[[], None]) -> object: ...


def test_the_preferred_one_is_all_that_is_tried_when_it_works(run_loop: RunLoop) -> None:
    async def scenario() -> None:
        course = Course(a=["a1", "a2"], b=["b1"])
        course.outcomes = {"a1": works, "b1": works}
        assert await course.run() is None
        assert list(course.begun) == ["a1"]

    run_loop(scenario())


def test_one_that_hangs_costs_its_head_start_alone(run_loop: RunLoop) -> None:
    async def scenario() -> None:
        course = Course(a=["a1"], b=["b1"], c=["c1"])
        course.outcomes = {"a1": hangs, "b1": hangs, "c1": works}
        assert await course.run() is None
        assert list(course.begun) == ["a1", "b1", "c1"]
        gaps = [later - sooner for sooner, later in itertools.pairwise(course.begun.values())]
        assert min(gaps) >= STAGGER * 0.9

    run_loop(scenario())


def test_failures_are_followed_at_once(run_loop: RunLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(race, "STAGGER", 60.0)

    async def scenario() -> None:
        course = Course(a=["a1", "a2"], b=["b1"])
        course.outcomes = {"b1": works}
        assert await course.run() is None
        assert list(course.begun) == ["a1", "a2", "b1"]

    run_loop(scenario())


def test_tcp_that_is_up_gets_more_time(run_loop: RunLoop) -> None:
    async def scenario() -> None:
        course = Course(a=["a1"], b=["b1"])
        course.outcomes = {"a1": connects, "b1": works}
        assert await course.run() is None
        assert course.begun["b1"] - course.begun["a1"] >= 4 * STAGGER * 0.9

    run_loop(scenario())


def test_the_failure_that_says_most_is_told(run_loop: RunLoop) -> None:
    async def scenario() -> None:
        course = Course(a=failed(Reason.DNS, "no name"), b=["b1"], c=failed(Reason.DNS, "no other name"))
        failure = await course.run()
        assert failure is not None
        assert (failure.reason, failure.text) == (Reason.REFUSED, "b1")
        none = Course(a=failed(Reason.DNS, "no name"))
        failure = await none.run()
        assert failure is not None
        assert failure.text == "no name"

    run_loop(scenario())


def test_a_name_that_is_slow_holds_up_nobody_else(run_loop: RunLoop) -> None:
    async def scenario() -> None:
        course = Course(a=99.0, b=["b1"])
        course.outcomes = {"b1": works}
        assert await course.run() is None
        assert list(course.begun) == ["b1"]

    run_loop(scenario())


def test_a_preferred_name_has_its_head_start_too(run_loop: RunLoop) -> None:
    async def scenario() -> None:
        course = Course(a=STAGGER / 5, b=["b1"])
        course.outcomes = {"a1": works, "b1": works}
        assert await course.run() is None
        assert list(course.begun) == ["a1"]

    run_loop(scenario())


def test_few_at_once_and_all_in_the_end(run_loop: RunLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(race, "STAGGER", 0.001)

    async def scenario() -> None:
        names = {f"n{n}": [f"n{n}a{m}" for m in range(9)] for n in range(8)}
        course = Course(**names)

        async def slowly(endpoint: Endpoint, address: str, connected: Callable[[], None]) -> Failure | None:
            course.running += 1
            course.most = max(course.most, course.running)
            course.begun[address] = 0.0
            await asyncio.sleep(0.02)
            course.running -= 1
            return failed()

        course.attempt = slowly  # type: ignore[method-assign]
        assert await course.run() is not None
        assert course.most == race.AT_ONCE
        assert len(course.begun) == 8 * race.ADDRESSES_MAX

    run_loop(scenario())


def test_cancelled_race_leaves_nobody(run_loop: RunLoop) -> None:
    async def scenario() -> None:
        course = Course(a=["a1"], b=["b1"], c=99.0)
        course.outcomes = {"a1": hangs, "b1": hangs}
        task = asyncio.get_running_loop().create_task(course.run())
        await until(lambda: course.running == 2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run_loop(scenario())


# --- names ----------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.sampled_from([FOUR, SIX]), st.integers(0, 9))))
def test_families_take_turns(numbers: list[tuple[int, int]]) -> None:
    """Nobody is lost or doubled, the first stays first, a family's own order stays, and none waits behind two."""
    found = [(family, f"{family}:{number}") for family, number in numbers]
    ordered = by_turns(found)
    own = {family: [a for each, a in dict.fromkeys(found) if each == family] for family in (FOUR, SIX)}
    for family in (FOUR, SIX):
        assert [address for address in ordered if address in own[family]] == own[family]
    assert len(ordered) == len(own[FOUR]) + len(own[SIX])
    assert ordered[:1] == [address for _, address in found[:1]]
    both = 2 * min(len(own[FOUR]), len(own[SIX]))
    assert all(one[:2] != next_one[:2] for one, next_one in itertools.pairwise(ordered[:both]))


def test_families_take_turns_by_example() -> None:
    found = [(SIX, "6a"), (SIX, "6b"), (SIX, "6c"), (FOUR, "4a")]
    assert by_turns(found) == ["6a", "4a", "6b", "6c"]


class Names:
    """In the place of getaddrinfo(3): answers when it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go = threading.Event()
        self.asked: list[str] = []
        monkeypatch.setattr(socket, "getaddrinfo", self.answer)

    def answer(self, host: str, port: int, **_: object) -> list[tuple[int, int, int, str, tuple[str, int]]]:
        self.asked.append(host)
        self.go.wait(20)
        if host.startswith("no"):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(FOUR, 1, 6, "", ("192.0.2.1", port)), (FOUR, 1, 6, "", ("192.0.2.2", port))]


def test_a_resolver_that_hangs_holds_a_bounded_number_of_threads(
    run_loop: RunLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        names = Names(monkeypatch)
        look_up = Resolver(asyncio.get_running_loop())
        waiting = [asyncio.ensure_future(look_up(f"n{n}", 25)) for n in range(20)]
        await until(lambda: len(names.asked) == resolver.THREADS)
        await asyncio.sleep(0.05)
        assert len(names.asked) == resolver.THREADS
        threads = [thread for thread in threading.enumerate() if thread.name == "hubtunnel-name"]
        assert len(threads) == resolver.THREADS
        assert all(thread.daemon for thread in threads)  # the process does not wait for them
        names.go.set()
        assert await asyncio.gather(*waiting) == [["192.0.2.1", "192.0.2.2"]] * 20
        await until(lambda: not any(thread.name == "hubtunnel-name" for thread in threading.enumerate()))

    run_loop(scenario())


def test_the_same_question_is_asked_once_and_anew_afterwards(
    run_loop: RunLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        names = Names(monkeypatch)
        look_up = Resolver(asyncio.get_running_loop())
        waiting = [asyncio.ensure_future(look_up("name", 25)) for _ in range(3)]
        await until(lambda: names.asked)
        waiting[0].cancel()  # who stops waiting takes nothing from the others
        names.go.set()
        assert await waiting[1] == await waiting[2] == ["192.0.2.1", "192.0.2.2"]
        assert names.asked == ["name"]
        await look_up("name", 25)
        assert names.asked == ["name", "name"]
        with pytest.raises(socket.gaierror, match="not known"):
            await look_up("no.such", 25)
        await look_up.close()

    run_loop(scenario())


def test_answers_after_the_end_harm_nothing(run_loop: RunLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    names = Names(monkeypatch)

    async def scenario() -> None:
        look_up = Resolver(asyncio.get_running_loop())
        waiting = asyncio.ensure_future(look_up("name", 25))
        await until(lambda: names.asked)
        await look_up.close()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    run_loop(scenario())
    names.go.set()
    deadline = time.monotonic() + 5
    while any(thread.name == "hubtunnel-name" for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_real_names(run_loop: RunLoop) -> None:
    async def scenario() -> None:
        look_up = Resolver(asyncio.get_running_loop())
        assert "127.0.0.1" in await look_up("localhost", 25)
        with pytest.raises(socket.gaierror):
            await look_up("a" * 70 + ".example", 25)  # longer than a label may be: Python's own codec refuses it
        await look_up.close()

    run_loop(scenario())
