"""How a worker and the coordinator prove to each other that they belong to the same deployment.

    worker       Register    its id, role, and a random nonce
    coordinator  Challenge   its own nonce, and its proof
    worker       Answer      its proof, and its key

A proof is HMAC-SHA256 with the deployment's secret (PGMIG_WORKER_TOKEN) over the role of the prover, both
nonces, and what the worker reports about itself. The secret itself is never sent. If another program
takes the port of a dead coordinator, it learns nothing that the real coordinator accepts, and no worker
trusts it. The coordinator sends its proof first; the worker sends its key only after that.

The key is random and created once by each worker process. A worker id belongs to the process that first
registered it with its key, so no other process can end its session or get its work.

Without a secret, proofs are empty, and everybody who can connect to the port is accepted as a worker.
Nothing here is encrypted: anybody who can read the network can read the messages.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets

from pgmig.worker.v1 import worker_pb2 as pb

from services.shared.model import ErrorKind, PgmigError

HANDSHAKE_S = 10.0
"""Seconds that each side waits for the other's next message."""
NONCE_BYTES = KEY_BYTES = 32
_COORDINATOR, _WORKER = b"pgmig coordinator", b"pgmig worker"


def new_nonce() -> bytes:
    return secrets.token_bytes(NONCE_BYTES)


def new_key() -> bytes:
    return secrets.token_bytes(KEY_BYTES)


def _proof(token: str, who: bytes, register: pb.Register, *parts: bytes) -> bytes:
    if not token:
        return b""
    said = (who, register.worker_id.encode(), str(register.role).encode(), register.nonce, *parts)
    text = b"".join(len(part).to_bytes(4, "big") + part for part in said)
    return hmac.digest(token.encode(), text, hashlib.sha256)


def challenge(token: str, register: pb.Register) -> pb.Challenge:
    """The coordinator's message. Raises INVALID_ARGUMENT for a worker that sends no nonce."""
    if len(register.nonce) != NONCE_BYTES:
        raise PgmigError(
            ErrorKind.INVALID_ARGUMENT,
            f"worker {register.worker_id} registered without a nonce",
            "use the same version of pgmig everywhere",
        )
    nonce = new_nonce()
    return pb.Challenge(nonce=nonce, proof=_proof(token, _COORDINATOR, register, nonce))


def answer(
    token: str, register: pb.Register, challenged: pb.Challenge, key: bytes, address: str
) -> pb.Answer:
    """The worker's message. Raises UNREACHABLE if a secret is set and the other side does not know it,
    because the real coordinator may return."""
    if token and not (
        len(challenged.nonce) == NONCE_BYTES
        and hmac.compare_digest(challenged.proof, _proof(token, _COORDINATOR, register, challenged.nonce))
    ):
        raise unproven(address)
    return pb.Answer(proof=_proof(token, _WORKER, register, challenged.nonce, key), key=key)


def check_answer(token: str, register: pb.Register, challenged: pb.Challenge, given: pb.Answer) -> bytes:
    """The worker's key. Raises AUTHENTICATION."""
    expected = _proof(token, _WORKER, register, challenged.nonce, given.key)
    if len(given.key) != KEY_BYTES or (token and not hmac.compare_digest(given.proof, expected)):
        raise PgmigError(
            ErrorKind.AUTHENTICATION,
            f"worker {register.worker_id} does not know the secret of this coordinator",
            "give workers and coordinator the same PGMIG_WORKER_TOKEN or PGMIG_WORKER_TOKEN_FILE",
        )
    return given.key


def unproven(address: str) -> PgmigError:
    return PgmigError(
        ErrorKind.UNREACHABLE,
        f"the server at {address} does not know the secret of this worker",
        "give coordinator and workers the same PGMIG_WORKER_TOKEN or PGMIG_WORKER_TOKEN_FILE; "
        "if they have it, another program listens at the coordinator's address",
    )
