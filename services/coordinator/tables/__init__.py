"""Compares the source's tables with what was copied of them, and handles the differences."""
