"""Colours: our own theme if the terminal supports it, otherwise the terminal's sixteen colours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from textual.theme import BUILTIN_THEMES, Theme

PGMIG = Theme(
    name="pgmig",
    primary="#5aa7e8",
    secondary="#7d8fb3",
    accent="#63d2ff",
    success="#5fd38d",
    warning="#f2b950",
    error="#ff6b6b",
    foreground="#d7deeb",
    background="#0d1320",
    surface="#131b2c",
    panel="#1c2740",
    dark=True,
    variables={
        "muted": "#8593b5",
        "track": "#33446b",
        "border": "#5aa7e8",
        "border-blurred": "#2b3a5c",
        "footer-background": "#1c2740",
        "footer-key-foreground": "#63d2ff",
        "scrollbar": "#34466e",
        "scrollbar-background": "#131b2c",
    },
)
SIXTEEN = replace(
    BUILTIN_THEMES["ansi-dark"],
    name="pgmig-sixteen",
    accent="ansi_cyan",
    # Bright black would be the natural grey, but some palettes show it as their background colour.
    variables={
        **BUILTIN_THEMES["ansi-dark"].variables,
        "muted": "ansi_default",
        "track": "ansi_default",
        "border": "ansi_cyan",
        "border-blurred": "ansi_blue",
    },
)


def no_colour(environ: Mapping[str, str]) -> bool:
    """https://no-color.org: set and not empty."""
    return bool(environ.get("NO_COLOR"))


def theme(environ: Mapping[str, str], color_system: str | None) -> str:
    """The theme for a terminal; color_system is what Rich detected."""
    few = color_system in {None, "standard", "windows"}
    return (SIXTEEN if few or no_colour(environ) else PGMIG).name
