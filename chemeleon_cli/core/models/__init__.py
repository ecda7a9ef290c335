"""The models: autoencoder, denoiser, crystal prior, the generator made of them, property predictors, and their layers.

Imports `data` and `conditions`. Begin with `generator.py`, the interface of a generator; `build.py` has the tables from
the config of a checkpoint to its classes.
"""
