"""Published Chemeleon2 checkpoints (Park & Walsh 2025, arXiv 2511.07158): read without executing them, and run
with the networks that their weights were trained in."""
