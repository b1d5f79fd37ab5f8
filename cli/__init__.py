"""The command line: one command, `bandstop`."""
