"""What all recipes share: sections, field types that look for files, and the settings of every run.

Each field type that names a file is checked only where `load` was given a way to find checkpoints (the pydantic
context), so a recipe can also be built and read where its files are not.
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
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]


@dataclass(frozen=True)
class RunOptions:
    """How this one call goes about a run; never part of a recipe.

    Attributes:
        resume: go on from the last checkpoint of the run folder.
        overwrite: replace a finished or broken run of the same name.
    """

    resume: bool = False
    overwrite: bool = False


def mistake(text: str) -> PydanticCustomError:
    """An error of one field whose text is shown as it is, after `file:line: key:`."""
    return PydanticCustomError("mistake", "{text}", {"text": text})


def several(section: str, mistakes: Iterable[tuple[str, str]]) -> ValidationError:
    """One error of the (field, text) of every mistake in a section."""
    lines: Any = [{"type": mistake(text), "loc": (field,), "input": None} for field, text in mistakes]
    return ValidationError.from_exception_data(section, lines)


def find_data(path: str, splits: Sequence[str]) -> Path:
    """The train table of a data folder that has these splits, or the mistake of the field that names it."""
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
    """Look for columns in the train table of a data folder.

    Raises:
        PydanticCustomError: there is no such column.
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
                raise mistake(f"{error.message}; {error.hint}" if error.hint else error.message) from None
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
        """What is allowed but probably not meant, a line each."""
        return []


class DeviceRecipe(Recipe):
    """The settings of a command that runs a model."""

    device: Annotated[str, AfterValidator(_is_device)] = "auto"
    """`auto` (a GPU where there is one), `cpu`, `cuda` or `cuda:1`."""


class ComputeRecipe(DeviceRecipe):
    """The settings of a command that runs a model with random numbers."""

    seed: Annotated[int, Field(ge=0, lt=2**32)] = 42
    """Where all random numbers start; the same seed on the same machine gives the same result."""


class WandbSection(Section):
    """Where Weights & Biases keeps the curves of a run (`pip install chemeleon-cli[wandb]`)."""

    type: Literal["wandb"]
    """The logger."""
    project: str = "chemeleon"
    """The project there."""
    name: str | None = None
    """The name of the run there; null takes the recipe's `name`."""
    mode: Literal["online", "offline"] = "online"
    """`offline` keeps the curves on disk until `wandb sync`."""


def _shorthand(value: Any) -> Any:
    return {"type": value} if isinstance(value, str) else value


class RunRecipe(ComputeRecipe):
    """The settings of every training run."""

    name: RunName = "run"
    """The name of the run and of its folder."""
    output: UserPath = "runs"
    """The folder of runs: this one is written to `<output>/<name>`."""
    devices: Count = 1
    """How many processes share the work: GPUs, or groups of cores on a CPU."""
    logger: Annotated[WandbSection | None, BeforeValidator(_shorthand)] = None
    """Beside `metrics.csv`: null for nothing, or `wandb` (or a section: type, project, name, mode)."""


class DataSection(Section):
    """The crystals to learn from."""

    path: DataFolder
    """A folder with `train.csv(.gz)` and, beside it, `val` and `test`, as `chemeleon fetch-data` writes it."""
    max_atoms: Count | None = 20
    """Crystals whose primitive cell has more atoms are left out; null keeps all."""
    thirds: Annotated[list[Literal[0, 1, 2]], Field(min_length=1)] | None = None
    """Learn from some thirds of the train split's formulas only, chosen by a hash of the formula: what learns from
    `[0]` can judge what learns from `[1, 2]`. Null: all of them."""


class TrainingSection(Section):
    """How long and how fast a model learns (AdamW, linear warm-up, then a cosine)."""

    batch_size: Count = 256
    """Crystals in each micro-batch of each device."""
    accumulate: Count = 1
    """Micro-batches that are added up before a step of the optimiser."""
    max_steps: Count = 10_000
    """Steps of the optimiser; the learning rate falls to its floor at the last of them."""
    max_minutes: Positive | None = None
    """End after this many minutes, if that comes before `max_steps`; the cosine ends with it. Null: no limit."""
    learning_rate: Positive = 1e-3
    """The highest learning rate, reached after the warm-up."""
    warmup_steps: Annotated[int, Field(ge=0)] = 200
    """Steps in which the learning rate rises from zero."""
    min_learning_rate_ratio: Share = 0.01
    """Where the cosine ends, as a share of `learning_rate`."""
    weight_decay: NotNegative = 0.01
    """AdamW's pull of the weights towards zero, per step and unit of learning rate."""
    gradient_clip: Positive = 1.0
    """The largest norm of a gradient; longer ones are shortened to it."""
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = 0.999
    """Decay per step of the moving average of the weights that is kept as the model; null for none."""
    val_every: Count = 500
    """Steps between two validations, each of which may become the `best` checkpoint."""
    patience: Count | None = None
    """Stop after this many validations without improvement; null never stops early."""
    precision: Literal["auto", "float32", "bf16"] = "auto"
    """Arithmetic of the transformer blocks; `auto` takes bf16 where the machine is fast at it."""


class SamplerSection(Section):
    """How noise becomes a crystal."""

    sampler: Literal["ddim", "ddpm"] = "ddim"
    """`ddim` skips steps and takes `eta`; `ddpm` adds the full noise of its steps."""
    sampling_steps: Annotated[int, Field(ge=1, le=1000)] = 50
    """Denoising steps, spread evenly over those of training."""
    eta: Share = 1.0
    """Noise that ddim adds at each step: 0 is deterministic, 1 as much as ddpm."""
