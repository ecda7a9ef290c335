"""Small files of the published form, with random weights, made of torch's own layers."""

import functools
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from pymatgen.analysis.structure_matcher import StructureMatcher
from torch import nn

HEADS = 4


def _class(name: str, base: type) -> type:
    module, _, short = name.rpartition(".")
    return type(short, (base,), {"__module__": module, "__qualname__": short})


Encoder = _class("src.vae_module.encoders.transformer.TransformerEncoder", nn.Module)
Decoder = _class("src.vae_module.decoders.transformer.TransformerDecoder", nn.Module)
Vae = _class("src.vae_module.vae_module.VAEModule", nn.Module)
Dit = _class("src.ldm_module.denoisers.dit.DiT", nn.Module)
DictConfig = _class("omegaconf.dictconfig.DictConfig", object)
AnyNode = _class("omegaconf.nodes.AnyNode", object)
AttributeDict = _class("lightning.fabric.utilities.data.AttributeDict", dict)
FAKES = (Encoder, Decoder, Vae, Dit, DictConfig, AnyNode, AttributeDict)


@contextmanager
def fake_packages() -> Iterator[None]:
    """Let torch.save find the classes above by name; gone afterwards, so that nothing can import them."""
    before = dict(sys.modules)
    for cls in FAKES:
        parts = cls.__module__.split(".")
        for i in range(1, len(parts) + 1):
            sys.modules.setdefault(".".join(parts[:i]), types.ModuleType(".".join(parts[:i])))
        setattr(sys.modules[cls.__module__], cls.__name__, cls)
    yield
    for name in set(sys.modules) - set(before):
        del sys.modules[name]


def config(value: Any) -> Any:
    """As OmegaConf pickles it: sections and nodes with a link to their parent."""
    if isinstance(value, dict):
        section = DictConfig()
        section.__dict__ |= {"_parent": None, "_content": {k: config(v) for k, v in value.items()}}
        for child in section.__dict__["_content"].values():
            child.__dict__["_parent"] = section
        return section
    node = AnyNode()
    node.__dict__ |= {"_val": value, "_metadata": {"ref_type": Any, "object_type": dict, "flags": set()}}
    return node


def stack(width: int, layers: int) -> nn.TransformerEncoder:
    """torch's own transformer, as the published autoencoder has it."""
    layer = nn.TransformerEncoderLayer(width, HEADS, 2 * width, 0.0, nn.GELU("tanh"), batch_first=True, norm_first=True)
    return nn.TransformerEncoder(layer, layers, nn.LayerNorm(width), enable_nested_tensor=False)


def vae(width: int = 32, layers: tuple[int, int] = (2, 1), latent: int = 8) -> nn.Module:
    """An autoencoder, of which every crystal comes out with a sane cell."""

    def embedding(inputs: int) -> nn.Sequential:
        return nn.Sequential(nn.Linear(inputs, width, bias=False), nn.SiLU(), nn.Linear(width, width))

    model, model.encoder, model.decoder = Vae(), Encoder(), Decoder()
    model.encoder.atom_type_embedder = nn.Embedding(100, width)
    model.encoder.lattices_embedder, model.encoder.frac_coords_embedder = embedding(9), embedding(3)
    model.encoder.transformer, model.decoder.transformer = stack(width, layers[0]), stack(width, layers[1])
    model.decoder.atom_types_head = nn.Linear(width, 100)
    model.decoder.frac_coords_head = nn.Linear(width, 3, bias=False)
    model.decoder.lattice_head = nn.Linear(width, 6, bias=False)
    model.quant_conv = nn.Linear(width, 2 * latent, bias=False)
    model.post_quant_conv = nn.Linear(latent, width, bias=False)
    with torch.no_grad():
        for head in (model.decoder.lattice_head, model.decoder.frac_coords_head):
            head.weight -= head.weight.mean(1, keepdim=True)
        # LayerNorm's own part has no component along (1, ..., 1), so this is a constant
        model.decoder.transformer.norm.bias.fill_(1.0)
        cell = torch.tensor([2.6, 2.7, 2.8, 1.6, 1.5, 1.7])
        model.decoder.lattice_head.weight.mul_(0.1).add_(cell.unsqueeze(1) / width)
        model.decoder.frac_coords_head.weight.mul_(3.0)
        model.decoder.atom_types_head.weight.mul_(5.0)
    return model.eval()


def dit(width: int = 32, depth: int = 2, latent: int = 8) -> nn.Module:
    """A denoiser; its weights are not those of an untrained one, which would do nothing."""
    model = Dit()
    model.x_embedder = nn.Linear(latent, width)
    model.t_embedder = nn.Module()
    model.t_embedder.mlp = nn.Sequential(nn.Linear(64, width), nn.SiLU(), nn.Linear(width, width))
    model.blocks = nn.ModuleList()
    for _ in range(depth):
        block = nn.Module()
        block.attn = nn.MultiheadAttention(width, HEADS, batch_first=True)
        block.mlp = nn.Module()
        block.mlp.fc1, block.mlp.act, block.mlp.fc2 = (
            *(nn.Linear(width, 3 * width), nn.GELU("tanh"), nn.Linear(3 * width, width)),
        )
        block.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        model.blocks.append(block)
    model.final_layer = nn.Module()
    model.final_layer.linear = nn.Linear(width, 2 * latent)
    model.final_layer.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))
    return model.eval()


def conditions(kinds: dict[str, int], width: int = 32) -> nn.Module:
    """Condition encoders of these input widths."""
    model = nn.Module()
    model.encoders = nn.ModuleDict()
    for name, inputs in kinds.items():
        encoder = nn.Module()
        encoder.embedding = nn.Sequential(nn.Linear(inputs, width), nn.SiLU(), nn.Linear(width, width))
        encoder.null_embed = nn.Parameter(torch.randn(1, inputs))
        model.encoders[name] = encoder
    model.proj = nn.Sequential(nn.Linear(len(kinds) * width, width), nn.SiLU(), nn.Linear(width, width))
    return model


def predictor(inputs: int, targets: int) -> nn.Sequential:
    """The head of a predictor."""
    narrow, middle = inputs // 4, inputs // 2
    return nn.Sequential(
        *(nn.Linear(inputs, narrow), nn.LayerNorm(narrow), nn.SiLU(), nn.Dropout(0.1)),
        *(nn.Linear(narrow, middle), nn.LayerNorm(middle), nn.SiLU(), nn.Dropout(0.1)),
        nn.Linear(middle, targets),
    )


def save(path: Path, weights: dict[str, nn.Module], settings: dict[str, Any], **tensors: torch.Tensor) -> Path:
    """A Lightning checkpoint: weights of the modules by prefix, and what the file says of the model besides."""
    state = {f"{prefix}{k}": v for prefix, module in weights.items() for k, v in module.state_dict().items()}
    optimizer = functools.partial(torch.optim.AdamW, lr=1e-4)
    with fake_packages():
        content = {
            "epoch": 3,
            "pytorch-lightning_version": "2.5",
            "state_dict": {**tensors, **state},
            "loops": {"fit_loop": {"done": True}},
            "optimizer_states": [{"state": {0: {"step": torch.tensor(4.0)}}, "param_groups": [{"betas": (0.9, 0.99)}]}],
            "hyper_parameters": AttributeDict({**settings, "optimizer": optimizer, "matcher": StructureMatcher()}),
        }
        torch.save(content, path)
    return path


def save_vae(path: Path, model: nn.Module) -> Path:
    """A file of an autoencoder."""
    return save(path, {"": model}, {"encoder": model.encoder, "decoder": model.decoder, "latent_dim": 8})


def save_ldm(path: Path, model: nn.Module, autoencoder: nn.Module | None, **settings: Any) -> Path:
    """A file of a generator, with or without its autoencoder's weights; `settings` go into the file besides."""
    weights = {"denoiser.": model} | ({} if autoencoder is None else {"vae.": autoencoder})
    if "conditions" in settings:
        weights["condition_module."] = settings.pop("conditions")
    known = {"denoiser": model, "diffusion_configs": {"diffusion_steps": 1000, "learn_sigma": True}}
    return save(path, weights, {**known, **settings}, latent_std=torch.tensor(1.7))


def save_predictor(path: Path, autoencoder: nn.Module, head: nn.Module, targets: list[str], **settings: Any) -> Path:
    """A file of a predictor."""
    statistics = config({name: {"mean": 0.5, "std": 1.5} for name in targets})
    known = {"vae": autoencoder, "target_conditions": statistics}
    return save(path, {"vae.": autoencoder, "proj.": head}, {**known, **settings})
