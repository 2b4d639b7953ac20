"""Mutations of the rule about certificates (70)."""

from __future__ import annotations

from tests.mutation.mutation import Mutation

CERTIFICATE = "tests/integration/coordinator/operations/test_certificate.py"
SAYS = f"{CERTIFICATE}::test_certificate_says_what_the_servers_say"
KILLED = f"{CERTIFICATE}::test_coordinator_killed_after_the_decision_leaves_it_to_the_next_one"
REPLACED = f"{CERTIFICATE}::test_coordinator_that_was_replaced_after_the_decision_issues_no_other_certificate"
EVIDENCE = "tests/unit/coordinator/operations/test_evidence.py"
FILES = "tests/unit/clients/cli/test_certificates.py"
STEPS = "services/coordinator/operations/switchover_steps.py"

MUTATIONS = (
    Mutation(
        "70 the word of an applier that confirms too early is not enough",
        "services/coordinator/operations/evidence.py",
        "        if progress is None or progress < sentinel:",
        "        if False:",
        f"{EVIDENCE}::test_word_of_the_applier_is_not_enough",
    ),
    Mutation(
        "70 the destination's progress is read before the decision",
        STEPS,
        "        run.evidence.progressed(await applied_progress(conn, pipeline.id), run.sentinel)",
        "        pass",
        SAYS,
    ),
    Mutation(
        "70 a comparison of sequences that is skipped is not claimed",
        STEPS,
        "        run.evidence.sequences_equal(values, await verify_sequences(conn, values))",
        "        run.evidence.sequences_equal(values, 0)",
        SAYS,
    ),
    Mutation(
        "70 a comparison that compares nothing is not claimed",
        "services/coordinator/operations/evidence.py",
        "        if equal == len(values):",
        "        if True:",
        f"{EVIDENCE}::test_sequences_that_were_not_all_compared_are_not_claimed",
    ),
    Mutation(
        "70 checks of a freeze are not claimed without one",
        "services/coordinator/operations/evidence.py",
        "        if name not in (_OF_NO_FREEZE if self.blocks else _OF_A_FREEZE):",
        "        if True:",
        f"{CERTIFICATE}::test_certificate_of_a_switchover_that_blocks_nobody_claims_no_freeze",
    ),
    Mutation(
        "70 a switchover without a check is not decided",
        "services/coordinator/operations/evidence.py",
        "        if lacking or self.source is None or self.destination is None:",
        "        if False:",
        f"{EVIDENCE}::test_switchover_without_a_check_is_not_decided",
    ),
    Mutation(
        "70 the draft is stored with the decision",
        STEPS,
        "    await run.context.journal.decide(result, certificate, turn)",
        "    await run.context.journal.decide(result, None, turn)",
        KILLED,
    ),
    Mutation(
        "70 the next coordinator issues the draft",
        "services/coordinator/registry.py",
        "        later = issued(record)  # a coordinator",
        "        later = record  # a coordinator",
        KILLED,
    ),
    Mutation(
        "70 a certificate is issued in the store first",
        "services/coordinator/migration/journal.py",
        "            await self._store.save(later.migration_id, pack(later))",
        "            pass",
        REPLACED,
    ),
    Mutation(
        "70 the private key is not readable by others",
        "clients/cli/certificates/signing.py",
        "            if private and stat.S_ISREG(found.st_mode) and found.st_mode & 0o077:",
        "            if False:",
        "tests/contract/cli/test_certificate.py::test_key_that_cannot_be_used_is_refused",
    ),
    Mutation(
        "70 cleanup keeps the certificate",
        "clients/cli/commands/teardown.py",
        "        await keep(invocation, session, migration_id.value, force=force)",
        "        pass",
        "tests/contract/cli/test_certificate.py::test_cleanup_keeps_the_certificate",
    ),
    Mutation(
        "70 an altered certificate is not valid",
        "clients/cli/certificates/document.py",
        "    if digest(text) != sha256:",
        "    if False:",
        FILES,
    ),
    Mutation(
        "70 a key that is given twice is refused",
        "services/shared/model/view/canonical.py",
        "    if len(found) != len(pairs):",
        "    if False:",
        FILES,
    ),
    Mutation(
        "70 the signature is of the given key",
        "clients/cli/certificates/signing.py",
        "    if expected is not None and _der(key) != _der(expected):",
        "    if False:",
        FILES,
    ),
    Mutation(
        "70 an unsigned certificate does not pass for a signed one",
        "clients/cli/certificates/signing.py",
        "        if expected is not None:",
        "        if False:",
        FILES,
    ),
)
