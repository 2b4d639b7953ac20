"""The source's tables held against what was copied of them, and what follows from a difference."""
