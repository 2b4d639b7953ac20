"""What every service shares, one package per outside world: see docs/architecture.md."""
