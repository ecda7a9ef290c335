"""What all recipes share: sections, field types that check that files exist, and the settings of every run.

A field that names a file is checked only if `load` was given a way to find checkpoints (the pydantic context), so a
recipe can also be built and read on a machine that does not have its files.
"""

from __future__ import annotations

import csv
import gzip
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, ValidationInfo
from pydantic_core import PydanticCustomError

from chemeleon_cli.core.paths import split_path
from chemeleon_cli.core.rewards import FindModel, Section
from chemeleon_cli.errors import UserError, did_you_mean

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Size = Annotated[int, Field(ge=1, le=10_000)]
"""Of a part of a model; a checkpoint with more is refused (`core.arguments.LARGEST`)."""
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]


@dataclass(frozen=True)
class RunOptions:
    """Options of one call of a training command; never part of a recipe.

    Attributes:
        resume: continue from the last checkpoint of the run folder.
        overwrite: replace a finished or broken run of the same name.
    """

    resume: bool = False
    overwrite: bool = False


def mistake(text: str) -> PydanticCustomError:
    """An error of one field; its text is shown unchanged after `file:line: key:`."""
    return PydanticCustomError("mistake", "{text}", {"text": text})


def several(section: str, mistakes: Iterable[tuple[str | tuple[str | int, ...], str]]) -> ValidationError:
    """One error that contains every mistake of a section, each given as (field or path of one, text)."""
    lines: Any = [
        {"type": mistake(text), "loc": (where,) if isinstance(where, str) else where, "input": None}
        for where, text in mistakes
    ]
    return ValidationError.from_exception_data(section, lines)


def find_data(path: str, splits: Sequence[str]) -> Path:
    """The train table of a data folder.

    Raises:
        PydanticCustomError: there is no such folder, or it lacks one of the `splits`.
    """
    folder = Path(path).expanduser()
    if folder.is_dir():
        for split in splits:
            if split_path(folder, split) is None:
                text = f"found '{path}', which has no {split}.csv(.gz); expected one made by `chemeleon fetch-data`"
                raise mistake(text)
    if (train := split_path(folder, "train")) is not None:
        return train
    beside = [str(folder.with_name(other.name)) for other in folder.parent.glob("*/")]
    raise mistake(
        f"found '{path}', no such folder; expected one made by `chemeleon fetch-data`"
        + did_you_mean(str(folder), beside)
    )


def find_columns(path: str, names: Iterable[str]) -> None:
    """Check that the train table of a data folder has these columns.

    Raises:
        PydanticCustomError: a column is not there.
    """
    table = find_data(path, ("train",))
    with (gzip.open if table.suffix == ".gz" else open)(table, "rt", encoding="utf-8") as lines:
        columns = next(csv.reader(lines), [])
    for name in names:
        if name not in columns:
            raise mistake(f"found '{name}'; expected columns of {table}{did_you_mean(name, columns)}")


def _checkpoint_of(kind: str) -> AfterValidator:
    def look(name: str, info: ValidationInfo) -> str:
        if info.context:
            find_model: FindModel = info.context
            try:
                find_model(name, kind)
            except UserError as error:
                raise mistake(error.in_one_line) from None
        return name

    return AfterValidator(look)


def _data_with(*splits: str) -> AfterValidator:
    def look(path: str, info: ValidationInfo) -> str:
        if info.context:
            find_data(path, splits)
        return path

    return AfterValidator(look)


VaeName = Annotated[str, _checkpoint_of("vae")]
LdmName = Annotated[str, _checkpoint_of("ldm")]
DataFolder = Annotated[str, _data_with("train", "val")]
ReferenceFolder = Annotated[str, _data_with("train")]


def _is_device(device: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise mistake(f"found '{device}'; expected auto, cpu, cuda or cuda:0")
    return device


def _is_folder_name(name: str) -> str:
    if name in ("", ".", "..") or "/" in name or "\\" in name:
        raise mistake(f"found '{name}'; expected the name of a folder, without slashes")
    return name


RunName = Annotated[str, AfterValidator(_is_folder_name)]
UserPath = Annotated[str, AfterValidator(os.path.expanduser)]


class Recipe(Section):
    """The settings of one command."""

    command: ClassVar[str]

    def warnings(self) -> list[str]:
        """Warnings about settings that are allowed but probably a mistake, a line each."""
        return []


class DeviceRecipe(Recipe):
    """The settings of a command that runs a model."""

    device: Annotated[str, AfterValidator(_is_device)] = "auto"
    """`auto` (a GPU if there is one), `cpu`, `cuda` or `cuda:1`."""


class ComputeRecipe(DeviceRecipe):
    """The settings of a command that runs a model with random numbers."""

    seed: Annotated[int, Field(ge=0, lt=2**32)] = 42
    """The seed of all random numbers; the same seed on the same machine gives the same result."""


class WandbSection(Section):
    """Logging of the metrics to Weights & Biases (`pip install chemeleon-cli[wandb]`)."""

    type: Literal["wandb"]
    """The logger."""
    project: str = "chemeleon"
    """The project at Weights & Biases."""
    name: str | None = None
    """The name of the run at Weights & Biases; null: the recipe's `name`."""
    mode: Literal["online", "offline"] = "online"
    """`offline` keeps the metrics on disk until you upload them with `wandb sync`."""


def _shorthand(value: Any) -> Any:
    return {"type": value} if isinstance(value, str) else value


class RunRecipe(ComputeRecipe):
    """The settings of every training run."""

    name: RunName = "run"
    """The name of the run and of its folder."""
    output: UserPath = "runs"
    """The folder that holds the runs; this one is written to `<output>/<name>`."""
    devices: Count = 1
    """Number of processes that share the work, each on its own GPU or, on a CPU, on its share of the cores."""
    logger: Annotated[WandbSection | None, BeforeValidator(_shorthand)] = None
    """A logger in addition to `metrics.csv`: `wandb`, or a section with its settings; null: none."""


class DataSection(Section):
    """The crystals to learn from."""

    path: DataFolder
    """A data folder as written by `chemeleon fetch-data`: tables `train`, `val` and `test`, as .csv or .csv.gz."""
    max_atoms: Count | None = 20
    """Leave out crystals with more atoms in the primitive cell; null: keep all crystals."""
    thirds: Annotated[list[Literal[0, 1, 2]], Field(min_length=1)] | None = None
    """Train on some thirds of the train split only, such as `[1, 2]`. A hash assigns each formula to a third, so a
    model trained on `[0]` can test one trained on `[1, 2]`. Null: train on all of them."""


class OptimiserSection(Section):
    """What all training has in common."""

    gradient_clip: Positive = 1.0
    """Gradients with a larger norm are scaled down to this norm."""
    patience: Count | None = None
    """Stop after this many validations without improvement; null: never stop early."""
    precision: Literal["auto", "float32", "bf16"] = "auto"
    """Arithmetic of the transformer blocks; `auto` uses bf16 on hardware that is fast at it."""


class TrainingSection(OptimiserSection):
    """The length of the training and the settings of the optimiser (AdamW, linear warm-up, then cosine decay)."""

    batch_size: Count = 256
    """Number of crystals in each micro-batch of each device."""
    accumulate: Count = 1
    """Number of micro-batches whose gradients are accumulated for one step of the optimiser."""
    max_steps: Count = 10_000
    """Number of steps of the optimiser; the learning rate reaches its minimum at the last step."""
    max_minutes: Positive | None = None
    """Stop after this many minutes if `max_steps` are not reached before; the learning rate then reaches its minimum at
    that time. Null: no limit."""
    learning_rate: Positive = 1e-3
    """The highest learning rate, reached after the warm-up."""
    warmup_steps: Annotated[int, Field(ge=0)] = 200
    """Number of steps in which the learning rate rises linearly from zero."""
    min_learning_rate_ratio: Share = 0.01
    """The minimum of the learning rate, at the end of its cosine decay, as a fraction of `learning_rate`."""
    weight_decay: NotNegative = 0.01
    """Weight decay of AdamW, per step and unit of learning rate."""
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = 0.999
    """Decay per step of the exponential moving average (EMA) of the weights, which is saved as the model; null: no
    average."""
    val_every: Count = 500
    """Number of steps between two validations. The best one so far is saved as the checkpoint `best`."""


class SamplerSection(Section):
    """How crystals are sampled from noise."""

    sampler: Literal["ddim", "ddpm"] = "ddim"
    """`ddim` adds as much noise as `eta` sets; `ddpm` always adds the full noise of each step."""
    sampling_steps: Annotated[int, Field(ge=1, le=1000)] = 50
    """Number of denoising steps, spread evenly over the diffusion steps of training."""
    eta: Share = 1.0
    """Noise that `ddim` adds at each step: with 0 it is deterministic, with 1 it adds as much as `ddpm`."""
