"""What counts as a crystal, in numbers; for data and for samples alike. Imports nothing."""

MAX_Z = 100
"""Heaviest element (fermium): the models' element vocabulary is 1..MAX_Z, and 0 means no atom."""
MIN_DISTANCE = 0.5
"""Å. The shortest bond there is, H-H, is 0.74 Å."""
MIN_VOLUME, MAX_VOLUME = 4.0, 100.0
"""Å^3 per atom. Diamond has 5.7, solid xenon about 60."""
MIN_ANGLE, MAX_ANGLE = 10.0, 170.0
"""Degrees. Any lattice has a cell with angles of 60 to 120."""


class Unfit(ValueError):
    """What was read is no ordered crystal of known elements, or contradicts its own file.

    The message is `code: detail`, in one line.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))
