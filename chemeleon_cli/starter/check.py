"""`python -m chemeleon_cli.starter.check`: measures the starter models, and checks that they are good enough and agree
with their cards. Other trained models can be given by name."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from chemeleon_cli.core.paths import STARTER
from chemeleon_cli.errors import UserError
from chemeleon_cli.sources.checkpoints import find_model
from chemeleon_cli.starter import pack

if TYPE_CHECKING:
    from rich.console import Console

    from chemeleon_cli.core.data.dataset import Table
    from chemeleon_cli.core.models.generator import Generator
    from chemeleon_cli.core.models.predictor import Predictor

SEED = 11
SHARES = ("valid", "unique_of_valid", "unique_of_all", "novel_of_valid", "smact_valid")
"""Metrics that are shares of randomly sampled crystals, with the statistical noise of a share."""
MEGABYTES = 60
ASKED_SAMPLES = 500
OF_JUDGES = ("asked", "steering")
"""Metrics of the generator that depend on predictors; they are on its card, but too noisy to be compared."""


@dataclass(frozen=True)
class Check:
    """A metric with its allowed range.

    Attributes:
        what: the metric, in words.
        found: its measured value.
        low: the smallest allowed value.
        high: the largest allowed value.
    """

    what: str
    found: float
    low: float = -math.inf
    high: float = math.inf

    @property
    def passed(self) -> bool:
        """Whether the value is known and in the allowed range."""
        return self.low <= self.found <= self.high


def measure(
    models: Mapping[str, Path], data: Path, out: Path, samples: int, steered_samples: int, report: Any = print
) -> dict[str, Any]:
    """Measure all metrics, and write `distributions.png` and `steering.png`.

    Args:
        models: the folders of `ldm`, `predictor`, `judge` and, if there is one, `steered`.
        data: the data folder of the starter, or a similar one.
        out: the folder for the pictures.
        samples: number of crystals of the generator.
        steered_samples: number of crystals before and after steering.
        report: prints a line of progress.

    Raises:
        UserError: there is no test split, or a model is of the wrong kind.
    """
    from chemeleon_cli.core.data.dataset import load_split
    from chemeleon_cli.core.scoring import metrics
    from chemeleon_cli.core.training import checkpoint
    from chemeleon_cli.starter import figures, plots

    train, test = (load_split(data, split, 20) for split in ("train", "test"))
    if train is None or test is None:
        raise UserError(f"{data}: has no train and test split", "chemeleon fetch-data --source starter")
    ldm = cast("Generator", checkpoint.load(models["ldm"], "ldm")[0])
    sizes = [(models[name] / checkpoint.WEIGHTS).stat().st_size for name in pack.KINDS]
    found: dict[str, Any] = {"crystals": {"train": len(train), "test": len(test)}, "megabytes": sum(sizes) / 1e6}
    report("the autoencoder on test")
    found["vae"] = metrics.reconstruct(ldm.vae, test, 128)
    report(f"{samples} crystals of the generator")
    found["ldm"], made, known = figures.generation(figures.draw(ldm, samples, SEED, 50), train, test)
    plots.draw_distributions(out / "distributions.png", made, known)
    predictors = {}
    for name in ("predictor", "judge"):
        report(f"the {name} on test, beside baselines")
        loaded, meta = checkpoint.load(models[name], "predictor")
        predictors[name] = cast("Predictor", loaded)
        learned = _learned(train, meta["recipe"])
        found[name] = figures.prediction(predictors[name], meta["recipe"]["targets"], learned, test)
    if "band_gap" in ldm.conditions:
        report(f"{ASKED_SAMPLES} crystals for each band gap that is asked for")
        found["asked"] = figures.asked(ldm, predictors, min(ASKED_SAMPLES, samples), SEED + 2)
    seen = [pack.thirds_of(models[name]) for name in predictors]
    found["shared_thirds"] = len(seen[0] & seen[1])
    if "steered" in models:
        report(f"{steered_samples} crystals before and after steering")
        loaded, meta = checkpoint.load(models["steered"], "ldm")
        steered = cast("Generator", loaded)
        found["steered_by"] = {"recipe": meta["recipe"], "steps": meta["step"]}
        drawn = [figures.draw(model, steered_samples, SEED + 1, 50) for model in (ldm, steered)]
        found["steering"] = figures.steering(drawn[0], drawn[1], predictors, train)
        gaps = [figures.gaps(structures, predictors) for structures in drawn]
        panels = {name: (gaps[0][name], gaps[1][name]) for name in predictors}
        plots.draw_gaps(out / "steering.png", panels, figures.WINDOW)
    return found


def _learned(train: Table, recipe: Mapping[str, Any]) -> Table:
    from chemeleon_cli.core.data.dataset import of_thirds

    thirds = recipe["data"].get("thirds")
    return train if thirds is None else of_thirds(train, thirds)


def floors(found: Mapping[str, Any]) -> list[Check]:
    """The required quality of the models."""
    ldm = found["ldm"]
    checks = [
        Check("autoencoder: reconstructed test crystals", found["vae"]["match_rate"], 0.99),
        Check("generator: valid", ldm["valid"], 0.98),
        Check("generator: unique", ldm["unique_of_valid"], 0.99),
        Check("generator: SMACT-valid, against the data's share", ldm["smact_valid"], ldm["smact_valid_data"] - 0.05),
        Check("thirds that predictor and judge have both seen", found["shared_thirds"], high=0),
        Check("weights of the three models, MB", found["megabytes"], high=MEGABYTES),
    ]
    if asked := found.get("asked"):
        means = [figures["gap_judge"] for figures in asked.values()]
        rise = min(b - a for a, b in itertools.pairwise(means))
        checks += [
            Check("asked for a larger gap: it rises each time, by the judge, eV", rise, 0.1),
            Check("asked for a larger gap: it rises in all, by the judge, eV", means[-1] - means[0], 2.0),
        ]
    if steering := found.get("steering"):
        before, after = steering["before"], steering["after"]
        for name in ("predictor", "judge"):
            base = before[f"window_{name}"]
            low = max(3 * base, base + 0.1)
            checks.append(Check(f"steered: share in the window by the {name}", after[f"window_{name}"], low))
        checks += [
            Check("steered: valid", after["valid"], 0.95),
            Check("steered: unique", after["unique_of_valid"], 0.8),
            Check("steered: SMACT-valid, against before", after["smact_valid"], before["smact_valid"] - 0.05),
        ]
    return checks


def reproduced(measured: Mapping[str, Any], found: Mapping[str, Any]) -> list[Check]:
    """Check metrics against a card: shares of sampled crystals within three standard errors of a difference, distances
    between distributions within 25 %, and deterministic metrics within 1 %."""
    now, checks = dict(_flat(found)), []
    for key, before in _flat(measured):
        name = key.rpartition("/")[2]
        if name in SHARES:
            count = measured["ldm"]["n"]
            noise = 3 * math.sqrt(2 * max(before * (1 - before), 1 / count) / count)
        elif name.startswith("emd_"):
            noise = abs(before) / 4 + 0.02
        else:
            noise = abs(before) / 100 + 0.002
        checks.append(Check(f"as on the card: {key}", now.get(key, math.nan), before - noise, before + noise))
    return checks


def _flat(figures: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for key, value in figures.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}/")
        elif isinstance(value, int | float) and math.isfinite(value):
            yield f"{prefix}{key}", float(value)


def measured_of(name: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics that are on the card of a model and can be compared."""
    return {key: found[key] for key in (("vae", "ldm") if name == "ldm" else (name,))}


def show(found: Mapping[str, Any], checks: list[Check], console: Console) -> None:
    """Print the metrics, then the checks."""
    from rich.table import Table

    for name in ("vae", "ldm"):
        _columns(console, {name: found[name]})
    for name in ("predictor", "judge"):
        console.print(f"{name}, test, in each target's unit", highlight=False)
        _columns(console, found[name])
    for name in OF_JUDGES:
        if name in found:
            _columns(console, found[name])
    table = Table("", "", "found", "allowed")
    for check in checks:
        allowed = " to ".join(f"{end:.4g}" for end in (check.low, check.high) if math.isfinite(end))
        mark = "[green]pass[/]" if check.passed else "[red]FAIL[/]"
        bound = "at least " if check.high == math.inf else "at most " if check.low == -math.inf else ""
        table.add_row(mark, check.what, f"{check.found:.4g}", bound + allowed)
    console.print(table)


def _columns(console: Console, reports: Mapping[str, Mapping[str, float]]) -> None:
    from rich.table import Table

    table = Table("", *reports)
    for key in dict.fromkeys(key for report in reports.values() for key in report):
        table.add_row(key, *(f"{report[key]:.4g}" if key in report else "" for report in reports.values()))
    console.print(table)


def main(
    ldm: Annotated[str, typer.Option(help="The generator.")] = "starter",
    predictor: Annotated[str, typer.Option(help="The predictor that rewards.")] = "starter",
    judge: Annotated[str, typer.Option(help="The predictor that judges.")] = "starter/judge",
    steered: Annotated[str | None, typer.Option(help="The generator after train-rl recipes/bandgap.yaml.")] = None,
    data: Annotated[Path, typer.Option(help="The data folder.", file_okay=False)] = STARTER,
    out: Annotated[Path, typer.Option(help="Folder for figures.json and the pictures.", file_okay=False)] = Path(
        "demo/check"
    ),
    samples: Annotated[int, typer.Option("-n", min=1, help="Crystals to sample.")] = 2000,
    steered_samples: Annotated[int, typer.Option(min=1, help="Crystals before and after steering.")] = 1000,
    write_cards: Annotated[bool, typer.Option("--write-cards", help="Write the metrics to the cards.")] = False,
) -> None:
    """Measure the starter models; exit with 1 if a check fails."""
    from rich.console import Console

    from chemeleon_cli.core.paths import replacing
    from chemeleon_cli.core.training.checkpoint import json_text

    console = Console()
    try:
        models = {"ldm": find_model(ldm, "ldm")}
        models |= {"predictor": find_model(predictor, "predictor"), "judge": find_model(judge, "predictor")}
        if steered:
            models["steered"] = find_model(steered, "ldm")
        out.mkdir(parents=True, exist_ok=True)
        found = measure(models, data, out, samples, steered_samples, console.print)
    except UserError as error:
        typer.secho(error.message, fg="red", err=True)
        typer.echo(f"hint: {error.hint}", err=True)
        raise typer.Exit(2) from None
    checks = floors(found)
    for name in pack.KINDS:
        card = pack.read_card(models[name])
        if card and write_cards:
            judged = {key: found[key] for key in (*OF_JUDGES, "steered_by") if name == "ldm" and key in found}
            pack.write_card(models[name], card | {"measured": measured_of(name, found)} | judged)
        elif card and card["measured"]:
            checks += reproduced(card["measured"], measured_of(name, found))
    show(found, checks, console)
    with replacing(out / "figures.json") as temporary:
        temporary.write_text(json_text(found), encoding="utf-8")
    console.print(f"figures.json and pictures are in {out}", highlight=False)
    if not steered:
        console.print("steering was not measured: give a steered generator with --steered", highlight=False)
    raise typer.Exit(0 if all(check.passed for check in checks) else 1)


if __name__ == "__main__":
    typer.run(main)
