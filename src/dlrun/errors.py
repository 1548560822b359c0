"""The exceptions that a user is meant to read."""


class Refused(Exception):
    """Something that was asked for makes no sense or is not there. Its text says what, and what there is instead.

    The command line prints the text alone, without a traceback, and exits with code 2.
    """


class Damaged(Refused):
    """A file that dlrun has written is not as it was written. Its text names the file."""
