"""One module for each phase. A phase can be entered again at any time, and then continues its work."""
