"""Every mutation: those of the rules in docs/safety.md."""

from __future__ import annotations

from tests.mutation import (
    access,
    applications,
    certificate,
    changes,
    content,
    failover,
    reverse,
    switchover,
    tables,
)

MUTATIONS = (
    changes.MUTATIONS
    + tables.MUTATIONS
    + content.MUTATIONS
    + switchover.MUTATIONS
    + applications.MUTATIONS
    + reverse.MUTATIONS
    + certificate.MUTATIONS
    + failover.MUTATIONS
    + access.MUTATIONS
)
