"""The command line: one short file per command, each a thin wrapper around a Python function."""
