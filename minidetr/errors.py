"""Exceptions and warnings whose message is the sentence that the user reads."""


class InputError(ValueError):
    """Bad input: the message is one sentence that names the file or field and says what to do.

    The command line prints it on stderr and exits with 2; from Python it is an ordinary `ValueError`.
    """


class InputWarning(UserWarning):
    """Something about the user's input that stops nothing but should be known, in one sentence; the command line prints it."""


class WorkerDied(RuntimeError):  # noqa: N818 (it says what happened)
    """A process that helped has died, killed for want of memory perhaps; the message says which and what to try."""
