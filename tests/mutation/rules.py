"""Every mutation: those of the rules in docs/safety.md."""

from __future__ import annotations

from tests.mutation import access, changes, content, switchover, tables

MUTATIONS = changes.MUTATIONS + tables.MUTATIONS + content.MUTATIONS + switchover.MUTATIONS + access.MUTATIONS
