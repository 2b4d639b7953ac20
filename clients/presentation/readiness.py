"""Whether a migration can be switched over, in words."""

from __future__ import annotations

from clients.presentation.figures import precise, printable
from clients.presentation.tones import Phrase, Tone
from services.shared.model import DryRunResult, Readiness, Reason


def answer(readiness: Readiness) -> Phrase:
    """`yes`, `yes, with 1 warning`, or `no`."""
    if not readiness.can_switch:
        return "no", Tone.WARNING
    warnings = len(readiness.reasons)
    if not warnings:
        return "yes", Tone.GOOD
    return f"yes, with {warnings} warning{'' if warnings == 1 else 's'}", Tone.GOOD


def reason_lines(reason: Reason) -> list[Phrase]:
    """What is in the way, and on a line of its own what to do."""
    mark, tone = ("✘", Tone.BAD) if reason.blocking else ("⚠", Tone.WARNING)
    return [
        (f"{mark} ", tone),
        (printable(reason.text), Tone.PLAIN),
        (f"\n  → {printable(reason.remedy)}", Tone.MUTED),
    ]


def explained(readiness: Readiness) -> list[Phrase]:
    """The answer, then each reason with its remedy, on lines of their own."""
    phrases = [answer(readiness)]
    for reason in readiness.reasons:
        phrases += [("\n", Tone.PLAIN), *reason_lines(reason)]
    return phrases


def dry_run_outcome(result: DryRunResult) -> list[Phrase]:
    """Whether a switchover could begin now, with the reasons, and for how long it would block writes."""
    phrases: list[Phrase] = [("can switch over: ", Tone.PLAIN)]
    if result.can_switch or not result.readiness.can_switch:
        phrases += explained(result.readiness)
    else:
        phrases.append(("no, a step failed", Tone.WARNING))
    if result.estimate:
        parts = ", ".join(f"{part.step} {precise(part.milliseconds / 1000)}" for part in result.estimate)
        blocked = precise(result.blocked_ms / 1000)
        phrases.append((f"\nwrites would be blocked for about {blocked} (an estimate: {parts})", Tone.PLAIN))
    return phrases
