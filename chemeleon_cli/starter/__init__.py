"""Data and models that are part of the package, so that every command can be tried at once."""
