"""The theme's colour of each tone."""

from __future__ import annotations

from clients.presentation.tones import Tone

STYLES = {
    Tone.PLAIN: "",
    Tone.MUTED: "$muted",
    Tone.ACTIVE: "$accent",
    Tone.GOOD: "$success",
    Tone.WARNING: "$warning",
    Tone.BAD: "$error",
}
