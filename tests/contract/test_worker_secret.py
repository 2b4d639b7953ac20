"""The worker API under attack: intruders without the secret, impostors, stolen ids, recorded streams."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from grpc import aio
from pgmig.common.v1.common_pb2 import PIPELINE_DIRECTION_FORWARD, WORKER_ROLE_COPIER
from pgmig.worker.v1 import worker_pb2 as pb
from pgmig.worker.v1.worker_pb2_grpc import (
    WorkerServiceServicer,
    WorkerServiceStub,
    add_WorkerServiceServicer_to_server,
)

from services.shared.model import Assign, Assignment, CopierWork, ErrorKind, MigrationId, PgmigError, Role
from services.shared.rpc import handshake
from services.shared.rpc.worker_link import WorkerLink
from tests.contract.test_rpc_workers import FakeCoordinator, FakeWorker, serving, working

TOKEN = "the deployment's secret"
ASSIGNMENT = Assignment(
    "a1", MigrationId("m1").forward, CopierWork("postgresql://u:hush@h/s", "postgresql://u:hush@h/d")
)


def register(worker_id: str = "w1") -> pb.Register:
    return pb.Register(worker_id=worker_id, role=WORKER_ROLE_COPIER, host="h", nonce=handshake.new_nonce())


class Intruder:
    """A client of the worker API that says what it likes."""

    def __init__(self, address: str) -> None:
        self._channel = aio.insecure_channel(address)
        self._call = WorkerServiceStub(self._channel).Attach()

    async def __aenter__(self) -> Intruder:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        self._call.cancel()
        await self._channel.close()

    async def say(self, **report: Any) -> None:
        await self._call.write(pb.AttachRequest(**report))

    async def hear(self) -> pb.AttachResponse:
        """Raises AioRpcError when the coordinator has ended the stream."""
        async with asyncio.timeout(30):
            message = await self._call.read()
        assert isinstance(message, pb.AttachResponse), await self._call.code()
        return message

    async def refused(self) -> None:
        with pytest.raises(aio.AioRpcError) as caught:
            await self.hear()
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert "secret" in (caught.value.details() or "")


async def test_who_does_not_know_the_secret_is_given_nothing() -> None:
    coordinator = FakeCoordinator()
    async with serving(coordinator, token=TOKEN) as address:
        for proof in (b"", b"\0" * 32):
            async with Intruder(address) as intruder:
                await intruder.say(register=register())
                assert (await intruder.hear()).WhichOneof("command") == "challenge"
                await intruder.say(answer=pb.Answer(proof=proof, key=handshake.new_key()))
                await intruder.refused()
        async with Intruder(address) as intruder:
            await intruder.say(register=register())
            await intruder.hear()
            await intruder.say(part_done=pb.PartDone(assignment_id="a1"))
            await intruder.refused()
    assert coordinator.happened.empty()


async def test_the_coordinators_own_proof_sent_back_opens_nothing() -> None:
    coordinator = FakeCoordinator()
    async with serving(coordinator, token=TOKEN) as address, Intruder(address) as intruder:
        await intruder.say(register=register())
        challenged = (await intruder.hear()).challenge
        await intruder.say(answer=pb.Answer(proof=challenged.proof, key=handshake.new_key()))
        await intruder.refused()
    assert coordinator.happened.empty()


async def test_a_recorded_handshake_opens_nothing_later() -> None:
    coordinator, said = FakeCoordinator(), register()
    async with serving(coordinator, token=TOKEN) as address:
        async with Intruder(address) as worker:
            await worker.say(register=said)
            key = handshake.new_key()
            answer = handshake.answer(TOKEN, said, (await worker.hear()).challenge, key, address)
            await worker.say(answer=answer)
            assert (await worker.hear()).WhichOneof("command") == "registered"
        assert [(await coordinator.next())[0] for _ in range(2)] == ["connected", "disconnected"]
        async with Intruder(address) as thief:
            await thief.say(register=said)
            await thief.hear()
            await thief.say(answer=answer)
            await thief.refused()
    assert coordinator.happened.empty()


class Impostor(WorkerServiceServicer):
    """Has taken the coordinator's address. Notes what it is sent; `says` is all that it says."""

    def __init__(self, *says: pb.AttachResponse) -> None:
        self.heard: asyncio.Queue[pb.AttachRequest] = asyncio.Queue()
        self._says = says

    async def Attach(self, request_iterator: AsyncIterator[pb.AttachRequest], context: Any) -> None:  # type: ignore[override] # noqa: N802
        said = list(self._says)
        async for report in request_iterator:
            self.heard.put_nowait(report)
            if said:
                await context.write(said.pop(0))


@asynccontextmanager
async def posing(impostor: Impostor, address: str) -> AsyncIterator[None]:
    server = aio.server(options=[("grpc.so_reuseport", 0)])
    add_WorkerServiceServicer_to_server(impostor, server)
    server.add_insecure_port(address)
    await server.start()
    try:
        yield
    finally:
        await server.stop(0)


PIPELINE = pb.PipelineId(migration="m1", direction=PIPELINE_DIRECTION_FORWARD)
ASSIGN = pb.AttachResponse(assign=pb.Assign(assignment_id="a2", pipeline=PIPELINE, copier=pb.CopierWork()))


@pytest.mark.parametrize(
    "says",
    [
        (pb.AttachResponse(challenge=pb.Challenge(nonce=b"\0" * 32, proof=b"\0" * 32)), ASSIGN),
        (pb.AttachResponse(challenge=pb.Challenge()), ASSIGN),
        (pb.AttachResponse(registered=pb.Registered()), ASSIGN),
        (ASSIGN,),
    ],
    ids=["guessed", "empty", "none", "at once"],
)
async def test_an_impostor_at_the_coordinators_address_learns_ids_alone_and_commands_no_worker(
    says: tuple[pb.AttachResponse, ...],
) -> None:
    before, after = FakeCoordinator(), FakeCoordinator()
    worker = FakeWorker((ASSIGNMENT.ref,))
    stop = asyncio.Event()
    async with serving(before, token=TOKEN) as address:
        link = WorkerLink(address, Role.COPIER, "w1", "host1", TOKEN)
        task = asyncio.create_task(link.run(worker, stop))
        await before.next()
        before.sends["w1"](Assign(ASSIGNMENT))
        async with asyncio.timeout(30):
            assert await worker.commands.get() == Assign(ASSIGNMENT)
    impostor = Impostor(*says)
    async with posing(impostor, address), asyncio.timeout(60):
        heard = [await impostor.heard.get() for _ in range(3)]  # it tries again and again
    assert [one.WhichOneof("report") for one in heard] == ["register"] * 3
    sent = b"".join(one.SerializeToString() for one in heard)
    for secret in (b"hush", b"postgresql", TOKEN.encode()):
        assert secret not in sent
    assert worker.commands.empty()
    async with serving(after, address, TOKEN):
        assert (await after.next())[0] == "connected"
        stop.set()
        await task


async def test_an_impostor_cannot_end_a_worker() -> None:
    """Only who has proved to know the secret may refuse it for good."""

    class Refusing(Impostor):
        async def Attach(self, request_iterator: AsyncIterator[pb.AttachRequest], context: Any) -> None:  # type: ignore[override] # noqa: N802
            self.heard.put_nowait(await anext(aiter(request_iterator)))
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "go away")

    coordinator, refusing = FakeCoordinator(), Refusing()
    async with serving(coordinator, token=TOKEN) as address:
        pass
    stop = asyncio.Event()
    link = WorkerLink(address, Role.COPIER, "w1", "host1", TOKEN)
    task = asyncio.create_task(link.run(FakeWorker(), stop))
    async with posing(refusing, address), asyncio.timeout(60):
        for _ in range(3):
            await refusing.heard.get()
    assert not task.done()
    async with serving(coordinator, address, TOKEN):
        await coordinator.next()
        stop.set()
        await task


async def test_a_worker_without_the_secret_ends_with_the_reason() -> None:
    async with serving(FakeCoordinator(), token=TOKEN) as address:
        link = WorkerLink(address, Role.APPLIER, "w1", "host1")
        with pytest.raises(PgmigError, match="does not know the secret") as caught:
            await link.run(FakeWorker(), asyncio.Event())
    assert caught.value.kind is ErrorKind.AUTHENTICATION
    assert "PGMIG_WORKER_TOKEN" in caught.value.hint


async def test_a_worker_id_belongs_to_the_process_that_registered_it() -> None:
    """Nobody else can end its session, while it is attached or may come back."""
    coordinator, worker = FakeCoordinator(), FakeWorker()

    async def refused(address: str) -> None:
        async with Intruder(address) as thief:
            said = register("w1")
            await thief.say(register=said)
            challenged = (await thief.hear()).challenge
            await thief.say(answer=handshake.answer(TOKEN, said, challenged, handshake.new_key(), address))
            with pytest.raises(aio.AioRpcError) as caught:
                await thief.hear()
            assert caught.value.code() is grpc.StatusCode.ABORTED
            assert "belongs to another process" in (caught.value.details() or "")

    async with serving(coordinator, token=TOKEN) as address:
        async with working(address, worker, token=TOKEN) as link:
            await coordinator.next()
            await refused(address)
            assert link.attached
            coordinator.held.add("w1")
        assert await coordinator.next() == ("disconnected", "w1")
        await refused(address)
        coordinator.held.clear()  # given up: the id is free
        async with working(address, FakeWorker(), token=TOKEN):
            assert (await coordinator.next())[0] == "connected"
