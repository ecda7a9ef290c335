"""The shared run: resuming, ranks, EMA, records, checkpoints."""

import csv
import json
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning_fabric import Fabric
from safetensors.torch import load_file, save_file
from samples import known_structures, random_structures, train_settings, write_dataset

from chemeleon_cli.commands import runs
from chemeleon_cli.core.data.batches import BatchOrder
from chemeleon_cli.core.data.dataset import load_split
from chemeleon_cli.core.models.vae import VAE
from chemeleon_cli.core.training import checkpoint
from chemeleon_cli.core.training.metrics_file import MetricsFile
from chemeleon_cli.core.training.ranks import on_first_rank
from chemeleon_cli.core.training.resuming import check_recipe
from chemeleon_cli.core.training.trainer import LOST_UPDATES, Run
from chemeleon_cli.errors import UserError
from chemeleon_cli.recipe.base import RunOptions, TrainingSection
from chemeleon_cli.recipe.load import load
from chemeleon_cli.recipe.models import TrainVae

SMALL = {"hidden_dim": 16, "num_heads": 2, "encoder_layers": 1, "decoder_layers": 1, "latent_dim": 4, "dropout": 0.1}
WEIGHTS = {"types": 1.0, "lengths": 1.0, "angles": 10.0, "coords": 10.0, "kl": 1e-5}


def make_run(
    folder: Path, data: Path, fabric: Fabric | None = None, recipe: dict | None = None, **changes
) -> tuple[Run, VAE, object]:
    if fabric is None:
        fabric = Fabric(accelerator="cpu", devices=1)
        fabric.launch()
    table = load_split(data, "train")
    assert table is not None
    torch.manual_seed(0)
    vae = VAE(**SMALL)
    options = {
        "max_steps": 8,
        "learning_rate": 1e-2,
        "warmup_steps": 2,
        "min_learning_rate_ratio": 0.1,
        "ema_decay": 0.9,
        "val_every": 4,
        "log_every": 2,
        "precision": "float32",
        **changes,
    }
    folder.mkdir(parents=True, exist_ok=True)
    meta = {"data": table.summary(), "recipe": recipe or {}}
    return Run(folder, "vae", vae, train_settings(**options), fabric, 7, meta, "val/loss"), vae, table


def train(run: Run, vae: VAE, table, stop_at: int | None = None) -> None:
    order = BatchOrder(table.num_atoms, 6, 7)
    for step in run.steps():
        for micro_batch in run.micro_batches():
            terms = vae.loss(table.crystals(order[micro_batch]), run.generator(micro_batch), 0.0)
            run.backward(sum(WEIGHTS[k] * v for k, v in terms.items()))
        run.log({"loss": terms["types"], "norm": run.optimise()})
        if run.validation_is_due():
            run.validated({"val/loss": terms["types"].item()})
        if step + 1 == stop_at:
            return


@pytest.fixture
def data(tmp_path: Path) -> Path:
    crystals = random_structures(24, seed=0, max_atoms=8) + known_structures()
    return write_dataset(tmp_path / "data", crystals, {"x": [float(i) for i in range(30)]})


@pytest.mark.parametrize("stop", [4, 6])
def test_resumed_equals_uninterrupted(tmp_path: Path, data: Path, stop: int):
    whole, vae, table = make_run(tmp_path / "whole", data)
    train(whole, vae, table)
    part, other, table = make_run(tmp_path / "part", data)
    train(part, other, table, stop_at=stop)
    again, third, table = make_run(tmp_path / "part", data)
    again.resume()
    assert again.step == 4, "the last checkpoint"
    train(again, third, table)
    for name in ("last", "best"):
        a, b = (load_file(tmp_path / run / "checkpoints" / name / "model.safetensors") for run in ("whole", "part"))
        assert all(torch.equal(a[k], b[k]) for k in a)
    rows = [(tmp_path / run / "metrics.csv").read_text().splitlines() for run in ("whole", "part")]
    columns = [[{k: v for k, v in r.items() if k != "minutes"} for r in csv.DictReader(text)] for text in rows]
    assert columns[0] == columns[1]


def test_a_run_is_not_resumed_on_other_data(tmp_path: Path, data: Path):
    run, vae, table = make_run(tmp_path / "run", data)
    train(run, vae, table, stop_at=4)
    write_dataset(data, random_structures(24, seed=5, max_atoms=8), {"x": [0.0] * 24})
    again, _, _ = make_run(tmp_path / "run", data)
    with pytest.raises(UserError, match="its data changed since the run began"):
        again.resume()


BEGAN = {
    "name": "a",
    "device": "cuda",
    "reward": {"relax": None, "components": [{"type": "creativity", "weight": 1.0}]},
    "training": {"max_steps": 8, "ema_decay": 0.9},
    "conditions": [],
}


@pytest.mark.parametrize(
    ("section", "value", "words"),
    [
        ("reward", {"components": [{"type": "creativity", "weight": 2.0}]}, "reward.components.0.weight was 1.0 when"),
        ("reward", {"components": [*BEGAN["reward"]["components"], {"type": "energy"}]},
         'reward.components.1.type was null when the run began and is "energy" now'),
        ("reward", {"relax": {"steps": 5}, "components": BEGAN["reward"]["components"]},
         'reward.relax was null when the run began and is {"steps": 5} now'),
        ("training", {"max_steps": 8, "ema_decay": 0.99}, "training.ema_decay was 0.9 when"),
        ("training", {"max_steps": 8, "ema_decay": 0.9, "warmup_steps": 3}, "training.warmup_steps was null when"),
        ("conditions", [None], "conditions.0 was absent when the run began and is null now"),
    ],
)  # fmt: skip
def test_the_first_setting_that_differs_is_named(section: str, value: object, words: str):
    with pytest.raises(UserError) as caught:
        check_recipe(Path("run"), BEGAN, {**BEGAN, section: value})
    assert words in caught.value.message


def test_a_run_is_resumed_with_its_recipe_for_longer_and_elsewhere(tmp_path: Path, data: Path):
    run, vae, table = make_run(tmp_path / "run", data, recipe=BEGAN)
    train(run, vae, table, stop_at=4)
    other = {**BEGAN, "training": {"max_steps": 8, "ema_decay": None}}
    again, _, _ = make_run(tmp_path / "run", data, recipe=other, ema_decay=None)
    with pytest.raises(UserError, match=r"training\.ema_decay was 0\.9 when the run began and is null now"):
        again.resume()
    changes = {"name": "b", "device": "cpu", "training": {"max_steps": 99, "ema_decay": 0.9, "patience": 3}}
    again, _, _ = make_run(tmp_path / "run", data, recipe={**BEGAN, **changes}, max_steps=99)
    again.resume()
    assert again.step == 4


def test_the_recipe_of_a_run_is_that_it_was_resumed_with(tmp_path: Path, data: Path):
    recipe = TrainVae.model_validate({"data": {"path": "data"}, "output": str(tmp_path), "name": "run"})
    fabric = Fabric(accelerator="cpu", devices=1)
    meta = runs.describe(recipe, {}, [])
    folder, _ = runs.open_folder(recipe, RunOptions(), fabric, meta)
    run, vae, table = make_run(folder, data, recipe=meta["recipe"])
    train(run, vae, table, stop_at=4)

    def go_on(now: TrainVae) -> None:
        runs.open_folder(now, RunOptions(resume=True), fabric, meta)
        runs.resume(make_run(folder, data, recipe=runs.describe(now, {}, [])["recipe"])[0], now)

    longer = recipe.model_copy(update={"training": TrainingSection(max_steps=20_000)})
    go_on(longer)
    assert load(folder / "recipe.yaml", TrainVae) == longer
    other = recipe.model_copy(update={"training": TrainingSection(learning_rate=1.0)})
    with pytest.raises(UserError, match=r"training\.learning_rate was 0\.001 when the run began and is 1\.0 now"):
        go_on(other)
    assert load(folder / "recipe.yaml", TrainVae) == longer, "a refused recipe is not written"


def test_a_checkpoint_whose_renaming_was_cut_short_is_found(tmp_path: Path, data: Path):
    run, vae, table = make_run(tmp_path / "run", data)
    train(run, vae, table, stop_at=4)
    last = tmp_path / "run" / "checkpoints" / "last"
    last.rename(last.with_name(".last.old"))
    again, _, _ = make_run(tmp_path / "run", data)
    again.resume()
    assert again.step == 4


def test_two_processes_do_what_one_does_with_two_micro_batches(tmp_path: Path, data: Path):
    one, vae, table = make_run(tmp_path / "one", data, accumulate=2)
    train(one, vae, table)
    script = tmp_path / "two.py"
    script.write_text(
        textwrap.dedent(f"""
        import sys; sys.path[:0] = {[str(Path(__file__).parent)]!r}
        from pathlib import Path
        from lightning_fabric import Fabric
        from test_trainer import make_run, train
        fabric = Fabric(accelerator="cpu", devices=2, strategy="ddp")
        fabric.launch()
        train(*make_run(Path({str(tmp_path / "two")!r}), Path({str(data)!r}), fabric))
        """)
    )
    subprocess.run([sys.executable, script], check=True, timeout=120, capture_output=True)
    a, b = (load_file(tmp_path / run / "checkpoints" / "last" / "model.safetensors") for run in ("one", "two"))
    for name in a:
        assert torch.allclose(a[name], b[name], atol=1e-5), name


def test_a_seed_seeds_even_if_it_is_zero(data: Path):
    table = load_split(data, "train")
    assert table is not None
    zero, zero_again, one = (BatchOrder(table.num_atoms, 6, seed) for seed in (0, 0, 1))
    assert all(torch.equal(zero[i], zero_again[i]) for i in range(8))
    assert any(not torch.equal(zero[i], one[i]) for i in range(3))


@pytest.mark.parametrize(("batch_size", "batches_per_step"), [(7, 1), (7, 3), (2, 100)])
def test_an_epoch_has_every_crystal_once(data: Path, batch_size: int, batches_per_step: int):
    table = load_split(data, "train")
    assert table is not None
    order = BatchOrder(table.num_atoms, batch_size, 3, batches_per_step)
    for epoch in range(2):
        batches = [order[epoch * order.batches_per_epoch + i] for i in range(order.batches_per_epoch)]
        assert 0 < min(map(len, batches)) <= max(map(len, batches)) <= batch_size
        assert sorted(torch.cat(batches).tolist()) == list(range(len(table)))


def test_batches_of_a_step_are_of_like_size():
    num_atoms = torch.randint(1, 21, (1000,), generator=torch.Generator().manual_seed(0))
    order = BatchOrder(num_atoms, 10, 0, 2)
    pairs = [(num_atoms[order[2 * i]], num_atoms[order[2 * i + 1]]) for i in range(order.steps_per_epoch)]
    assert sum(bool(one.max() == two.min()) for one, two in pairs) > 0.5 * len(pairs)
    assert max(int(two.max() - one.min()) for one, two in pairs) <= 2


def test_learning_rate_warms_up_and_ends_at_the_floor(tmp_path: Path, data: Path):
    run, _, _ = make_run(tmp_path / "run", data, max_steps=100, warmup_steps=10)
    rates = []
    for step in range(101):
        run.step = step
        rates.append(run.learning_rate())
    assert rates[0] == pytest.approx(1e-3, rel=0.01)
    assert max(rates) < 1e-2
    assert rates[100] == pytest.approx(1e-3)
    assert rates[50] == pytest.approx(0.01 * (0.1 + 0.9 * 0.5))


def test_ema_is_what_is_saved_and_live_weights_come_back(tmp_path: Path, data: Path):
    run, vae, table = make_run(tmp_path / "run", data)
    train(run, vae, table)
    saved = load_file(tmp_path / "run" / "checkpoints" / "last" / "model.safetensors")
    name = "encoder.head.weight"
    live = vae.state_dict()[name].clone()
    assert torch.equal(saved[name], run.ema[name])
    assert not torch.equal(saved[name], live)
    with run.ema_weights():
        assert torch.equal(vae.state_dict()[name], run.ema[name])
    assert torch.equal(vae.state_dict()[name], live)


def test_best_is_the_best_and_patience_ends_the_run(tmp_path: Path, data: Path):
    run, _, _ = make_run(tmp_path / "run", data, max_steps=100, patience=2)
    values = iter([3.0, 2.0, float("nan"), 2.5])
    for _ in run.steps():
        run.validated({"val/loss": next(values)})
    assert run.step == 4
    assert json.loads((tmp_path / "run" / "checkpoints" / "best" / "meta.json").read_text())["metrics"] == {
        "val/loss": 2.0
    }


def test_a_gradient_that_is_not_finite_changes_no_weight(tmp_path: Path, data: Path):
    run, vae, _ = make_run(tmp_path / "run", data)
    before = {k: v.clone() for k, v in vae.state_dict().items()}
    run.backward(sum(p.sum() for p in vae.parameters()) * float("nan"))
    run.optimise()
    assert all(torch.equal(before[k], v) for k, v in vae.state_dict().items())


def test_metrics_file_grows_columns(tmp_path: Path):
    rows = MetricsFile(tmp_path / "metrics.csv")
    rows.append({"step": 1, "loss": 0.5})
    rows.append({"step": 2, "val/loss": 0.25})
    rows.drop_after(1)
    rows.append({"step": 2, "loss": 1.0, "val/loss": 2.0})
    with (tmp_path / "metrics.csv").open() as file:
        assert list(csv.DictReader(file)) == [
            {"step": "1", "loss": "0.5", "val/loss": ""},
            {"step": "2", "loss": "1.0", "val/loss": "2.0"},
        ]


def test_a_row_that_was_cut_off_is_forgotten(tmp_path: Path):
    path = tmp_path / "metrics.csv"
    path.write_text("step,loss\n1,0.5\n2,0.2")  # of 2,0.25
    MetricsFile(path).drop_after(9)
    assert path.read_text().split() == ["step,loss", "1,0.5"]


def test_the_number_of_devices_stays_where_each_takes_a_batch():
    recipe = {"command": "train-rl", "rl": {}, "sampling": {}, "training": {}}
    check_recipe(Path(), {**recipe, "devices": 1}, {**recipe, "devices": 2})
    with pytest.raises(UserError, match="devices was 1 when the run began and is 2 now"):
        check_recipe(Path(), {"command": "train-ldm", "devices": 1}, {"command": "train-ldm", "devices": 2})


def test_checkpoint_round_trip_and_its_errors(tmp_path: Path):
    torch.manual_seed(0)
    vae = VAE(**SMALL)
    folder = tmp_path / "vae"
    for _ in range(2):  # the second replaces the first
        checkpoint.save(folder, "vae", vae.config, vae.state_dict(), {"data": {}})
    assert [p.name for p in tmp_path.iterdir()] == ["vae"]
    (tmp_path / "mine").touch()
    assert {p.stat().st_mode for p in folder.iterdir()} == {(tmp_path / "mine").stat().st_mode}  # all can read
    again, meta = checkpoint.load(folder, "vae")
    assert meta["kind"] == "vae"
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in vae.state_dict().items())
    with pytest.raises(UserError, match="a vae checkpoint where a predictor is needed"):
        checkpoint.load(folder, "predictor")
    weights = load_file(folder / "model.safetensors")
    weights["encoder.head.weight"] = weights["encoder.head.weight"][:3]
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"1 tensors do not fit its config, the first encoder\.head\.weight: \(3, 16\)"):
        checkpoint.load(folder, "vae")
    (folder / "model.safetensors").write_bytes(b"half a fi")
    with pytest.raises(UserError, match="cannot be read"):
        checkpoint.load(folder, "vae")
    (folder / "meta.json").write_text('{"kind": "vae", "version": 99}')
    with pytest.raises(UserError, match="version 99"):
        checkpoint.read_meta(folder)


def loss_of(run: Run, vae: VAE, table, bad: range) -> None:
    """Train with losses that are NaN in some steps."""
    order = BatchOrder(table.num_atoms, 6, 7)
    for step in run.steps():
        for micro_batch in run.micro_batches():
            terms = vae.loss(table.crystals(order[micro_batch]), run.generator(micro_batch), 0.0)
            run.backward(terms["types"] * (torch.nan if step in bad else 1.0))
        run.log({"norm": run.optimise()})
        if run.validation_is_due():
            run.validated({"val/loss": 1.0})


def test_losses_that_are_not_finite_end_a_run_and_one_of_them_does_not(tmp_path: Path, data: Path):
    run, vae, table = make_run(tmp_path / "one", data, max_steps=20)
    loss_of(run, vae, table, range(3, 3 + LOST_UPDATES - 1))
    assert run.step == 20
    run, vae, table = make_run(tmp_path / "all", data, max_steps=100)
    with pytest.raises(UserError) as caught:
        loss_of(run, vae, table, range(6, 100))
    assert caught.value.message == (
        f"step {6 + LOST_UPDATES}: the loss or its gradient was not finite for {LOST_UPDATES} updates in a row; "
        f"saved is {tmp_path}/all/checkpoints/last, of step {6 + LOST_UPDATES}"
    )
    assert all(v.isfinite().all() for v in load_file(tmp_path / "all/checkpoints/last/model.safetensors").values())


def test_a_short_run_ends_with_the_reason_where_no_update_was_made(tmp_path: Path, data: Path):
    run, vae, table = make_run(tmp_path / "some", data, max_steps=4)
    loss_of(run, vae, table, range(1, 4))
    assert run.step == 4, "one update was made"
    run, vae, table = make_run(tmp_path / "none", data, max_steps=4)
    with pytest.raises(UserError, match="step 4: the loss or its gradient was not finite for 4 updates in a row"):
        loss_of(run, vae, table, range(4))


def test_a_validation_that_stopped_the_run_is_made_up_when_it_is_resumed(tmp_path: Path, data: Path):
    run, vae, table = make_run(tmp_path / "a", data, max_steps=8)
    train(run, vae, table, stop_at=4)
    run.step = 4
    assert not run.validation_is_missing()
    for missing in (True, False):
        run.validated_at = None if missing else 4
        run.save("last")
        again, _, _ = make_run(tmp_path / "a", data, max_steps=8)
        again.resume()
        assert again.validation_is_missing() is missing
    again.validated({"val/loss": 1.0}, between_steps=True)
    assert again.step == 4 and not again.validation_is_missing()


@pytest.mark.parametrize("ema", [0.9, None])
def test_a_weight_that_is_not_finite_reaches_no_checkpoint(tmp_path: Path, data: Path, ema: float | None):
    run, vae, table = make_run(tmp_path / "run", data, max_steps=100, ema_decay=ema)
    train(run, vae, table, stop_at=4)
    name, weight = next(iter(run.trained.items()))
    with torch.no_grad():
        weight.view(-1)[0] = torch.inf
    before = {path: path.read_bytes() for path in (tmp_path / "run/checkpoints").rglob("*.*") if path.is_file()}
    for save in (lambda: run.save("best"), lambda: run.validated({"val/loss": -9.0})):
        with pytest.raises(UserError, match=rf"the weight {name} is no longer finite; saved is .*last, of step 4"):
            save()
    assert before == {path: path.read_bytes() for path in (tmp_path / "run/checkpoints").rglob("*.*") if path.is_file()}


def test_an_error_of_the_first_rank_is_raised_on_the_others():
    told: list[object] = []

    def fail() -> None:
        raise UserError("no luck", "try again")

    first = SimpleNamespace(is_global_zero=True, broadcast=lambda value: told.append(value) or value)
    with pytest.raises(UserError, match="no luck"):
        on_first_rank(first, fail)  # type: ignore[arg-type]
    other = SimpleNamespace(is_global_zero=False, broadcast=lambda value: told[-1])
    with pytest.raises(UserError, match="no luck") as caught:
        on_first_rank(other, fail)  # type: ignore[arg-type]
    assert caught.value.hint == "try again"
    assert on_first_rank(first, lambda: 3) == on_first_rank(other, fail) == 3  # type: ignore[arg-type]


STEERED = {
    "command": "train-rl",
    "rl": {"kl_weight": 0.01},
    "sampling": {"eta": 1.0},
    "training": {"max_steps": 8, "max_minutes": None, "val_every": 2, "patience": None, "learning_rate": 1e-4},
}


@pytest.mark.parametrize(
    ("setting", "value"), [("max_steps", 9), ("max_minutes", 5.0), ("val_every", 3), ("patience", 2)]
)
def test_a_steered_run_may_go_on_for_longer_and_be_validated_otherwise(setting: str, value: float):
    check_recipe(Path("run"), STEERED, {**STEERED, "training": {**STEERED["training"], setting: value}})


@pytest.mark.parametrize(
    ("section", "setting"), [("rl", "kl_weight"), ("sampling", "eta"), ("training", "learning_rate")]
)
def test_what_a_steered_run_has_learned_by_stays(section: str, setting: str):
    with pytest.raises(UserError, match=rf"run: {section}\.{setting} was .* and is 0\.5 now"):
        check_recipe(Path("run"), STEERED, {**STEERED, section: {**STEERED[section], setting: 0.5}})
    with pytest.raises(UserError, match=r"rl\.max_steps was null when the run began and is 3 now"):
        check_recipe(Path("run"), STEERED, {**STEERED, "rl": {**STEERED["rl"], "max_steps": 3}})


def test_a_steered_run_from_before_the_sections_is_refused_in_one_line():
    before = {"command": "train-rl", "max_steps": 8, "kl_weight": 0.01, "eta": 1.0, "learning_rate": 1e-4}
    with pytest.raises(UserError) as caught:
        check_recipe(Path("runs/old"), before, STEERED)
    words = "runs/old: began when the recipe of train-rl had no sections rl, sampling and training"
    assert caught.value.message == words
    assert "--set model=runs/old --set name=NAME" in caught.value.hint
