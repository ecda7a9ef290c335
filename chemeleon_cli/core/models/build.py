"""From a checkpoint's config to the class that it describes.

`CLASSES` has the models of each layout: ours, and another that a config names as its `layout`. `DENOISERS` has the
networks that our generator can hold, by the `kind` that the denoiser's config names.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chemeleon_cli.core.models.denoiser import Denoiser

OURS = "chemeleon"
CLASSES = {
    OURS: {
        "encoder": "chemeleon_cli.core.models.vae:Encoder",
        "vae": "chemeleon_cli.core.models.vae:VAE",
        "ldm": "chemeleon_cli.core.models.latent_diffusion:LatentDiffusion",
        "predictor": "chemeleon_cli.core.models.predictor:Predictor",
    },
    "chemeleon2": {
        "encoder": "chemeleon_cli.core.chemeleon2.vae:Encoder",
        "vae": "chemeleon_cli.core.chemeleon2.vae:VAE",
        "ldm": "chemeleon_cli.core.chemeleon2.latent_diffusion:LatentDiffusion",
        "predictor": "chemeleon_cli.core.chemeleon2.predictor:Predictor",
    },
}
DIT = "dit"
DENOISERS = {
    DIT: "chemeleon_cli.core.models.denoiser:DiffusionTransformer",
}


def build(kind: str, config: Mapping[str, Any]) -> Any:
    """A model with fresh weights.

    Args:
        kind: "encoder", "vae", "ldm" or "predictor".
        config: arguments of the class, and its `layout` where that is not ours.
    """
    arguments = dict(config)
    return _find(CLASSES[arguments.pop("layout", OURS)][kind])(**arguments)


def build_denoiser(config: Mapping[str, Any]) -> Denoiser:
    """A denoiser of our generator, with fresh weights.

    Args:
        config: arguments of the class, and its `kind` where that is not the diffusion transformer.
    """
    arguments = dict(config)
    return _find(DENOISERS[arguments.pop("kind", DIT)])(**arguments)


def _find(path: str) -> Any:
    """The class of a path `module:Class`."""
    module, name = path.split(":")
    return getattr(importlib.import_module(module), name)
