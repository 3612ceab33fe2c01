"""docs/PROTOCOL.md and the code state the same protocol.

Every table of the document that carries a name is compared with the constants, both ways, and every step (PC1, RT4 …)
and section that the code names must stand in the document. Each comparison has a control that shows that it can find.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from enum import Enum
from pathlib import Path

import pytest

from hubtunnel.crypto import TAG_LEN
from hubtunnel.errors import ProtocolError
from hubtunnel.protocol import constants, frames, ratchet
from hubtunnel.protocol.constants import Code, Domain, Frame, Label, Record
from hubtunnel.protocol.records import TrafficKey

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "PROTOCOL.md").read_text(encoding="utf-8")

RATCHETS = {"ratchet I": ratchet.INITIATOR, "ratchet R": ratchet.RESPONDER}

Rows = list[list[str]]
Facts = dict[tuple[str, str], object]  # (table, row) -> what it says


# --- the document -------------------------------------------------------------------------------------------------


def named_tables(text: str) -> dict[str, tuple[str, Rows]]:
    """Tables under a line **Table `name`**: the rest of that line, and the cells of their rows without the heading."""
    found: dict[str, tuple[str, Rows]] = {}
    lines = iter(text.splitlines())
    for line in lines:
        caption = re.match(r"\*\*Table `([\w ]+)`\*\*(.*)", line)
        if caption is None:
            continue
        assert next(lines) == "", f"an empty line is missing below the caption of {caption[1]}"
        rows = []
        while (row := next(lines, "")).startswith("|"):
            rows.append([cell.strip() for cell in row.strip("|").split("|")])
        assert caption[1] not in found, f"two tables {caption[1]}"
        found[caption[1]] = caption[2], rows[2:]
    return found


def bare(cell: str) -> str:
    """A cell without its code marks."""
    return cell.strip("`")


def value(cell: str) -> object:
    """A value as the tables of limits write them: 17, 0x80, 0.5, 2^20, −1, 0, 1 (a tuple), 0^32 (zero bytes)."""
    cell = cell.replace("−", "-")
    if "," in cell:
        return tuple(value(part.strip()) for part in cell.split(","))
    if cell.startswith("0x"):
        return int(cell, 16)
    if "^" in cell:
        base, power = map(int, cell.split("^"))
        return bytes(power) if base == 0 else base**power
    return float(cell) if "." in cell else int(cell)


def layout(rows: Rows) -> Iterator[tuple[str, object]]:
    for offset, length, field, *_ in rows:
        yield bare(field), (int(offset), int(length))


def facts_of(text: str) -> Facts:
    """What the document's named tables say."""
    facts: Facts = {}
    for table, (caption, rows) in named_tables(text).items():
        entries: Iterator[tuple[str, object]]
        if table in ("specification", "implementation"):
            entries = ((bare(row[0]), value(row[1])) for row in rows)
        elif table in ("domains", "labels"):
            entries = ((bare(row[0]), bare(row[1])) for row in rows)
        elif table == "codes":
            entries = ((bare(row[1]), int(row[0])) for row in rows)
        elif table == "records":
            entries = ((bare(row[1]), (int(row[0]), row[2])) for row in rows)
        elif table == "frames":
            entries = ((bare(row[1]), (int(row[0], 16), row[2], row[3])) for row in rows)
        elif table in RATCHETS:
            entries = ((f"{row[0]} {row[1]}", row[2]) for row in rows)
        elif table in ("record", "frame"):
            entries = ((bare(row[2]), (int(row[0]), value(row[1]) if row[1].isdecimal() else row[1])) for row in rows)
        else:
            size = re.search(r"(\d+) bytes", caption)
            assert size, f"the caption of {table} names no size"
            facts[table, "size"] = int(size[1])
            entries = layout(rows)
        for name, said in entries:
            assert (table, name) not in facts, f"{name} stands in {table} twice"
            facts[table, name] = said
    return facts


# --- the code -----------------------------------------------------------------------------------------------------


def constants_by_part() -> dict[str, dict[str, object]]:
    """The plain constants, by the part of the module in which they stand."""
    source = inspect.getsource(constants)
    border = next(n for n, line in enumerate(source.splitlines(), 1) if line.startswith("# Implementation"))
    parts: dict[str, dict[str, object]] = {"specification": {}, "implementation": {}}
    for node in ast.parse(source).body:
        if not isinstance(node, ast.Assign | ast.AnnAssign):
            continue
        target = node.targets[0] if isinstance(node, ast.Assign) else node.target
        assert isinstance(target, ast.Name)
        parts["specification" if node.lineno < border else "implementation"][target.id] = getattr(constants, target.id)
    return parts


def facts_of_code() -> Facts:
    """The same facts as the code has them."""
    facts: Facts = {}
    for part, named in constants_by_part().items():
        for name, said in named.items():
            if name.endswith("_FIELDS"):
                message, offset = name.removesuffix("_FIELDS"), 0
                assert isinstance(said, tuple)
                for field, length in said:
                    facts[message, field] = (offset, length)
                    offset += length
                facts[message, "size"] = offset
            elif name != "RECORD_DATA_LEN":  # stands in the table of records
                facts[part, name] = said
    for domain in Domain:
        facts["domains", domain.name] = domain.value.decode("ascii")
    for label in Label:
        facts["labels", label.name] = label.value
    for code in Code:
        facts["codes", code.word] = int(code)
    for record in Record:
        length = constants.RECORD_DATA_LEN[record]
        facts["records", record.name] = (int(record), "any" if length is None else str(length))
    for frame in Frame:
        about = "session" if frame in frames.SESSION_FRAMES else "stream"
        facts["frames", frame.name] = (int(frame), about, payload_lengths(frame, 0 if about == "session" else 1))
    for table, transitions in RATCHETS.items():
        for (state, happened), following in transitions.items():
            facts[table, f"{state.name} {happened.value}"] = following.name
    for field, said in record_parts():
        facts["record", field] = said
    for field, said in frame_parts():
        facts["frame", field] = said
    return facts


def record_parts() -> Iterator[tuple[str, tuple[int, int | str]]]:
    """Where epoch, length and body stand in a record that the code seals."""
    sealed = TrafficKey(bytes(32), 0xEE).seal(bytes(0x1234 - TAG_LEN))
    yield "epoch", (sealed.index(b"\xee"), 1)
    yield "length", (sealed.index(b"\x12\x34"), 2)
    yield "body", (len(sealed) - 0x1234, "`length`")


def frame_parts() -> Iterator[tuple[str, tuple[int, int | str]]]:
    """Where type, stream, length and payload stand in a frame that the code writes."""
    whole = frames.encode(0x11, 0x22222222, bytes(0x3333))
    for field, mark in (("type", b"\x11"), ("stream", b"\x22"), ("length", b"\x33")):
        yield field, (whole.index(mark), whole.count(mark))
    yield "payload", (len(whole) - 0x3333, "`length`")


def payload_lengths(frame: Frame, stream: int) -> str:
    """Which payload lengths the code takes for a frame, as the document writes them."""
    if frame is Frame.CARD_PART:
        return f"17 to {16 + constants.CARD_PART_MAX}"
    taken = []
    for length in (*range(64), constants.FRAME_PAYLOAD_MAX):
        try:
            frames.check_frame(frame, stream, length)
        except ProtocolError:
            continue
        taken.append(length)
    return str(taken[0]) if len(taken) == 1 else "any" if len(taken) == 65 else str(taken)


def differences(text: str) -> list[str]:
    """Where the document and the code do not say the same; empty when they do."""
    document, code = facts_of(text), facts_of_code()
    return [
        f"{table}, {row}: the document has {document.get((table, row), 'nothing')!r}, "
        f"the code {code.get((table, row), 'nothing')!r}"
        for table, row in sorted(document.keys() | code.keys())
        if document.get((table, row), "nothing") != code.get((table, row), "nothing")
    ]


# --- tables against constants -------------------------------------------------------------------------------------


def test_tables_and_constants_agree() -> None:
    assert differences(TEXT) == []


def rows_with_a_name() -> list[tuple[str, str]]:
    """Every row of every named table, as (table, the line)."""
    found = []
    table = None
    for line in TEXT.splitlines():
        if caption := re.match(r"\*\*Table `([\w ]+)`\*\*", line):
            table = caption[1]
        elif (
            table
            and line.startswith("|")
            and not line.startswith(("| offset", "| type", "| code", "| name", "| state", "|---"))
        ):
            found.append((table, line))
        elif table and line and not line.startswith("|"):
            table = None
    return found


def with_row(text: str, table: str, row: str, replacement: str) -> str:
    """The text with one row of one table replaced (rows of different tables may be equal)."""
    head, caption, tail = text.partition(f"**Table `{table}`**")
    assert row + "\n" in tail
    return head + caption + tail.replace(row + "\n", replacement, 1)


def altered(table: str, row: str) -> str:
    """The row with one other value in it."""
    cells = row.split("|")
    at = 2 if table in ("specification", "implementation", "domains", "labels") else 1
    cell = cells[at].strip()
    if cell.startswith("`") or cell.isalpha():
        cells[at] = f" `{cell.strip('`')}x` "
    elif table in ("specification", "implementation") and ("^" in cell or "," in cell or "." in cell):
        cells[at] = f" {cell}1 "
    elif cell.startswith("0x"):
        cells[at] = f" 0x{int(cell, 16) + 1:02x} "
    else:
        cells[at] = f" {int(cell) + 1} "
    return "|".join(cells)


@pytest.mark.parametrize(("table", "row"), rows_with_a_name())
def test_control_every_changed_or_missing_row_is_found(table: str, row: str) -> None:
    assert differences(with_row(TEXT, table, row, altered(table, row) + "\n"))
    assert differences(with_row(TEXT, table, row, ""))


def test_control_covers_all_tables() -> None:
    assert {table for table, _ in rows_with_a_name()} == set(named_tables(TEXT)) == {t for t, _ in facts_of_code()}
    assert len(rows_with_a_name()) > 150


@pytest.mark.parametrize("name", sorted(constants_by_part()["specification"]))
def test_control_a_changed_constant_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = getattr(constants, name)
    other: object
    if name == "RECORD_DATA_LEN":
        other = {**before, Record.ACK: 9}
    elif isinstance(before, bytes):
        other = before + b"\0"
    elif isinstance(before, tuple):
        other = before[:-1]
    else:
        other = before + 1
    monkeypatch.setattr(constants, name, other)
    assert differences(TEXT)


def test_control_a_changed_size_in_a_caption_is_found() -> None:
    assert differences(TEXT.replace("**Table `M1`**, I to R, 2337 bytes", "**Table `M1`**, I to R, 2338 bytes"))


def test_example_frames_are_those_that_the_code_writes() -> None:
    blocks = re.findall(r"^```\n((?:[0-9a-f]{2})+ [0-9a-f ]+)\n```$", TEXT, re.MULTILINE)
    hello, opening = (bytes.fromhex(block) for block in blocks)
    assert hello == frames.encode_hello(frames.Hello("0.1.0", (), ()))
    assert opening == frames.encode(Frame.OPEN, 1, frames.encode_open(("192.0.2.7", 40000)))


# --- steps and sections -------------------------------------------------------------------------------------------

DEFINED = re.compile(r"^\* \*\*([A-Z]{2}\d+)\*\*", re.MULTILINE)
STEPS = DEFINED.findall(TEXT)
PREFIXES = {step[:2] for step in STEPS}
SECTIONS = {"PROTOCOL.md " + n for n in re.findall(r"^#{2,3} (\d+(?:\.\d+)?) ", TEXT, re.MULTILINE)}


def named_steps(text: str) -> set[str]:
    """Steps that a text names; RT4–RT6 and RT4 to RT6 name both ends."""
    return {step for step in re.findall(r"\b[A-Z]{2}\d{1,2}\b", text) if step[:2] in PREFIXES}


def named_sections(text: str) -> set[str]:
    """Sections that a text names as PROTOCOL.md 4.1, or PROTOCOL.md 6.3, 7.2."""
    lists = re.findall(r"PROTOCOL\.md (\d+(?:\.\d+)?(?:, \d+(?:\.\d+)?)*)", text)
    return {"PROTOCOL.md " + number for numbers in lists for number in numbers.split(", ")}


def unknown_names(text: str) -> set[str]:
    """Steps and sections that a text names and the document does not have."""
    return (named_steps(text) - set(STEPS)) | (named_sections(text) - SECTIONS)


def test_steps_are_numbered_without_gap_or_double() -> None:
    for prefix in PREFIXES:
        numbers = [int(step[2:]) for step in STEPS if step[:2] == prefix]
        assert numbers == list(range(1, len(numbers) + 1)), prefix


def test_the_document_names_only_its_own_steps() -> None:
    assert unknown_names(TEXT) == set()


SOURCES = sorted((ROOT / "hubtunnel").rglob("*.py"))


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_code_names_only_steps_and_sections_of_the_document(source: Path) -> None:
    assert unknown_names(source.read_text(encoding="utf-8")) == set()


def test_control_an_unknown_step_or_section_is_found() -> None:
    assert unknown_names("RT1–RT99, see PROTOCOL.md 7.2, 7.99") == {"RT99", "PROTOCOL.md 7.99"}
    code = "".join(source.read_text(encoding="utf-8") for source in SOURCES)
    assert len(named_steps(code)) > 50  # the code does name steps
    assert named_sections(code)


def test_links_of_the_contents_lead_to_headings() -> None:
    targets = {
        "#" + re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^## (.+)$", TEXT, re.MULTILINE)
    }
    links = re.findall(r"\]\((#[^)]+)\)", TEXT)
    assert links
    assert set(links) == targets


def test_no_enum_of_the_constants_is_left_out() -> None:
    compared = {Domain, Label, Code, Record, Frame}
    defined = {
        member
        for _, member in inspect.getmembers(constants, inspect.isclass)
        if issubclass(member, Enum) and member.__module__ == constants.__name__
    }
    assert defined == compared
