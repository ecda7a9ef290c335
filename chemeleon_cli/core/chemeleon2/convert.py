"""Converts a published checkpoint to one of ours, with our names of weights and a config determined from the file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chemeleon_cli import __version__
from chemeleon_cli.core.chemeleon2.unpickle import Archive, Stub, TensorRef, entries, stubs
from chemeleon_cli.core.models.build import build
from chemeleon_cli.core.paths import file_sha256
from chemeleon_cli.core.training import checkpoint
from chemeleon_cli.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

LAYOUT = "chemeleon2"
POSITIONS = 20
"""Positions of the denoiser: the largest crystal of MP-20, which almost every batch of its training held."""
SHARES = (0.00217, 0.02108, 0.01983, 0.15271, 0.04713, 0.08465, 0.02108, 0.07809, 0.03435, 0.09729, 0.0133, 0.0967)
SHARES += (0.02156, 0.06523, 0.01437, 0.06703, 0.00973, 0.05318, 0.01058, 0.08995)
"""Of MP-20's crystals with 1, 2, ... 20 atoms."""
RENAMED = (
    (r"self_attn\.|attn\.", "attention."),
    (r"in_proj_", "qkv."),
    (r"out_proj\.", "out."),
    (r"^(encoder|decoder)\.transformer\.layers\.", r"\1.transformer.blocks."),
    (r"^(encoder|decoder)\.transformer\.norm\.", r"\1.norm."),
    (r"\.linear1\.|\.mlp\.fc1\.", ".mlp.0."),
    (r"\.linear2\.|\.mlp\.fc2\.", ".mlp.2."),
    (r"^encoder\.atom_type_embedder\.", "encoder.atom_embedding."),
    (r"^encoder\.lattices_embedder\.", "encoder.cell_embedding."),
    (r"^encoder\.frac_coords_embedder\.", "encoder.coord_embedding."),
    (r"^decoder\.atom_types_head\.", "decoder.element_head."),
    (r"^decoder\.frac_coords_head\.", "decoder.coord_head."),
    (r"^decoder\.lattice_head\.", "decoder.cell_head."),
    (r"^quant_conv\.", "encoder.head."),
    (r"^post_quant_conv\.", "decoder.embedding."),
    (r"^denoiser\.x_embedder\.", "denoiser.embedding."),
    (r"^denoiser\.t_embedder\.mlp\.", "denoiser.time_embedding."),
    (r"^denoiser\.blocks\.", "denoiser.transformer.blocks."),
    (r"^denoiser\.final_layer\.linear\.", "denoiser.head."),
    (r"^denoiser\.final_layer\.", "denoiser."),
    (r"adaLN_modulation\.1\.", "modulation."),
    (r"^condition_module\.proj\.", "denoiser.conditions.projection."),
    (r"^condition_module\.", "denoiser.conditions."),
    (r"\.null_embed$", ".missing"),
    (r"^proj\.", "head."),
)
"""Patterns of published names and ours, applied in this order; "vae." is taken off before."""


@dataclass(frozen=True)
class Imported:
    """A published model as one of ours: what `checkpoint.save` writes.

    Attributes:
        kind: "vae", "ldm" or "predictor".
        config: that rebuilds it.
        weights: by our names.
    """

    kind: str
    config: dict[str, Any]
    weights: dict[str, Tensor]


def convert(file: Path, folder: Path, vae: Path | None = None) -> Imported:
    """Write a published checkpoint as one of ours.

    Args:
        file: the `.ckpt`.
        folder: the checkpoint to write; a missing parent folder is created.
        vae: the autoencoder that a generator was trained with, a `.ckpt` or a checkpoint of ours made from one.

    Raises:
        UserError: see `read`.
    """
    found = read(file, None if vae is None else autoencoder(vae))
    meta = {
        "data": {"path": None, "sizes": found.config.get("sizes", {})},
        "parents": [],
        "published": {"file": file.name, "sha256": file_sha256(file)},
        "chemeleon": __version__,
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.save(folder, found.kind, found.config, found.weights, meta)
    return found


def autoencoder(path: Path) -> Imported:
    """A published autoencoder from its file or from a checkpoint of ours.

    Raises:
        UserError: it is not a published autoencoder.
    """
    if path.is_file():
        found = read(path)
    else:
        model, _ = checkpoint.load(path, "vae")
        found = Imported("vae", model.config, model.state_dict())  # type: ignore[arg-type]
    if found.kind != "vae" or found.config.get("layout") != LAYOUT:
        raise UserError(f"{path}: not a published autoencoder", "name the one that the generator was trained with")
    return found


def read(file: Path, vae: Imported | None = None) -> Imported:
    """Read a published checkpoint without executing it.

    Args:
        file: the `.ckpt`.
        vae: needed for a generator, whose file lacks the number of heads of its autoencoder; not used otherwise.

    Raises:
        UserError: the file is refused (see `unpickle`), is not a Chemeleon2 checkpoint, or is not supported; or the
            autoencoder of a generator is missing or is another one.
    """
    archive = Archive(file)
    top = entries(archive.content)
    settings = entries(top.get("hyper_parameters"))
    refs = entries(top.get("state_dict"))
    wrong = [k for k, ref in refs.items() if not isinstance(k, str) or not isinstance(ref, TensorRef)]
    if wrong or not refs:
        what = f"{wrong[0]!s:.80} in it is no tensor" if wrong else "it has no state_dict"
        raise UserError(f"{file}: not a Chemeleon2 checkpoint: {what}", "checkpoints of chemeleon are folders")
    tensors = archive.tensors(refs)
    if "denoiser.x_embedder.weight" in tensors:
        found = _ldm(file, tensors, settings, vae)
    elif "proj.0.weight" in tensors:
        found = _predictor(file, tensors, settings)
    elif "quant_conv.weight" in tensors:
        found = _vae(file, tensors, settings)
    else:
        raise UserError(f"{file}: not a Chemeleon2 checkpoint: no autoencoder, generator or predictor in it")
    hint = "this file has parts that the published checkpoints do not have"
    checkpoint.fill(build(found.kind, found.config), found.weights, file, hint)
    return found


def _vae(file: Path, tensors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> Imported:
    weights = _renamed(tensors)
    config = {
        "layout": LAYOUT,
        "latent_dim": _shape(file, weights, "decoder.embedding.weight")[1],
        "encoder": _encoder_config(file, weights, settings.get("encoder")),
        "decoder": {
            **_stack_config(file, weights, "decoder.", settings.get("decoder")),
            "classes": _shape(file, weights, "decoder.element_head.weight")[0],
        },
    }
    return Imported("vae", config, weights)


def _ldm(file: Path, tensors: Mapping[str, Tensor], settings: Mapping[str, Any], vae: Imported | None) -> Imported:
    import torch

    if vae is None:
        path = settings.get("vae_ckpt_path")
        was = f"; when it was trained that was {path}" if isinstance(path, str) else ""
        raise UserError(
            f"{file}: a generator; its autoencoder is in a file of its own{was}",
            f"chemeleon import-checkpoint {file.name} --vae FILE --out DIR",
        )
    own = _renamed({k.removeprefix("vae."): v for k, v in tensors.items() if k.startswith("vae.")})
    differ = [k for k in own if k not in vae.weights or not torch.equal(own[k], vae.weights[k].to(own[k]))]
    if differ:
        raise UserError(f"{file}: was trained with another autoencoder ({differ[0]} differs)", "give the right --vae")
    rest = {k: v for k, v in tensors.items() if not k.startswith("vae.") and k != "latent_std"}
    weights = _renamed(rest)
    denoiser = {
        "latent_dim": _shape(file, weights, "denoiser.embedding.weight")[1],
        **_stack_config(file, weights, "denoiser.", settings.get("denoiser")),
        "time_width": _shape(file, weights, "denoiser.time_embedding.0.weight")[1],
        "positions": POSITIONS,
        "conditions": _conditions_config(file, weights, entries(settings.get("condition_module"))),
    }
    denoiser["num_blocks"] = denoiser.pop("num_layers")
    width = denoiser["latent_dim"]
    weights |= {f"vae.{k}": v for k, v in vae.weights.items()}
    weights["latent_mean"] = torch.zeros(width)
    weights["latent_std"] = tensors.get("latent_std", torch.ones(())).float().reshape(1).expand(width).contiguous()
    config = {
        "layout": LAYOUT,
        "vae": vae.config,
        "denoiser": denoiser,
        "diffusion": _diffusion_config(file, entries(settings.get("diffusion_configs"))),
        "sizes": {str(n): share for n, share in enumerate(SHARES, start=1)},
    }
    return Imported("ldm", config, weights)


def _predictor(file: Path, tensors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> Imported:
    import torch

    inside = _renamed({k.removeprefix("vae."): v for k, v in tensors.items() if k.startswith("vae.")})
    weights = {k: v for k, v in inside.items() if k.startswith("encoder.")}
    weights |= _renamed({k: v for k, v in tensors.items() if k.startswith("proj.")})
    module = settings.get("vae")
    state = module.state if isinstance(module, Stub) and isinstance(module.state, dict) else {}
    targets = {k: entries(v) for k, v in entries(settings.get("target_conditions")).items()}
    reduce, hidden = settings.get("reduce"), settings.get("use_encoder_features")
    if not all(isinstance(name, str) for name in targets) or reduce not in ("mean", "sum") or type(hidden) is not bool:
        raise UserError(f"{file}: its targets, reduce or use_encoder_features are not what a predictor has")
    for key, offset in (("mean", 0.0), ("std", 1e-5)):
        weights[key] = torch.tensor([_number(file, f"{key} of {n}", t.get(key)) + offset for n, t in targets.items()])
    config = {
        "layout": LAYOUT,
        "encoder": {
            "layout": LAYOUT,
            "latent_dim": _shape(file, weights, "encoder.head.weight")[0] // 2,
            **_encoder_config(file, weights, entries(state.get("_modules")).get("encoder")),
        },
        "targets": list(targets),
        "use_encoder_features": hidden,
        "reduce": reduce,
    }
    return Imported("predictor", config, weights)


def _encoder_config(file: Path, weights: Mapping[str, Tensor], module: Any) -> dict[str, Any]:
    return {
        **_stack_config(file, weights, "encoder.", module),
        "elements": _shape(file, weights, "encoder.atom_embedding.weight")[0],
    }


def _stack_config(file: Path, weights: Mapping[str, Tensor], prefix: str, module: Any) -> dict[str, Any]:
    """Width, heads, depth and MLP of a transformer; the heads are not in the weights, but in its pickled module."""
    heads = {stub.state.get("num_heads") for stub in stubs(module, "MultiheadAttention")}
    kinds = {stub.state.get("approximate") for stub in stubs(module, "GELU")}
    last = [stub for stub in stubs(module, "TransformerEncoderLayer") if stub.state.get("norm_first") is not True]
    feedforward, width = _shape(file, weights, f"{prefix}transformer.blocks.0.mlp.0.weight")
    number = heads.pop() if len(heads) == 1 else None
    if type(number) is not int or number < 1 or width % number or kinds != {"tanh"} or last:
        raise UserError(
            f"{file}: its {prefix[:-1]} is not the published transformer (same heads in all, GELU(tanh), norms first)",
            "only checkpoints of the published form can be read",
        )
    blocks = {int(m[1]) for k in weights if (m := re.match(rf"{re.escape(prefix)}transformer\.blocks\.(\d+)\.", k))}
    return {"hidden_dim": width, "num_heads": number, "num_layers": len(blocks), "feedforward": feedforward}


def _conditions_config(file: Path, weights: Mapping[str, Tensor], settings: dict[str, Any]) -> dict[str, Any] | None:
    from chemeleon_cli.core.chemeleon2.conditions import KINDS

    if not settings:
        return None
    statistics = entries(settings.get("stats"))
    encoders: dict[str, dict[str, Any]] = {}
    for name, kind in entries(settings.get("condition_type")).items():
        if kind not in KINDS:
            raise UserError(f"{file}: is conditioned on {name} by {kind}; known are {', '.join(KINDS)}")
        width = _shape(file, weights, f"denoiser.conditions.encoders.{name}.missing")[1]
        encoders[str(name)] = {"kind": kind, "width": width}
        known = entries(statistics.get(name))
        if kind == "float" and known.get("mean") is not None and known.get("std") is not None:
            encoders[str(name)] |= {k: _number(file, f"{k} of {name}", known[k]) for k in ("mean", "std")}
    return {"encoders": encoders}


def _diffusion_config(file: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The betas of Ho et al. 2020, scaled where there are not 1000 steps."""
    known = {"predict_xstart": False, "learn_sigma": True, "noise_schedule": "linear"}
    for name, value in known.items():
        if settings.get(name, value) != value:
            raise UserError(f"{file}: has {name} {settings[name]}; only {value} is supported")
    steps = round(_number(file, "diffusion_steps", settings.get("diffusion_steps", 1000)))
    if not 2 <= steps <= 100_000:
        raise UserError(f"{file}: has {steps} diffusion_steps")
    return {"timesteps": steps, "beta_start": 0.1 / steps, "beta_end": 20 / steps}


def _number(file: Path, name: str, value: Any) -> float:
    if type(value) not in (int, float) or not -1e300 < value < 1e300:
        raise UserError(f"{file}: its {name} is not a number")
    return float(value)


def _renamed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    out = {}
    for name, tensor in tensors.items():
        for pattern, ours in RENAMED:
            name = re.sub(pattern, ours, name)
        out[name] = tensor
    return out


def _shape(file: Path, weights: Mapping[str, Tensor], name: str) -> tuple[int, ...]:
    if name not in weights or weights[name].ndim != 2:
        raise UserError(f"{file}: not a Chemeleon2 checkpoint: it lacks the matrix {name}")
    return tuple(weights[name].shape)
