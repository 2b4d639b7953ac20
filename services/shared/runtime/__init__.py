"""What every service process needs: settings, log, telemetry, lifecycle, retry."""
