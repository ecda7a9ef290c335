"""A checkpoint whose `meta.json` was edited by hand is answered in a line."""

import contextlib
import copy
import itertools
import json
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from samples import diffusion, make_predictor, rock_salt
from typer.testing import CliRunner

from chemeleon_cli.app import app
from chemeleon_cli.core.data.crystals import Crystals
from chemeleon_cli.core.models.generator import Sampling
from chemeleon_cli.core.models.latent_diffusion import LatentDiffusion
from chemeleon_cli.core.models.predictor import Predictor
from chemeleon_cli.core.training import checkpoint
from chemeleon_cli.errors import UserError

VAE = {"hidden_dim": 8, "num_heads": 2, "encoder_layers": 1, "decoder_layers": 1, "latent_dim": 2, "dropout": 0.0}
CONDITIONS = {
    "oxidation_states": {"kind": "oxidation_states", "known": {"-1 1": 3, "-2 1 1": 1}},
    "band_gap": {"kind": "value", "mean": 1.0, "std": 0.5},
    "space_group": {"kind": "space_group", "known": [1, 225]},
    "composition": {"kind": "composition", "known": [3, 8, 9]},
}
META = {
    "data": {"path": "data/mine", "count": 4, "sha256": "00", "sizes": {"2": 4}},
    "parents": [{"kind": "vae", "path": "runs/vae", "sha256": "11"}],
    "recipe": {"command": "train-ldm", "seed": 1},
    "metrics": {"val/loss": 1.0},
    "step": 3,
    "minutes": 0.5,
    "ema": True,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generator with conditions and a predictor, of a few weights."""
    folder = tmp_path_factory.mktemp("models")
    denoiser = {"latent_dim": 2, "hidden_dim": 8, "num_blocks": 1, "num_heads": 2, "conditions": CONDITIONS}
    ldm = LatentDiffusion(VAE, denoiser, diffusion(20), {"2": 3, "3": 1})
    encoder = {"hidden_dim": 8, "num_heads": 2, "num_layers": 1, "latent_dim": 2, "dropout": 0.0}
    predictor = make_predictor(encoder, ["band_gap"])
    checkpoint.save(folder / "ldm", "ldm", ldm.config, ldm.state_dict(), META)
    checkpoint.save(folder / "predictor", "predictor", predictor.config, predictor.state_dict(), META)
    return folder


def use(model: Any, meta: dict[str, Any]) -> None:
    """What `sample` and a reward do with a model."""
    _ = meta["data"].get("path")
    if isinstance(model, Predictor):
        model.predict(Crystals.from_structures([rock_salt(4.0)]))
        return
    generator = torch.Generator().manual_seed(0)
    proposal = model.prior.propose(3, generator, {"band_gap": 1.0})
    conditions = model.encode_requests(proposal.requests, proposal.num_atoms)
    model.sample(proposal.num_atoms, Sampling("ddim", 4, 1.0), generator, conditions)
    model.prior.propose(3, generator, {"composition": "LiF"})
    model.prior.propose(3, generator)


def places(value: Any, keys: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if keys:
        yield keys
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*keys, key))


def edited(meta: dict[str, Any], keys: tuple[Any, ...], value: Any) -> dict[str, Any]:
    found = meta = copy.deepcopy(meta)
    for key in keys[:-1]:
        found = found[key]
    if value is REMOVED:
        del found[keys[-1]]
    else:
        found[keys[-1]] = value
    return meta


REMOVED = object()
SPOILT: list[Any] = [REMOVED, None, "12", [], {"a": 1}, -1, 0, 2.5, True, float("nan"), 10**30]


@pytest.mark.parametrize("kind", ["ldm", "predictor"])
def test_whatever_is_edited_is_read_or_refused_in_a_line(folder: Path, tmp_path: Path, kind: str):
    """Every key with every kind of wrong value: the model works still, or the file is named; never a traceback."""
    meta = json.loads((folder / kind / "meta.json").read_text(encoding="utf-8"))
    use(*checkpoint.load(folder / kind, kind))
    (tmp_path / "model.safetensors").write_bytes((folder / kind / "model.safetensors").read_bytes())
    refused = []
    for keys, value in itertools.product(places(meta), SPOILT):
        (tmp_path / "meta.json").write_text(json.dumps(edited(meta, keys, value)), encoding="utf-8")
        try:
            loaded = checkpoint.load(tmp_path, kind)
        except UserError as error:
            refused.append(error.message)
            continue
        with contextlib.suppress(UserError):  # a model that knows no lithium, for example, may say so
            use(*loaded)
    assert len(refused) > 100
    assert all(message.startswith(str(tmp_path)) and "\n" not in message for message in refused)


@pytest.mark.parametrize(
    ("keys", "value", "said"),
    [
        (("config", "vae", "hidden_dim"), "8", "config describes no ldm: vae.hidden_dim: found '8'; input should be"),
        (("config", "denoiser", "hidden_dims"), 8, "denoiser: got an unexpected keyword argument 'hidden_dims'"),
        (("config", "denoiser", "num_heads"), 3, "config describes no ldm: "),
        (("config", "vae", "latent_dim"), [], "config describes no ldm: vae.latent_dim: found []; input should be"),
        (("config", "diffusion"), REMOVED, "config describes no ldm: ldm: missing a required argument: 'diffusion'"),
        (("config", "sizes"), {"two": 1}, "config describes no ldm: ldm.sizes.two"),
        (("config", "sizes", "2"), "3", "config describes no ldm: ldm.sizes.2: found '3'; input should be a valid int"),
        (("config", "layout"), "mine", "ldm.layout: found 'mine'; expected chemeleon or chemeleon2"),
        (("config", "denoiser", "conditions", "band_gap", "std"), 0, "conditions.band_gap.std: found 0; input"),
        (("config",), REMOVED, "meta.json: config: field required"),
        (("config",), [1], "meta.json: config: found [1]; input should be a valid dictionary"),
        (("version",), "1", "meta.json: version: found '1'; input should be a valid integer"),
        (("data",), "data/mine", "meta.json: data: found 'data/mine'; input should be"),
        (("data", "count"), -3, "meta.json: data.count: found -3; input should be greater than or equal to 0"),
        (("parents", 0, "sha256"), REMOVED, "meta.json: parents.0.sha256: field required"),
        (("kind",), REMOVED, "meta.json cannot be read: expected a JSON object with a kind"),
        (("step",), "3", "meta.json: step: found '3'; input should be a valid integer"),
        ((), "{", "meta.json cannot be read: Expecting property name"),
        ((), "[]", "meta.json cannot be read: expected a JSON object with a kind"),
        ((), "", "meta.json cannot be read: Expecting value"),
        ((), b"\xff\xfe{", "meta.json cannot be read: 'utf-8' codec"),
        ((), "[" * 100_000, "meta.json cannot be read: maximum recursion"),
    ],
)  # fmt: skip
def test_sample_names_the_file_and_the_key(folder: Path, tmp_path: Path, keys: tuple, value: Any, said: str):
    shutil.copytree(folder / "ldm", tmp_path / "ldm")
    file = tmp_path / "ldm/meta.json"
    if keys:
        meta = json.loads(file.read_text(encoding="utf-8"))
        file.write_text(json.dumps(edited(meta, keys, value)), encoding="utf-8")
    else:
        file.write_bytes(value if isinstance(value, bytes) else value.encode())
    arguments = ["sample", "--model", str(tmp_path / "ldm"), "-n", "2", "--out", str(tmp_path / "out.cif")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 2, done.output
    assert said in done.output and str(file) in done.output, done.output
    assert not (tmp_path / "out.cif").exists()


def test_a_key_that_a_command_needs_later_is_missing_in_a_line(folder: Path, tmp_path: Path):
    meta = json.loads((folder / "ldm/meta.json").read_text(encoding="utf-8"))
    (tmp_path / "meta.json").write_text(json.dumps(edited(meta, ("recipe", "command"), REMOVED)), encoding="utf-8")
    found = checkpoint.read_meta(tmp_path)
    with pytest.raises(UserError, match=r"meta\.json: recipe\.command: missing$"):
        _ = found["recipe"]["command"]
    assert pickle.loads(pickle.dumps(found)) == copy.deepcopy(found) == found
