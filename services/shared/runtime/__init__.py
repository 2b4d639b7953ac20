"""What a service process needs around its work: settings, log, telemetry, lifecycle, retry."""
