"""Which class a config describes: one of ours, or of another layout that it names."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

OURS = "chemeleon"
CLASSES = {
    OURS: {
        "encoder": "chemeleon_cli.core.models.vae:Encoder",
        "vae": "chemeleon_cli.core.models.vae:VAE",
        "ldm": "chemeleon_cli.core.models.generator:LatentDiffusion",
        "predictor": "chemeleon_cli.core.models.predictor:Predictor",
    },
    "chemeleon2": {
        "encoder": "chemeleon_cli.core.chemeleon2.vae:Encoder",
        "vae": "chemeleon_cli.core.chemeleon2.vae:VAE",
        "ldm": "chemeleon_cli.core.chemeleon2.generator:LatentDiffusion",
        "predictor": "chemeleon_cli.core.chemeleon2.predictor:Predictor",
    },
}


def build(kind: str, config: Mapping[str, Any]) -> Any:
    """A model with fresh weights.

    Args:
        kind: "encoder", "vae", "ldm" or "predictor".
        config: arguments of the class, and its `layout` where that is not ours.
    """
    arguments = dict(config)
    module, name = CLASSES[arguments.pop("layout", OURS)][kind].split(":")
    return getattr(importlib.import_module(module), name)(**arguments)
