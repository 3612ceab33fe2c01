"""Every number of the protocol, in one place (docs/PROTOCOL.md holds the same tables; a test compares them).

The first part is specification: changing a value there makes another protocol. The second part is implementation:
limits and timers that two hubs may set differently.
"""

from __future__ import annotations

from enum import Enum, IntEnum, StrEnum

from hubtunnel.crypto import MLKEM_CIPHERTEXT_LEN, MLKEM_PUBLIC_LEN, TAG_LEN, X25519_LEN

# =============================================================================================================
# Specification
# =============================================================================================================

VERSION = 0x01
HOUR = 3600  # seconds; the epoch of a hint is floor(unix time / HOUR)
DEFAULT_PORT = 2625

HASH_LEN = 32
IDFP_LEN = 32  # fingerprint of an identity
FP_LEN = 32  # fingerprint of a link key under its identity
SID_LEN = 16
BOOT_LEN = 16
PSK_LEN = 32
NO_PSK = bytes(PSK_LEN)
KEY_ID_LEN = 8
LINK_PUBLIC_LEN = X25519_LEN + MLKEM_PUBLIC_LEN  # 1216
EPHEMERAL_SEED_LEN = 96  # 32 X25519 private ‖ 64 ML-KEM seed

# --- labels (PROTOCOL.md 2) -----------------------------------------------------------------------------------


class Domain(bytes, Enum):
    """Labels that stand alone: as the salt of an Extract, or at the head of what is hashed or signed."""

    IDENTITY = b"hubtunnel/1 identity"
    LINK_KEY = b"hubtunnel/1 link key"
    PAIR = b"hubtunnel/1 pair"
    HEDGE = b"hubtunnel/1 hedge"
    HANDSHAKE = b"hubtunnel/1 handshake"
    RATCHET = b"hubtunnel/1 ratchet"
    CARD = b"hubtunnel/1 card"
    CARD_HASH = b"hubtunnel/1 card hash"


class Label(StrEnum):
    """Labels of Expand, which puts "hubtunnel/1 " before them and a NUL behind."""

    HINT = "hint"
    GATE = "gate"
    CHAIN = "chain"
    HEDGE = "hedge"
    EPHEMERAL = "ephemeral"
    AUTH_R = "auth R"
    AUTH_I = "auth I"
    DATA_I = "data I"
    DATA_R = "data R"
    ROOT = "root"
    SESSION_ID = "session id"
    KEY = "key"
    IV = "iv"
    STEP = "step"
    RESUME_I = "resume I"
    RESUME_R = "resume R"


# --- handshake messages: field, length in bytes; offsets follow from the order (PROTOCOL.md 4.1) -------------

M1_FIELDS: tuple[tuple[str, int], ...] = (
    ("ver", 1),
    ("hint", 16),
    ("eX_I", X25519_LEN),
    ("eM_I", MLKEM_PUBLIC_LEN),
    ("ct_R", MLKEM_CIPHERTEXT_LEN),
    ("gate", 16),
)
M2_FIELDS: tuple[tuple[str, int], ...] = (
    ("eX_R", X25519_LEN),
    ("ct_e", MLKEM_CIPHERTEXT_LEN),
    ("ct_I", MLKEM_CIPHERTEXT_LEN),
    ("auth_R", HASH_LEN),
)
M3_FIELDS: tuple[tuple[str, int], ...] = (("auth_I", HASH_LEN),)
RK1_FIELDS: tuple[tuple[str, int], ...] = M1_FIELDS[2:5]
RK2_FIELDS: tuple[tuple[str, int], ...] = M2_FIELDS
RK3_FIELDS: tuple[tuple[str, int], ...] = M3_FIELDS
START_FIELDS: tuple[tuple[str, int], ...] = (("boot_I", BOOT_LEN), ("dial", 8))
STARTED_FIELDS: tuple[tuple[str, int], ...] = (("boot_R", BOOT_LEN),)
RESUME_FIELDS: tuple[tuple[str, int], ...] = (
    ("sid", SID_LEN),
    ("m", 8),
    ("received_offset", 8),
    ("send_base", 8),
    ("boot_I", BOOT_LEN),
    ("dial", 8),
    ("proof_I", HASH_LEN),
)
RESUMED_FIELDS: tuple[tuple[str, int], ...] = (
    ("status", 1),
    ("boot_R", BOOT_LEN),
    ("received_offset", 8),
    ("send_base", 8),
    ("proof_R", HASH_LEN),
)


def size_of(fields: tuple[tuple[str, int], ...]) -> int:
    """Bytes that a message of these fields takes."""
    return sum(length for _, length in fields)


HELLO_PREFIX_LEN = 1 + 16  # what a responder reads before it looks anything up: ver ‖ hint
M1_LEN = size_of(M1_FIELDS)  # 2337
M2_LEN = size_of(M2_FIELDS)  # 2240
M3_LEN = size_of(M3_FIELDS)  # 32

# --- records (PROTOCOL.md 5) ---------------------------------------------------------------------------------

RECORD_HEADER_LEN = 3  # u8 epoch ‖ u16 length of the sealed body
RECORD_BODY_MIN = 1 + TAG_LEN  # 17: a type and a tag
RECORD_BODY_MAX = 65535
RECORD_DATA_MAX = RECORD_BODY_MAX - RECORD_BODY_MIN  # 65518
KEY_STEP_RECORDS = 1024  # the key steps before record 1024, 2048, …


class Record(IntEnum):
    """Types of records."""

    PAD = 0
    DATA = 1
    ACK = 2
    CLOSE = 3
    RESUME = 4
    RESUMED = 5
    PING = 6
    PONG = 7
    START = 8
    STARTED = 9
    RK1 = 16
    RK2 = 17
    RK3 = 18


# Exact length of the data of each record type; None: any length up to RECORD_DATA_MAX.
RECORD_DATA_LEN: dict[Record, int | None] = {
    Record.PAD: None,
    Record.DATA: None,
    Record.ACK: 8,
    Record.CLOSE: 9,
    Record.RESUME: size_of(RESUME_FIELDS),
    Record.RESUMED: size_of(RESUMED_FIELDS),
    Record.PING: 8,
    Record.PONG: 8,
    Record.START: size_of(START_FIELDS),
    Record.STARTED: size_of(STARTED_FIELDS),
    Record.RK1: size_of(RK1_FIELDS),
    Record.RK2: size_of(RK2_FIELDS),
    Record.RK3: size_of(RK3_FIELDS),
}

# --- frames (PROTOCOL.md 8) ----------------------------------------------------------------------------------

FRAME_HEADER_LEN = 7  # u8 type ‖ u32 stream ‖ u16 length
FRAME_PAYLOAD_MAX = 65535
OPTIONAL_FRAME_FROM = 0x80  # types from here on are ignored by who does not know them
CARD_PART_MAX = 32 * 1024
INITIAL_CREDIT = 64 * 1024


class Frame(IntEnum):
    """Types of frames."""

    HELLO = 0x01
    OPEN = 0x10
    DATA = 0x11
    END = 0x12
    RESET = 0x13
    CREDIT = 0x14
    GOAWAY = 0x20
    CARD_HAVE = 0x30
    CARD_PART = 0x31
    CARD_ACK = 0x32
    CARD_NAK = 0x33
    CARD_GET = 0x34
    RECEIPT = 0x40
    RECEIPT_ACK = 0x41


class Code(IntEnum):
    """Why something ends: one table for CLOSE, RESET, GOAWAY and CARD_NAK."""

    DONE = 0
    DRAINED = 1
    RESTART = 2
    SUPERSEDED = 3
    REFUSED = 4
    LIMIT = 5
    MTA_UNREACHABLE = 6
    MTA_FAILED = 7
    BROKEN = 8
    TIMED_OUT = 9
    PROTOCOL = 10
    REQUIRED_CAPABILITY = 11
    CARD_OLDER = 12
    CARD_FORK = 13
    CARD_SIGNATURE = 14
    CARD_CHAIN = 15
    CARD_LIMIT = 16
    CARD_CRITICAL = 17

    @property
    def word(self) -> str:
        """The code's name as it stands in logs and texts, for example ``mta_unreachable``."""
        return self.name.lower()


def code_word(code: int) -> str:
    """The word of a code that a peer sent; one from a newer version is shown by its number."""
    try:
        return Code(code).word
    except ValueError:
        return f"code_{code}"


# --- cards (PROTOCOL.md 9) -----------------------------------------------------------------------------------

CARD_VERSION = 1
CARD_NAME_MAX = 253
CARD_LINK_KEYS_MAX = 64
CARD_WINDOW_MAX = 400 * 86400
CARD_MAX = 128 * 1024

# --- windows and hours of the responder (PROTOCOL.md 3) --------------------------------------------------------

WINDOW_SLACK = 3600.0  # seconds by which a listener widens every key window, since clocks differ
HINT_HOURS = (-1, 0, 1)  # the hours, relative to now, whose hints a listener knows
SEEN_GATES_PER_PIN = 2048  # gate tags remembered per pin and hour; then DRAIN

# =============================================================================================================
# Implementation: limits and timers
# =============================================================================================================

HANDSHAKE_TIMEOUT = 10.0  # seconds until M1..M3 must be through; a responder adds up to the jitter below
HANDSHAKE_JITTER = 5.0
FIRST_RECORD_TIMEOUT = 10.0  # after M3 until START or RESUME; the initiator sends it in the same write
PING_ANSWER_TIMEOUT = 10.0  # PROTOCOL.md 7: a session asked in a contest answers by then or counts as lost
DEAD_FACTOR = 3  # a carrier is dead after this many keepalive intervals without a record

RATCHET_AFTER = 120.0  # seconds after the first DATA of an epoch
RATCHET_RECORDS = 1 << 20
RATCHET_BYTES = 1 << 30
RATCHET_INTERVAL_MIN = 2.0  # what an initiator keeps between steps
RATCHET_INTERVAL_REFUSED = 0.5  # what a responder refuses
RATCHET_STALL = 30.0  # a step without any record received for so long ends the carrier
EPOCH_RECORDS_MAX = 1 << 22
EPOCH_BYTES_MAX = 1 << 34
EPOCH_AGE_MAX = 600.0  # after the first DATA of an epoch

ACK_BYTES = 256 * 1024
ACK_DELAY = 0.2
SEND_WINDOW = 16 << 20  # un-ACKed bytes kept per session and direction
SEND_WINDOW_TIGHT = 256 * 1024  # the same when the hub's memory limit is half used
SEAL_AHEAD = 256 * 1024  # bytes sealed ahead of the wire, at most
SEAL_AHEAD_RECORDS = 4  # and on a slow way so many records of the room that they have there
RECORD_TIME = 0.001  # seconds that a record takes to leave: what it has room for on a slow way
RECORDS_PER_RTT = 16  # or, on a long one, so many that follow each other in a round trip
RECORD_ROOM_MIN = 4096  # and so many bytes on a way however slow
CONTROL_QUEUE_MAX = 1 << 20  # queued control bytes; more ends the session

CREDIT_MAX = 16 << 20
STREAM_QUANTUM = 16 * 1024  # payload bytes a stream may put in a row before the next stream's turn
STREAM_SEND_HIGH = 128 * 1024  # bytes queued on a stream at which its local socket is no longer read
STREAM_SEND_LOW = 32 * 1024

LINGER = 150.0
LINGER_AFTER_NEWCOMER = 20.0  # PROTOCOL.md 7: once another boot of the peer has answered
RESPONDER_DIAL_AFTER = 15.0  # a responder whose session lost its carrier waits so long before it dials itself
CLOSE_ANSWER_TIMEOUT = 60.0
SESSIONS_PER_LINK = 4
CARRIERS_PENDING_PER_LINK = 8
BOOTS_REMEMBERED = 16
BACKOFF_RESET_AFTER = 60.0  # a carrier must have been up for so long before back-off starts anew
BACKOFF_RESET_AFTER_LOSS = 1.0  # the same, where it was lost with a session that waits to go on
BACKOFF_CEILING_AFTER_LOSS = 2.0  # what one that was lost sooner leaves of the ceiling
RESTART_EXPECTED = 60.0  # a peer that said that it restarts is expected back within this
RESTART_CEILING = 4.0  # and while it is, no wait between two dials is longer
