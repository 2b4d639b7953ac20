"""Each condition of both servers and of the migration that `assess` turns into a reason, one by one."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.shared.model import ErrorKind, Failure, LagLimit, Phase, Reason, ReasonCode, TableId
from services.shared.model.readiness import assess
from services.shared.model.readiness_facts import (
    DestinationFacts,
    ForeignWriter,
    Limits,
    OldTransaction,
    ReadinessFacts,
    Seen,
    SequenceUse,
    SourceFacts,
)

T = TableId("public", "t")
READY = ReadinessFacts(
    "m", Phase.STREAMING, applier_live=True, source_seen=Seen(1.0), destination_seen=Seen(1.0)
)


def only(facts: ReadinessFacts, limits: Limits | None = None) -> Reason:
    readiness = assess(facts, limits or Limits())
    (reason,) = readiness.reasons
    assert readiness.can_switch is not reason.blocking
    return reason


def test_streaming_migration_with_nothing_in_the_way_can_switch() -> None:
    assert assess(READY).can_switch
    assert assess(READY).reasons == ()


@pytest.mark.parametrize(
    ("facts", "code", "text", "remedy"),
    [
        (replace(READY, phase=Phase.COPY), ReasonCode.NOT_STREAMING, "in phase copy, not streaming", "wait"),
        (replace(READY, phase=Phase.PAUSED), ReasonCode.PAUSED, "phase paused", "pgmig-cli resume --id m"),
        (replace(READY, phase=Phase.SWITCHED_OVER), ReasonCode.NOT_STREAMING, "switched-over", "has ended"),
        (replace(READY, follow=False), ReasonCode.NOT_REPLICATING, "copies the database once", "--follow"),
        (
            replace(READY, phase=Phase.FAILED, failure=Failure(ErrorKind.APPLY_FAILED, "it broke", "mend")),
            ReasonCode.FAILED,
            "has failed: it broke",
            "mend",
        ),
        (
            replace(READY, phase=Phase.FAILED, failure=Failure(ErrorKind.APPLY_FAILED, "it broke")),
            ReasonCode.FAILED,
            "it broke",
            "pgmig-cli resume --id m",
        ),
        (replace(READY, needs_credentials=True), ReasonCode.CREDENTIALS_NEEDED, "not known", "--source-uri"),
        (replace(READY, slot_lost=True), ReasonCode.SLOT_LOST, "pgmig_m was invalidated", "cleanup --id m"),
        (
            replace(READY, tables=3, uncopied=(T,)),
            ReasonCode.COPY_UNFINISHED,
            "1 of 3 tables are not copied yet: public.t",
            "status --tables",
        ),
        (
            replace(READY, applier_live=False),
            ReasonCode.NO_APPLIER,
            "no applier is at work for migration m",
            "attached",
        ),
        (
            replace(READY, phase=Phase.CATCHUP, lag_bytes=100, lag_seconds=3.0),
            ReasonCode.LAG,
            "3 s (100 bytes) behind",
            "caught up",
        ),
        (
            replace(READY, source_seen=Seen()),
            ReasonCode.SOURCE_UNKNOWN,
            "source has not been checked yet",
            "connect to the source",
        ),
        (
            replace(READY, source_seen=Seen(12.4, "cannot connect")),
            ReasonCode.SOURCE_UNKNOWN,
            "what is known of the source is 12 s old: cannot connect",
            "tries again",
        ),
        (
            replace(READY, destination_seen=Seen(91.0)),
            ReasonCode.DESTINATION_UNKNOWN,
            "what is known of the destination is 91 s old",
            "connect to the destination",
        ),
        (
            replace(READY, unreplicated=(T,), destination=DestinationFacts(missing=(TableId("a", "b"), T))),
            ReasonCode.TABLES_MISSING,
            "not on the destination: a.b, public.t",
            "resync-table --id m a.b public.t",
        ),
        (
            replace(READY, destination=DestinationFacts(invalid=(TableId("public", "i"),))),
            ReasonCode.INVALID_INDEXES,
            "invalid, and valid on the source: public.i",
            "REINDEX INDEX",
        ),
        (
            replace(READY, source=SourceFacts(prepared='prepared transaction "x"')),
            ReasonCode.PREPARED_TRANSACTIONS,
            'prepared transaction "x"',
            "ROLLBACK PREPARED",
        ),
        (
            replace(READY, source=SourceFacts(transactions=(OldTransaction("process 7", 12, (T,)),))),
            ReasonCode.LOCKED_TABLES,
            "process 7, for 12 s; tables: public.t",
            "end these transactions",
        ),
        (
            replace(READY, source=SourceFacts(not_endable="process 8")),
            ReasonCode.SESSIONS_NOT_ENDABLE,
            "may not end sessions on the source: process 8",
            "pg_signal_backend",
        ),
        (
            replace(READY, source=SourceFacts(subscriptions="s")),
            ReasonCode.SUBSCRIPTIONS_NOT_OURS,
            "may not disable them: s",
            "DISABLE",
        ),
    ],
)
def test_condition_that_a_switchover_fails_with_or_waits_for_blocks(
    facts: ReadinessFacts, code: ReasonCode, text: str, remedy: str
) -> None:
    reason = only(facts)
    assert (reason.code, reason.blocking) == (code, True)
    assert text in reason.text
    assert remedy in reason.remedy


@pytest.mark.parametrize(
    ("facts", "code", "text"),
    [
        (
            replace(READY, source=SourceFacts(transactions=(OldTransaction("process 7", 12),))),
            ReasonCode.LONG_TRANSACTIONS,
            "process 7, for 12 s",
        ),
        (
            replace(READY, source=SourceFacts(sequences=(SequenceUse(TableId("a", "s"), 0.97),))),
            ReasonCode.SEQUENCES_NEAR_END,
            "a.s (97% used)",
        ),
        (replace(READY, source=SourceFacts(hidden=1)), ReasonCode.SESSIONS_HIDDEN, "of 1 session "),
        (
            replace(READY, destination=DestinationFacts(writers=(ForeignWriter("process 9", T, 3661.0),))),
            ReasonCode.DESTINATION_WRITTEN,
            "process 9 on public.t at 01:01:01 UTC",
        ),
    ],
)
def test_condition_that_a_switchover_survives_is_a_warning(
    facts: ReadinessFacts, code: ReasonCode, text: str
) -> None:
    reason = only(facts)
    assert (reason.code, reason.blocking) == (code, False)
    assert text in reason.text


def test_lag_blocks_above_either_limit_only() -> None:
    behind = replace(READY, lag_bytes=1000, lag_seconds=4.0)
    assert assess(behind).can_switch
    assert assess(behind, Limits(LagLimit(bytes=1000, seconds=4.0))).can_switch
    assert only(behind, Limits(LagLimit(bytes=999))).text.endswith("and the limit is 30 s or 999 bytes")
    assert only(behind, Limits(LagLimit(seconds=3.5))).text.endswith("and the limit is 3.5 s")
    assert only(replace(behind, lag_seconds=31.0)).code is ReasonCode.LAG


def test_a_limit_that_was_not_given_forbids_nothing() -> None:
    assert not LagLimit().forbids(1 << 40, 1e6)
    assert LagLimit(bytes=9).forbids(10, 0.0)
    assert not LagLimit(bytes=10).forbids(10, 1e6)
    assert LagLimit(seconds=1.0).forbids(0, 1.1)
    assert not LagLimit(seconds=1.0).forbids(1 << 40, 1.0)


def test_short_transactions_and_fresh_sequences_are_no_reason() -> None:
    young = SourceFacts(
        transactions=(OldTransaction("process 7", 9, (T,)),), sequences=(SequenceUse(T, 0.89),)
    )
    assert assess(replace(READY, source=young)).reasons == ()


def test_servers_are_not_judged_before_the_migration_streams() -> None:
    early = replace(READY, phase=Phase.COPY, source_seen=Seen(), source=SourceFacts(prepared="x"))
    assert [reason.code for reason in assess(early).reasons] == [ReasonCode.NOT_STREAMING]


def test_unfinished_indexes_are_counted() -> None:
    building = replace(READY, phase=Phase.INDEXES, indexes=7, indexes_done=6)
    _, reason = assess(building).reasons
    assert (reason.code, reason.blocking) == (ReasonCode.INDEXES_UNFINISHED, True)
    assert reason.text == "6 of 7 indexes and constraints are built"


def test_blocking_reasons_come_first() -> None:
    facts = SourceFacts(prepared="x", hidden=2, subscriptions="s")
    kinds = [reason.blocking for reason in assess(replace(READY, source=facts)).reasons]
    assert kinds == [True, True, False]


NAMES = st.lists(st.builds(TableId, st.just("s"), st.sampled_from("abcdefgh")), max_size=7).map(tuple)
TEXTS = st.sampled_from(["", "process 1 (psql, role app)"])
SEEN = st.builds(Seen, st.none() | st.floats(0, 200), TEXTS)
FACTS = st.builds(
    ReadinessFacts,
    st.just("m"),
    st.sampled_from(Phase),
    follow=st.booleans(),
    failure=st.none()
    | st.builds(Failure, st.just(ErrorKind.GAP), st.just("it broke"), st.sampled_from(["", "h"])),
    needs_credentials=st.booleans(),
    slot_lost=st.booleans(),
    tables=st.integers(0, 9),
    uncopied=NAMES,
    indexes=st.integers(0, 3),
    indexes_done=st.integers(0, 3),
    applier_live=st.booleans(),
    lag_bytes=st.integers(0, 1 << 40),
    lag_seconds=st.floats(0, 100),
    unreplicated=NAMES,
    source=st.builds(
        SourceFacts,
        TEXTS,
        TEXTS,
        TEXTS,
        st.integers(0, 2),
        st.lists(st.builds(OldTransaction, st.just("p"), st.integers(0, 30), NAMES), max_size=7).map(tuple),
        st.lists(st.builds(SequenceUse, st.just(T), st.floats(0, 1)), max_size=7).map(tuple),
    ),
    source_seen=SEEN,
    destination=st.builds(
        DestinationFacts,
        NAMES,
        NAMES,
        st.lists(st.builds(ForeignWriter, st.just("p"), st.just(T), st.floats(0, 2e9)), max_size=7).map(
            tuple
        ),
    ),
    destination_seen=SEEN,
)


@given(FACTS, st.builds(LagLimit, st.integers(0, 1 << 30), st.floats(0, 60)))
def test_can_switch_is_no_exactly_if_a_reason_blocks_and_every_reason_says_what_to_do(
    facts: ReadinessFacts, lag: LagLimit
) -> None:
    readiness = assess(facts, Limits(lag))
    assert readiness.can_switch is not any(reason.blocking for reason in readiness.reasons)
    assert readiness.can_switch is not bool(readiness.blocking)
    codes = [reason.code for reason in readiness.reasons]
    assert len(codes) == len(set(codes))
    assert all(reason.text.strip() and reason.remedy.strip() for reason in readiness.reasons)
    if readiness.can_switch:
        assert facts.phase is Phase.STREAMING
