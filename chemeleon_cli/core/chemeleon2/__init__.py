"""Published Chemeleon2 checkpoints (Park & Walsh 2025, arXiv 2511.07158): read without executing them, and run
with the networks that their weights were trained in.

Imports `training`, `models`, `conditions` and `data`. Begin with `convert.py`; `generator.py`, `vae.py` and
`predictor.py` are the counterparts of the files of the same name in `models`.
"""
