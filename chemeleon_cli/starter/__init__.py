"""Data and models that ship with the package, so that the first minute is real."""
