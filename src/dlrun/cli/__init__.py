"""The command line: one module a command, which reads words and prints."""
