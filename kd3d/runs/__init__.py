"""Run folders: atomic files, resolved settings, environment, resume."""
