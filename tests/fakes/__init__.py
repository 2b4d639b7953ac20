"""Stand-ins for the services, for tests of the clients: the API is real, the migration is not."""
