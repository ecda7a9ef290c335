"""The models: autoencoder, denoiser, crystal prior and the generator made of them; property predictors; their layers.

Imports `data` and `conditions`. Begin with `generator.py`, which says what a generator is and samples crystals;
`build.py` has the tables from a checkpoint's config to its classes.
"""
