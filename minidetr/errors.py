"""The one exception for a user's mistake: its message is the sentence the user reads."""


class InputError(ValueError):
    """Bad input: the message is one sentence that names the file or field and says what to do.

    The command line prints it on stderr and exits with 2; from Python it is an ordinary `ValueError`.
    """
