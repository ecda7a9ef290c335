"""Limits on what counts as a crystal, for data and for generated crystals. Imports nothing."""

MAX_Z = 100
"""Heaviest element (fermium). The element vocabulary of the models is 1..MAX_Z, and 0 is padding."""
ISOTOPES = ("D", "T")
"""Symbols that pymatgen reads as hydrogen; a T in a file may also stand for a tetrahedral site."""
MIN_DISTANCE = 0.5
"""Å. The shortest known bond, H-H, is 0.74 Å long."""
MIN_VOLUME, MAX_VOLUME = 4.0, 100.0
"""Å^3 per atom. Diamond has 5.7, solid xenon about 60."""
MIN_ANGLE, MAX_ANGLE = 10.0, 170.0
"""Degrees. Any lattice has a cell with angles of 60 to 120."""


class Unfit(ValueError):
    """A file does not describe an ordered crystal of known elements, or contradicts itself.

    The message is `code: detail`, in one line.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))
