"""The command line: what the host can do, for a terminal or, with `--json`, for a program."""
