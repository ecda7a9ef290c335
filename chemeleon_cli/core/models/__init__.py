"""The networks: autoencoder, denoiser and the diffusion generator made of both; property predictors; their layers.

Imports `data` and `conditions`. Begin with `generator.py`, which samples crystals; `build.py` is the table from a
checkpoint's config to its class.
"""
