"""Random schemas and random histories of transactions on them, out of one seed each."""
