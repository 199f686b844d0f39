"""The command line: `isanet COMMAND`, a file per command."""
