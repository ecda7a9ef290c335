"""The torch core, in rooms. The `__init__` of each says what is in it, what it may import and where to begin.

No room imports the command line, and none imports a room above it (the contracts in pyproject.toml). `arguments`,
`normalise`, `paths` and `machine` belong to no room: any room may use them.
"""
