"""One module for each phase. Each can be entered again at any time and goes on from there."""
