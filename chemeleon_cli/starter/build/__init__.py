"""How the starter data set is made: candidates -> relax -> assemble -> compare. See docs/starter.md."""
