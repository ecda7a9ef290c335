"""Published Chemeleon2 checkpoints (Park & Walsh 2025, arXiv 2511.07158): reading them without executing code, and the
networks that their weights belong to.

Imports `training`, `models`, `conditions` and `data`. Begin with `convert.py`; `latent_diffusion.py`, `vae.py`
and `predictor.py` are the counterparts of the files of the same name in `models`.
"""
