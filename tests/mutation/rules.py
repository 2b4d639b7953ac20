"""Every mutation: those of the rules in docs/safety.md."""

from __future__ import annotations

from tests.mutation import (
    access,
    applications,
    certificate,
    changes,
    conflicts,
    content,
    failover,
    guard,
    reverse,
    switchover,
    tables,
    web,
)

MUTATIONS = (
    changes.MUTATIONS
    + tables.MUTATIONS
    + content.MUTATIONS
    + switchover.MUTATIONS
    + guard.MUTATIONS
    + applications.MUTATIONS
    + reverse.MUTATIONS
    + conflicts.MUTATIONS
    + certificate.MUTATIONS
    + failover.MUTATIONS
    + access.MUTATIONS
    + web.MUTATIONS
)
