"""One module per command, each with a `run`. Wiring only; the work is done in `core` and `sources`."""
