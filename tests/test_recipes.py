"""Recipes: what is shipped loads, what is wrong is said with its place, and the whole survives being written."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chemeleon_cli.core.arguments import LARGEST
from chemeleon_cli.core.potentials.loading import POTENTIALS
from chemeleon_cli.errors import UserError
from chemeleon_cli.recipe import document as documents
from chemeleon_cli.recipe.load import dump, find, load, shipped, shipped_name
from chemeleon_cli.recipe.models import RECIPES, Sample, Score, TrainLdm, TrainPredictor, TrainRl, TrainVae, WriteHull
from chemeleon_cli.recipe.schema import schema
from chemeleon_cli.sources.checkpoints import find_model

VAE = "data: {path: data/mp-20}\n"
RL = "model: runs/ldm\nreward:\n  components:\n    - {type: predictor, predictor: runs/gap, target_name: band_gap}\n"
PREDICTOR = VAE + "vae: runs/vae\n"


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with data and one checkpoint of each kind, in name only."""
    monkeypatch.chdir(tmp_path)
    data = tmp_path / "data" / "mp-20"
    data.mkdir(parents=True)
    (data / "train.csv").write_text("material_id,cif,band_gap,e_above_hull\n")
    (data / "val.csv").touch()
    configs = {"vae": {}, "ldm": {}, "gap": {"targets": ["band_gap", "e_above_hull"]}}
    for name, config in configs.items():
        folder = tmp_path / "runs" / name / "checkpoints" / "best"
        folder.mkdir(parents=True)
        kind = "predictor" if name == "gap" else name
        (folder / "meta.json").write_text(json.dumps({"kind": kind, "version": 1, "config": config}))
    return tmp_path


def command_of(path: Path) -> str:
    return path.read_text().partition(":")[0].removeprefix("# ")


def errors(text: str, model: type, **options) -> list[str]:
    """The lines of the error that a recipe gives, without the name of its file."""
    Path("bad.yaml").write_text(text)
    with pytest.raises(UserError) as caught:
        load("bad.yaml", model, find_model=find_model, **options)
    return [line.removeprefix("bad.yaml:") for line in caught.value.message.splitlines()]


BAD = {
    "unknown key": (
        VAE + "training:\n  learning_rat: 1e-3\n",
        TrainVae,
        "3: training.learning_rat: found an unknown key; did you mean 'learning_rate'?",
    ),
    "key of another section": (
        VAE + "batch_size: 3\n",
        TrainVae,
        "2: batch_size: found an unknown key; did you mean 'training.batch_size'?",
    ),
    "key of the recipe in a section": (
        VAE + "training:\n  name: mine\n",
        TrainVae,
        "3: training.name: found an unknown key; this key belongs at the top level of the recipe",
    ),
    "no autoencoder": (
        VAE,
        TrainLdm,
        "1: vae: found null; expected an autoencoder, unless `start` names a generator",
    ),
    "an autoencoder beside one that is there": (
        VAE + "start: runs/ldm\nmodel: {hidden_dim: 64}\nvae: runs/vae\n",
        TrainLdm,
        "4: vae: expected none together with start: runs/ldm, whose own is kept",
    ),
    "a size beside one that is there": (
        VAE + "start: runs/ldm\nmodel: {hidden_dim: 64}\n",
        TrainLdm,
        "3: model: expected none together with start: runs/ldm, whose own is kept",
    ),
    "key twice": (
        VAE + "seed: 1\nseed: 2\n",
        TrainVae,
        "3: seed: found a second time; expected once (it is first in line 2)",
    ),
    "missing key": (
        "seed: 1\n",
        TrainVae,
        "1: data: found nothing; expected a value: the crystals to learn from",
    ),
    "a size that no checkpoint may have": (
        VAE + f"model:\n  latent_dim: {LARGEST + 1}\n",
        TrainVae,
        f"3: model.latent_dim: found {LARGEST + 1}; expected at most {LARGEST}",
    ),
    "text for a number": (
        VAE + "training:\n  max_steps: many\n",
        TrainVae,
        "3: training.max_steps: found 'many'; expected a whole number",
    ),
    "truth value for a number": (
        VAE + "training:\n  max_steps: true\n",
        TrainVae,
        "3: training.max_steps: found true; expected a whole number",
    ),
    "fraction for a whole number": (VAE + "devices: 1.5\n", TrainVae, "2: devices: found 1.5; expected a whole number"),
    "no number": (
        VAE + "loss: {kl: .nan}\n",
        TrainVae,
        "2: loss.kl: found nan; expected a finite number",
    ),
    "out of range": (VAE + "loss:\n  kl: -1\n", TrainVae, "3: loss.kl: found -1; expected at least 0.0"),
    "value for a section": (
        VAE + "model: 3\n",
        TrainVae,
        "2: model: found 3; expected a section of `key: value` lines",
    ),
    "no such choice": (
        RL + "sampling: {sampler: ddmi}\n",
        TrainRl,
        "5: sampling.sampler: found 'ddmi'; expected one of ddim, ddpm; did you mean 'ddpm'?",
    ),
    "device": (VAE + "device: gpu\n", TrainVae, "2: device: found 'gpu'; expected auto, cpu, cuda or cuda:0"),
    "heads": (
        VAE + "model:\n  hidden_dim: 30\n",
        TrainVae,
        "2: model.num_heads: found 8; expected a number that divides hidden_dim, 30",
    ),
    "name with a slash": (
        VAE + "name: a/b\n",
        TrainVae,
        "2: name: found 'a/b'; expected the name of a folder, without slashes",
    ),
    "API key": (
        "source: materials-project\napi_key: secret\n",
        RECIPES["fetch-data"],
        "2: api_key: found a key for an API; expected none, as recipes are kept and shared; "
        "give it as --api-key or in the environment as MP_API_KEY",
    ),
    "the key of pymatgen's settings": (
        "source: materials-project\nPMG_MAPI_KEY: secret\n",
        RECIPES["fetch-data"],
        "2: PMG_MAPI_KEY: found a key for an API; expected none, as recipes are kept and shared; "
        "give it as --api-key or in the environment as MP_API_KEY",
    ),
    "energies of no scale": (
        "source: materials-project\nentries: true\n",
        RECIPES["fetch-data"],
        "2: entries: found true; expected `uncorrected` for MACE or `mp2020` for CHGNet "
        "(the two must not be mixed), or null for none",
    ),
    "shares": (
        "source: x.csv\nsplit:\n  fractions: [0.8, 0.3, 0.1]\n",
        RECIPES["fetch-data"],
        "3: split.fractions: found [0.8, 0.3, 0.1]; expected three fractions that add up to 1, the first above 0",
    ),
    "no data": (
        "data:\n  path: data/mp20\n",
        TrainVae,
        "2: data.path: found 'data/mp20', no such folder; expected one made by `chemeleon fetch-data`; "
        "did you mean 'data/mp-20'?",
    ),
    "empty data": (
        "data:\n  path: runs\n",
        TrainVae,
        "2: data.path: found 'runs', which has no train.csv(.gz); expected one made by `chemeleon fetch-data`",
    ),
    "no such column": (
        PREDICTOR + "targets:\n  band_gpa:\n",
        TrainPredictor,
        "3: targets: found 'band_gpa'; expected columns of data/mp-20/train.csv; did you mean 'band_gap'?",
    ),
    "window": (
        PREDICTOR + "targets:\n  band_gap:\n    window: [3.3, 2.7]\n",
        TrainPredictor,
        "5: targets.band_gap.window: found [3.3, 2.7]; expected [low, high] with low below high",
    ),
    "eta": (
        RL + "sampling:\n  eta: 0\n",
        TrainRl,
        "6: sampling.eta: found 0; expected more than 0: without noise, a step has no probability to reinforce",
    ),
    "a group of one": (
        RL + "rl: {num_group_samples: 1}\n",
        TrainRl,
        "5: rl.group_reward_norm: found true; expected false where num_group_samples is 1: "
        "a group of one compares nothing",
    ),
    "inner batches": (
        RL + "rl: {num_inner_batch: 6}\n",
        TrainRl,
        "5: rl.num_inner_batch: found 6; expected at most groups_per_step, 5: an update takes whole groups",
    ),
    "one group": (
        RL + "rl: {groups_per_step: 1}\n",
        TrainRl,
        "5: rl.num_inner_batch: found 2; expected at most groups_per_step, 1: an update takes whole groups",
    ),
    "no such reward": (
        "model: runs/ldm\nreward:\n  components:\n    - type: predicter\n",
        TrainRl,
        "4: reward.components.0.type: found 'predicter'; expected one of charge_balance, creativity, energy, "
        "predictor, shortest_contact, structure_diversity, composition_diversity, custom; did you mean 'predictor'?",
    ),
    "reward without a type": (
        "model: runs/ldm\nreward:\n  components:\n    - weight: 1\n",
        TrainRl,
        "4: reward.components.0.type: found nothing; expected one of charge_balance, creativity, energy, predictor, "
        "shortest_contact, structure_diversity, composition_diversity, custom",
    ),
    "unknown key of a reward": (
        RL.replace("target_name", "target_nam"),
        TrainRl,
        "4: reward.components.0.target_nam: found an unknown key; did you mean 'target_name'?",
    ),
    "text for a target": (
        RL.replace("}", ", target_value: three}"),
        TrainRl,
        "4: reward.components.0.target_value: found 'three'; expected a number",
    ),
    "no such target": (
        RL.replace("band_gap", "bandgap"),
        TrainRl,
        "4: reward.components.0.target_name: found 'bandgap'; runs/gap predicts band_gap, e_above_hull; "
        "did you mean 'band_gap'?",
    ),
    "energy without a potential": (
        "model: runs/ldm\nreward:\n  components:\n    - type: energy\n",
        TrainRl,
        "4: reward.components.0.type: found 'energy', which needs energy_model and hull; "
        "expected it beside `components`",
    ),
    "no such potential": (
        RL.replace("components", "energy_model: chgnt\n  components"),
        TrainRl,
        f"3: reward.energy_model: found 'chgnt'; expected one of {', '.join(POTENTIALS)}, or a MACE model file; "
        "did you mean 'chgnet'?",
    ),
    "no such hull": (
        RL.replace("components", "hull: data/mp-20\n  components"),
        TrainRl,
        "3: reward.hull: data/mp-20 has no hull.csv.gz; fetch-data writes one if its recipe asks for `entries`; "
        "name a hull.csv.gz, or compute one: chemeleon write-hull SET",
    ),
    "a scale of a named potential": (
        RL.replace("components", "energy_model: chgnet\n  energy_scale: PBE\n  components"),
        TrainRl,
        "4: reward.energy_scale: found 'PBE'; the energies of chgnet are PBE/MP2020: leave this out",
    ),
    "relaxing without a potential": (
        "file: data/mp-20/train.csv\nrelax: {steps: 10}\n",
        Score,
        "2: relax: found a section; expected null where energy_model is null",
    ),
    "relaxed crystals without relaxing": (
        "file: data/mp-20/train.csv\nrelaxed_out: r.cif\n",
        Score,
        "2: relaxed_out: found 'r.cif'; expected null where relax is null",
    ),
    "no rewards": (
        "model: runs/ldm\nreward:\n  components: []\n",
        TrainRl,
        "3: reward.components: found a list; expected at least 1 of them",
    ),
    "logger": (
        VAE + "logger: wandbb\n",
        TrainVae,
        "2: logger.type: found 'wandbb'; expected one of wandb; did you mean 'wandb'?",
    ),
    "an alias of what holds it": (
        VAE + "model: &a\n  num_heads: [*a]\n",
        TrainVae,
        "2: model.num_heads.0: found an alias of a section that contains it; expected a plain value",
    ),
    "a scale of nothing": (
        "file: data/mp-20/train.csv\nenergy_scale: r2SCAN\n",
        Score,
        "2: energy_scale: found 'r2SCAN'; expected null where energy_model is null",
    ),
    "a hull of a scale that nobody knows": (
        "file: data/mp-20/train.csv\nenergy_model: data/mp-20/train.csv\n",
        WriteHull,
        "1: energy_scale: found null; expected the energy scale that data/mp-20/train.csv was fitted to, "
        "because a hull needs a known one",
    ),
    "a list": ("- 1\n", TrainVae, "1: found a list; expected lines of `key: value`"),
    "a tag": (
        VAE + "output: !!python/name:os.system x\n",
        TrainVae,
        "2: output: found the tag tag:yaml.org,2002:python/name:os.system; expected a plain value",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_mistake_is_said_with_its_line_and_its_key(case: str, work: Path) -> None:
    text, model, expected = BAD[case]
    assert expected in errors(text, model)


def test_all_mistakes_are_said_at_once_in_the_order_of_the_file(work: Path) -> None:
    text = VAE + "name: a/b\nseed: -1\nseed: 1\ntraining:\n  max_step: 3\n  val_every: 0\nloss: 1\n"
    lines = errors(text, TrainVae)
    assert [line.partition(":")[0] for line in lines] == ["2", "3", "4", "6", "7", "8"]


def test_files_are_looked_for_beside_other_mistakes(work: Path) -> None:
    lines = errors(RL.replace("runs/ldm", "runs/vae").replace("runs/gap", "runs/ldm") + "rl: {kl_weight: x}\n", TrainRl)
    assert len(lines) == 3
    assert lines[0].startswith("1: model: runs/vae/checkpoints/best is a checkpoint of kind vae; expected kind ldm")
    assert lines[1].startswith(
        "4: reward.components.0.predictor: runs/ldm/checkpoints/best is a checkpoint of kind ldm"
    )
    assert lines[2] == "5: rl.kl_weight: found 'x'; expected a number"


def test_what_sections_need_is_said_beside_misspelt_keys(work: Path) -> None:
    lines = errors("data: {path: data/mp-20}\ntraining:\n  batch_siz: 3\n", TrainLdm)
    assert len(lines) == 2
    assert "vae" in lines[0] and "start" in lines[0]
    assert lines[1] == "3: training.batch_siz: found an unknown key; did you mean 'batch_size'?"
    lines = errors(VAE + "training:\n  batch_siz: x\n", TrainVae)
    assert lines[1] == "3: training.batch_size: found 'x'; expected a whole number"
    text = RL.replace("runs/gap", "runs/gone")
    plain = [line.partition(": ")[2] for line in errors(text, TrainRl)]
    assert len(plain) == 1 and "runs/gone" in plain[0]
    misspelt = errors(text.replace("reward:\n", "reward:\n  guard: []\n"), TrainRl)
    assert len(misspelt) == 2 and plain[0] in "".join(misspelt)


def test_what_follows_from_a_mistake_is_not_another(work: Path) -> None:
    for text, model in (
        (VAE + "model: {hidden_dim: '48', num_heads: 6}\n", TrainVae),
        (RL + "rl: {groups_per_step: '8', num_inner_batch: 7}\n", TrainRl),
        (RL + "mode: offline\n", TrainRl),
    ):
        assert len(errors(text, model)) == 1
    assert "SECRET" not in "".join(errors("model: runs/ldm\napikey: SECRET\n", Sample))


def test_not_yaml_names_the_line(work: Path) -> None:
    assert errors("seed: 1\n name: x\n", TrainVae)[0].startswith("2: not YAML: ")


def test_a_recipe_of_another_command_is_recognised(work: Path) -> None:
    with pytest.raises(UserError) as caught:
        load("ldm", TrainVae)
    assert caught.value.hint == "this looks like a recipe for `chemeleon train-ldm`"


def test_a_misspelt_recipe_is_suggested(work: Path) -> None:
    with pytest.raises(UserError, match="bandgab: no such recipe; did you mean 'bandgap'"):
        find("bandgab")


def test_scalars_are_those_of_yaml_1_2(work: Path) -> None:
    path = work / "scalars.yaml"
    path.write_text("a: 1e-4\nb: -2\nc: no\nd: 2024-01-01\ne: ~\nf: true\ng: '1e-4'\nh: 1.\ni: .5\nj: 1E3\nk: 1_0\n")
    values = ["1e-4", -2, "no", "2024-01-01", None, True, "1e-4", 1.0, 0.5, 1000.0, "1_0"]
    data = documents.read(path).data
    assert list(data.values()) == [1e-4, *values[1:]]
    assert [type(value) for value in data.values()] == [float, *map(type, values[1:])]


SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text("e1-.:~no #")


@given(st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text("ab1", min_size=1), inner)))
def test_what_is_written_reads_the_same(tmp_path_factory: pytest.TempPathFactory, value: object) -> None:
    path = tmp_path_factory.getbasetemp() / "written.yaml"
    path.write_text(documents.write({"value": value}), encoding="utf-8")
    assert documents.read(path).data == {"value": value}


@pytest.mark.parametrize("path", shipped(), ids=shipped_name)
def test_shipped_recipes_load_and_survive_being_written(path: Path, work: Path) -> None:
    model = RECIPES[command_of(path)]
    options = {"file": "crystals.cif"} if model in (Score, WriteHull) else {}
    recipe = load(path, model, options=options)
    Path("written.yaml").write_text(dump(recipe))
    assert load("written.yaml", model) == recipe


def test_all_that_is_promised_is_shipped() -> None:
    names = {shipped_name(path) for path in shipped()}
    assert names == {
        "fetch_mp",
        "vae",
        "ldm",
        "ldm_conditional",
        "finetune",
        "csp",
        "predictor_bandgap",
        "bandgap",
        "bandgap_stable",
        "dng",
        "starter/dng",
        "starter/vae",
        "starter/ldm",
        "starter/polish",
        "starter/predictor",
        "starter/predictor_vae",
        "multi_objective",
        "atomic_density",
        "sample",
        "score",
        "write_hull",
    }


def test_checking_recipes_imports_no_torch(work: Path) -> None:
    program = """
import sys
from chemeleon_cli.errors import UserError
from chemeleon_cli.recipe.load import load, shipped
from chemeleon_cli.recipe.models import RECIPES
from chemeleon_cli.sources.checkpoints import find_model
for path in shipped():
    command = path.read_text().partition(":")[0].removeprefix("# ")
    model = RECIPES[command]
    load(path, model, options={"file": "x.cif"} if command in ("score", "write-hull") else {})
    try:
        if path.stem != "atomic_density":
            load(path, model, find_model=find_model)
    except UserError:
        pass
heavy = {"torch", "pymatgen", "pandas", "numpy", "rich"} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_settings_reach_into_lists_and_name_themselves(work: Path) -> None:
    Path("rl.yaml").write_text(RL)
    settings = ["reward.components.0.target_value=3", "reward.components.1={type: composition_diversity}"]
    settings += ["sampling.eta=0.5"]
    recipe = load("rl.yaml", TrainRl, settings=settings, options={"seed": 7, "device": None}, find_model=find_model)
    assert recipe.reward.components[0].model_dump()["target_value"] == 3.0
    assert [component.name for component in recipe.reward.components] == ["band_gap", "composition_diversity"]
    assert (recipe.sampling.eta, recipe.seed, recipe.device) == (0.5, 7, "auto")


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("sampling.eta=2", "--set sampling.eta=2: sampling.eta: found 2; expected at most 1.0"),
        ("reward.components.0.predictor=x", "--set reward.components.0.predictor=x: reward.components.0.predictor: no"),
        ("reward.components.5.weight=1", "--set reward.components.5.weight=1: reward.components: found index '5';"),
        ("reward.components.x=1", "--set reward.components.x=1: reward.components: found index 'x'; expected 0 to 1"),
        ("model.x=1", "--set model.x=1: model: found 'runs/ldm'; expected a section that can hold 'x'"),
        ("eta", "--set eta: found no '='; expected key=value"),
        ("eta=&a [*a]", "--set eta=&a [*a]: found an alias of a section that contains it"),
        ("eta=[1", "--set eta=[1: found '[1'; expected a YAML value"),
    ],
)
def test_a_wrong_setting_is_named_in_the_place_of_the_file(setting: str, expected: str, work: Path) -> None:
    assert errors(RL, TrainRl, settings=[setting])[0].startswith(expected)


def test_a_setting_mends_the_file(work: Path) -> None:
    Path("rl.yaml").write_text(RL + "sampling: {eta: 0}\n")
    assert load("rl.yaml", TrainRl, settings=["sampling.eta=1"], find_model=find_model).sampling.eta == 1.0


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ([], None),
        (["rl.clip_ratio=1e-3"], "log_prob sum"),
        (["rl.log_prob=mean"], "log_prob mean"),
        (["rl.log_prob=mean", "rl.clip_ratio=1e-3"], None),
        (["rl.entropy_weight=1e-5"], "entropy_weight"),
        (["reward.energy_model=chgnet", "reward.relax={steps: 50}"], "320 crystals are relaxed in every step"),
    ],
)
def test_warnings(settings: list[str], word: str | None, work: Path) -> None:
    lines = load("bandgap", TrainRl, settings=settings).warnings()
    assert len(lines) == (word is not None)
    assert word is None or word in lines[0]


def test_targets_can_be_names_alone(work: Path) -> None:
    for targets in ("[band_gap, e_above_hull]", "{band_gap: , e_above_hull: {}}"):
        Path("p.yaml").write_text(f"{PREDICTOR}targets: {targets}\n")
        recipe = load("p.yaml", TrainPredictor, find_model=find_model)
        assert list(recipe.targets) == ["band_gap", "e_above_hull"]


def test_recipes_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load("vae", TrainVae).seed = 1


CUSTOM = (
    "model: runs/ldm\nreward:\n  components:\n    - type: custom\n      class: ./own.py:Own\n      kwargs: {size: 3}\n"
)
OWN = """
class Own:
    def __init__(self, size, judge: "Predictor | None" = None): pass
    def compute(self, candidates): return [0.0] * len(candidates)
"""


def test_a_custom_class_is_found_beside_its_recipe(work: Path) -> None:
    (work / "mine").mkdir()
    (work / "mine" / "own.py").write_text(OWN)
    (work / "mine" / "rl.yaml").write_text(CUSTOM)
    recipe = load("mine/rl.yaml", TrainRl, find_model=find_model)
    Path("elsewhere.yaml").write_text(dump(recipe))
    assert load("elsewhere.yaml", TrainRl, find_model=find_model) == recipe


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("own.py", "none.py", "5: reward.components.0.class: no such file"),
        ("Own", "Onw", "did you mean 'Own'?"),
        ("size: 3", "siez: 3", "6: reward.components.0.kwargs: "),
        ("size: 3", "size: 3, judge: runs/vae", "6: reward.components.0.kwargs.judge: runs/vae"),
    ],
)
def test_a_custom_class_is_bound_before_anything_runs(old: str, new: str, expected: str, work: Path) -> None:
    (work / "own.py").write_text(OWN)
    assert expected in errors(CUSTOM.replace(old, new), TrainRl)[0]


def test_a_home_folder_is_one_wherever_a_file_is_named(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(work))
    (work / "mine.cif").write_text("data_x")
    recipe = load("score", RECIPES["score"], settings=["file=~/mine.cif", "out=~/s.csv"])
    assert (recipe.file, recipe.out) == (f"{work}/mine.cif", f"{work}/s.csv")


def test_the_reward_of_another_recipe_brings_its_model(work: Path) -> None:
    (work / "recipes").mkdir()
    (work / "recipes" / "mine.yaml").write_text(RL)
    (work / "x.cif").touch()
    recipe = load("score", Score, options={"file": "x.cif"}, reward="mine", find_model=find_model)
    assert recipe.reward == load("mine", TrainRl).reward
    assert recipe.model == "runs/ldm"
    (work / "recipes" / "mine.yaml").write_text(RL.replace("target_name", "target"))
    with pytest.raises(UserError, match=r"recipes/mine\.yaml:4: reward\.components\.0\.target: "):
        load("score", Score, options={"file": "x.cif"}, reward="mine")


def test_score_measures_by_the_reward_where_it_names_nothing_itself() -> None:
    reward = {"components": [{"type": "creativity"}], "energy_model": "chgnet", "hull": "h.csv.gz", "relax": {}}
    recipe = Score.model_validate({"file": "x.cif", "reward": reward, "hull": "own.csv.gz"})
    settings = recipe.energies()
    assert (settings.energy_model, settings.hull, settings.relax and settings.relax.steps) == (
        "chgnet",
        "own.csv.gz",
        200,
    )
    reward |= {"energy_model": "mine.model", "energy_scale": "r2SCAN"}
    recipe = Score.model_validate({"file": "x.cif", "reward": reward, "energy_model": "chgnet"})
    assert recipe.energies().energy_scale is None
    assert Score(file="x.cif").energies().energy_model is None


def test_a_recipe_in_a_folder_is_found_by_its_name(work: Path) -> None:
    for name in ("starter/dng", "starter/dng.yaml", "recipes/starter/dng.yaml"):
        assert load(name, TrainRl).name == "starter_dng"
    (work / "recipes" / "starter").mkdir(parents=True)
    (work / "recipes" / "starter" / "dng.yaml").write_text(RL)
    assert find("starter/dng") == Path("recipes/starter/dng.yaml")
    for name in ("starter/dgn", ".", "recipes", "../dng"):
        with pytest.raises(UserError, match="no such recipe"):
            find(name)


def test_a_recipe_without_rewards_gives_none(work: Path) -> None:
    with pytest.raises(UserError, match=r"vae\.yaml:1: found no reward: section"):
        load("score", Score, options={"file": "x.cif"}, reward="vae")


@pytest.mark.parametrize("command", RECIPES)
def test_every_key_has_an_explanation(command: str) -> None:
    lines = list(schema(RECIPES[command]))
    keys = [index for index, line in enumerate(lines) if not line.lstrip().startswith(("#", "each"))]
    assert keys
    for index in keys:
        assert lines[index + 1].lstrip().startswith("# "), lines[index]
