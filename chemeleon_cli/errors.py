"""What a person can mend. Everything else is a bug and keeps its traceback."""


class UserError(Exception):
    """An error that the person at the keyboard can mend.

    Args:
        message: what is wrong, in one line: where, and what was found.
        hint: what to do about it, in one line; may be empty.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
