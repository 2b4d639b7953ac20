"""Code shared by all services, with one package for each outside interface: see docs/architecture.md."""
