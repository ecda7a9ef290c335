"""Builds models from the config of a checkpoint.

`CLASSES` lists the models of each layout: ours, and others that a config names as its `layout`. `DENOISERS` lists the
denoisers of our generator, by the `kind` in the config of the denoiser.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from chemeleon_cli.core.arguments import call

if TYPE_CHECKING:
    from chemeleon_cli.core.models.denoiser import Denoiser

T = TypeVar("T")
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
    """Build a model with newly initialised weights.

    Args:
        kind: "encoder", "vae", "ldm" or "predictor".
        config: arguments of the class and, if it is not ours, the `layout`.

    Raises:
        ValueError: there is no such layout, or an argument is missing, unknown or of the wrong type.
    """
    arguments = dict(config)
    classes = _chosen(CLASSES, arguments.pop("layout", OURS), f"{kind}.layout")
    return call(_find(classes[kind]), arguments, kind)


def build_denoiser(config: Mapping[str, Any]) -> Denoiser:
    """Build a denoiser of our generator with newly initialised weights.

    Args:
        config: arguments of the class and, if it is not the diffusion transformer, the `kind`.

    Raises:
        ValueError: there is no such kind, or an argument is missing, unknown or of the wrong type.
    """
    arguments = dict(config)
    return call(_find(_chosen(DENOISERS, arguments.pop("kind", DIT), "denoiser.kind")), arguments, "denoiser")


def _chosen(table: Mapping[str, T], name: Any, key: str) -> T:
    """The entry of a table that a config names under a key."""
    if not isinstance(name, str) or name not in table:
        raise ValueError(f"{key}: found {name!r}; expected {' or '.join(table)}")
    return table[name]


def _find(path: str) -> Any:
    """The class of a path `module:Class`."""
    module, name = path.split(":")
    return getattr(importlib.import_module(module), name)
