"""Frames, values, the table of who may ask what, and the parts of a wish list."""

from __future__ import annotations

from types import NoneType

import msgspec
import pytest

from diycloud.agent import framing
from diycloud.agent.client import _open_reply
from diycloud.agent.framing import MAX_FRAME, Reply, Request, pack
from diycloud.agent.groups import MAX_TEXT
from diycloud.agent.handlers import TABLE, handler_for
from diycloud.agent.protocol import (
    MAX_BATCH,
    MAX_GROUPS,
    MAX_PART,
    MAX_READ,
    Account,
    AnyMessage,
    EnsureAccounts,
    Limits,
    Message,
    Outcome,
    Ping,
    Sync,
    SyncReport,
    Usage,
    Wish,
)
from diycloud.agent.reconcile import MAX_LISTED
from diycloud.agent.server import _decode, _failure
from diycloud.agent.state import Caller, Role
from diycloud.errors import BY_CODE, DiyCloudError, InvalidInput, PermissionDenied, TooManyRequests
from diycloud.host.groups import NO_ACL

LONGEST = "x" * 32
BIG = Wish(
    LONGEST,
    2**53,
    Limits(4096.0, 1 << 60, 4_000_000),
    full_name="\U0001f600" * 100,
    shell="/" + "x" * 100,
    groups=[LONGEST] * 64,
)


def test_every_message_is_in_the_table_and_in_the_union() -> None:
    messages = set(Message.__subclasses__())
    assert set(TABLE) == messages == set(AnyMessage.__args__)
    assert all(handler.callers for handler in TABLE.values())


def test_who_is_not_in_the_table_may_not_ask() -> None:
    for asked in (Ping(), Sync([], True, True), EnsureAccounts([Account(BIG)])):
        assert handler_for(asked, Caller(0, 1, Role.ROOT)) is TABLE[type(asked)]
        with pytest.raises(PermissionDenied, match="gate may not"):
            handler_for(asked, Caller(7, 1, "gate"))  # type: ignore[arg-type]
    with pytest.raises(PermissionDenied):
        handler_for(Message(), Caller(0, 1, Role.ROOT))


def test_a_request_survives_the_way() -> None:
    request = Request(7, EnsureAccounts([Account(BIG, create=True)]), deadline=1.5)
    frame = pack(request)
    assert framing.frame_length(frame[:4]) == len(frame) - 4
    assert _decode(frame[4:]) == request


@pytest.mark.parametrize("cls", BY_CODE.values())
def test_an_error_survives_the_way(cls: type[DiyCloudError]) -> None:
    given = cls("what", "then")
    if isinstance(given, TooManyRequests):
        given.retry_after = 1234
    with pytest.raises(cls) as raised:
        _open_reply(pack(_failure(7, given))[4:], 7, NoneType)
    assert vars(raised.value) == vars(given)


def test_lengths_out_of_range_are_refused() -> None:
    for length in (0, MAX_FRAME + 1, 2**32 - 1):
        with pytest.raises(ValueError, match="not 1"):
            framing.frame_length(length.to_bytes(4, "big"))
    with pytest.raises(ValueError, match="over"):
        pack(Reply(1, message="x" * MAX_FRAME))


def test_a_key_twice_is_refused() -> None:
    twice = b"\x83\xa2id\x01\xa2id\x02\xa4body\x81\xa7message\xa4ping"
    with pytest.raises(InvalidInput, match="twice"):
        _decode(twice)


def test_no_nesting_ends_the_agent() -> None:
    for data in (b"\x91" * 60_000, b"\x81\xa1a" * 20_000, b"\xdd\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff"):
        with pytest.raises(InvalidInput):
            _decode(data)


@pytest.mark.parametrize("name", ["root\n", "-x", "x" * 33, "", "Alice", "a b", "rооt", "a\0", "1a", "é"])
def test_names_that_are_none_are_refused(name: str) -> None:
    wish = msgspec.to_builtins(BIG) | {"name": name}
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(wish, Wish)


def test_the_parts_of_a_wish_list_fit_frames_and_lose_nothing() -> None:
    wishes = [msgspec.structs.replace(BIG, generation=number) for number in range(1000)]
    parts = list(framing.parts(wishes, MAX_PART))
    assert [wish for part in parts for wish in part] == wishes
    for part in parts:
        assert len(pack(Request(1, Sync(part, True, True)))) <= MAX_FRAME + 4
    assert list(framing.parts([], MAX_PART)) == [[]], "an empty list is a wish list too"
    small = Wish("a", 1, Limits(1.0, 64 << 20, 50))
    assert [len(part) for part in framing.parts([small] * 401, MAX_PART)] == [200, 200, 1]


def test_accounts_in_many_groups_are_sent_in_parts() -> None:
    accounts = [Account(BIG, "$6$" + "x" * 200)] * MAX_BATCH
    with pytest.raises(ValueError, match="over"):
        pack(Request(1, EnsureAccounts(accounts)))
    cut = list(framing.parts(accounts, MAX_BATCH))
    assert sum(map(len, cut)) == MAX_BATCH
    for part in cut:
        pack(Request(1, EnsureAccounts(part)))


def test_the_largest_answers_fit_a_frame() -> None:
    name, long = LONGEST, "x" * 300
    names = [name] * MAX_LISTED
    worst = (
        [Usage(name, 1.5, 2**53, 2**53, 2**31, 2**31, 2**53)] * MAX_READ,
        [Outcome(name, 2**31, True, "permission-denied", long, long)] * MAX_BATCH,
        [Outcome(name, 2**31, True, "permission-denied", "x" * MAX_TEXT)] * MAX_GROUPS,
        [Outcome(name, 2**31, True, warning=NO_ACL, made=True)] * MAX_GROUPS,
        SyncReport(
            names,
            names,
            names,
            [Outcome(name, 1, False, "x", long)] * (MAX_LISTED // 5),
            long,
            names,
            [(name, 2**53)] * MAX_LISTED,
        ),
        ["$y$" + "x" * 256] * MAX_BATCH,
    )
    for answer in worst:
        assert len(pack(Reply(1, msgspec.Raw(msgspec.msgpack.encode(answer))))) <= MAX_FRAME + 4


def test_an_error_has_no_answer() -> None:
    reply = msgspec.msgpack.decode(pack(Reply(3, code="conflict", message="m", hint="h"))[4:], type=Reply)
    assert (reply.id, reply.code, msgspec.msgpack.decode(reply.ok)) == (3, "conflict", None)
    assert _decode(pack(Request(1, Ping()))[4:]).deadline == 60.0
