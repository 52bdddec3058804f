"""An index in one SQLite file, searched exactly."""
