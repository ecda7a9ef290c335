"""The recipe of every command. The docstring below a field is its documentation (`chemeleon recipes schema`)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    Strict,
    ValidationInfo,
    field_validator,
    model_validator,
)

from chemeleon_cli.core.rewards import EnergySettings, Matching, Relaxation
from chemeleon_cli.recipe.base import (
    ComputeRecipe,
    Count,
    DataSection,
    DeviceRecipe,
    LdmName,
    NotNegative,
    Positive,
    Recipe,
    ReferenceFolder,
    RunName,
    RunRecipe,
    SamplerSection,
    Section,
    TrainingSection,
    UserPath,
    VaeName,
    find_columns,
    mistake,
    several,
)
from chemeleon_cli.recipe.conditions import ConditionSection, RequestSection, fill_in_kinds
from chemeleon_cli.recipe.data import FetchData
from chemeleon_cli.recipe.steering import Reward, TrainRl


def _divides(value: int, info: ValidationInfo) -> int:
    width = info.data.get("hidden_dim", value)
    if width % value:
        raise mistake(f"found {value}; expected a number that divides hidden_dim, {width}")
    return value


Heads = Annotated[Count, Field(validate_default=True), AfterValidator(_divides)]


class VaeModel(Section):
    """The size of the autoencoder."""

    hidden_dim: Count = 256
    """Width of the transformers."""
    num_heads: Heads = 8
    """Attention heads; they divide `hidden_dim`."""
    encoder_layers: Count = 4
    """Transformer layers from crystal to latents."""
    decoder_layers: Count = 4
    """Transformer layers from latents to crystal."""
    latent_dim: Count = 16
    """Numbers that stand for one atom."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of activations set to zero in training."""


class VaeLoss(Section):
    """The weight of each term of the autoencoder's loss."""

    types: NotNegative = 1.0
    """Cross-entropy of the elements."""
    lengths: NotNegative = 1.0
    """Squared error of the cell's lengths, per cube root of the number of atoms, in Å^2."""
    angles: NotNegative = 30.0
    """Squared error of the cell's angles, in square radians."""
    coords: NotNegative = 10.0
    """Squared error of sine and cosine of the fractional coordinates, so that 0 and 1 are one place."""
    kl: NotNegative = 1e-5
    """Divergence of an atom's latents from a standard normal, in nats; small, or crystals do not come back."""


class VaeAugment(Section):
    """Random changes to the crystals that the autoencoder learns from."""

    strain: NotNegative = 0.06
    """Standard deviation of the strain of the cell, at the most; 0 for none."""
    displacement: NotNegative = 0.1
    """Standard deviation of the displacement of atoms in each direction, Å, at the most; 0 for none."""
    latent_noise: NotNegative = 0.1
    """Standard deviation of noise on the latents that are decoded, as a share of each one's spread over the batch: what
    the decoder has to bear from a generator; 0 for none. More of it needs more `model.latent_dim`: through noise, the
    same number of latents says less of a crystal."""


class TrainVae(RunRecipe):
    """Train the autoencoder: a crystal to a few numbers per atom, its latents, and back."""

    command: ClassVar[str] = "train-vae"
    name: RunName = "vae"
    """The name of the run and of its folder."""
    data: DataSection
    """The crystals to learn from."""
    model: VaeModel = VaeModel()
    """The size of the model."""
    loss: VaeLoss = VaeLoss()
    """What counts how much."""
    augment: VaeAugment = VaeAugment()
    """What is done to the crystals."""
    training: TrainingSection = TrainingSection()
    """How long and how fast."""


class LdmModel(Section):
    """The denoiser and its size."""

    kind: Literal["dit"] = "dit"
    """The network: `dit`, a diffusion transformer."""
    hidden_dim: Count = 256
    """Width of the transformer."""
    num_blocks: Count = 6
    """Transformer blocks."""
    num_heads: Heads = 8
    """Attention heads; they divide `hidden_dim`."""


class DiffusionSection(Section):
    """The noise that is learned to be taken away."""

    timesteps: Annotated[int, Field(ge=2)] = 1000
    """Steps from crystal to noise."""
    beta_start: Annotated[float, Field(gt=0, lt=1)] = 1e-4
    """Variance of the first step's noise; the steps between lie on a line."""
    beta_end: Annotated[float, Field(gt=0, lt=1)] = 0.02
    """Variance of the last step's noise."""


class TrainLdm(RunRecipe):
    """Train the generator: diffusion in the latents of a trained autoencoder."""

    command: ClassVar[str] = "train-ldm"
    name: RunName = "ldm"
    """The name of the run and of its folder."""
    data: DataSection
    """The crystals to learn from."""
    vae: VaeName | None = None
    """The autoencoder: a run folder, a checkpoint folder or a name; null where `start` is given, which holds one."""
    start: LdmName | None = None
    """A generator to go on from instead of from nothing, say `starter` for crystals of your own: its autoencoder,
    `model` and `diffusion` are kept, and what it learned of `conditions` that are not columns. Null: none."""
    model: LdmModel = LdmModel()
    """The size of the model."""
    diffusion: DiffusionSection = DiffusionSection()
    """The noise schedule."""
    conditions: Annotated[dict[str, ConditionSection], BeforeValidator(fill_in_kinds)] = {}
    """What crystals can be asked for: `composition`, `chemical_system`, `space_group`, `oxidation_states`, or columns
    of the data."""
    sampling: SamplerSection = SamplerSection()
    """How the crystals of the final report are drawn."""

    @field_validator("conditions")
    @classmethod
    def _have_columns(
        cls, conditions: dict[str, ConditionSection], info: ValidationInfo
    ) -> dict[str, ConditionSection]:
        if info.context and "data" in info.data:
            find_columns(info.data["data"].path, (name for name, c in conditions.items() if c.is_column))
        return conditions

    @field_validator("sampling")
    @classmethod
    def _within_training(cls, sampling: SamplerSection, info: ValidationInfo) -> SamplerSection:
        diffusion = info.data.get("diffusion")
        if diffusion and sampling.sampling_steps > diffusion.timesteps:
            raise mistake(f"found {sampling.sampling_steps} sampling_steps; expected at most {diffusion.timesteps}")
        return sampling

    training: TrainingSection = TrainingSection()
    """How long and how fast."""

    @model_validator(mode="after")
    def _begins_once(self) -> TrainLdm:
        own = {"vae": None, "model": LdmModel(), "diffusion": DiffusionSection()}
        if self.start is None:
            text = "found null; expected an autoencoder, or null beside a generator to `start` from"
            mistakes = [("vae", text)] if self.vae is None else []
        else:
            text = f"expected none beside start: {self.start}, which brings its own"
            mistakes = [(name, text) for name, default in own.items() if getattr(self, name) != default]
        if mistakes:
            raise several("train-ldm", mistakes)
        return self


class TargetSection(Section):
    """One property to predict."""

    mean: float | None = None
    """Subtracted before learning, in the label's unit; null: the mean of the train split."""
    std: Positive | None = None
    """Divided by before learning, in the label's unit; null: the standard deviation of the train split."""
    loss_weight: NotNegative = 1.0
    """How much this target counts beside the others."""
    window: Annotated[tuple[float, float], Strict(False)] | None = None
    """`[low, high]` in the label's unit: the final table gives precision and recall for values inside."""
    zero_is: Literal["metal"] | None = None
    """`metal` for band gaps: the final table tells how well zero is told from non-zero."""

    @field_validator("window")
    @classmethod
    def _in_order(cls, window: tuple[float, float] | None) -> tuple[float, float] | None:
        if window and window[0] >= window[1]:
            raise mistake(f"found {list(window)}; expected [low, high] with low below high")
        return window


def _targets_of_names(value: Any) -> Any:
    if isinstance(value, list):
        value = dict.fromkeys(map(str, value))
    if isinstance(value, dict):
        return {name: {} if target is None else target for name, target in value.items()}
    return value


class PredictorModel(Section):
    """The predictor's head."""

    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of activations set to zero in training."""


class TrainPredictor(RunRecipe):
    """Train a predictor of properties on the encoder of a trained autoencoder."""

    command: ClassVar[str] = "train-predictor"
    name: RunName = "predictor"
    """The name of the run and of its folder."""
    data: DataSection
    """The crystals and their labels."""
    vae: VaeName
    """The autoencoder whose encoder is used: a run folder, a checkpoint folder or a name."""
    encoder: Literal["frozen", "finetune"] = "frozen"
    """`frozen` learns the head only; `finetune` the encoder too."""
    targets: Annotated[dict[str, TargetSection], BeforeValidator(_targets_of_names), Field(min_length=1)]
    """Columns of the data to predict: a list of names, or names with their settings."""
    reduce: Literal["mean", "sum"] = "mean"
    """How atoms become a crystal: `mean` for quantities per atom, `sum` for those that grow with the cell."""
    use_encoder_features: bool = True
    """Use the encoder's last hidden layer beside the latents."""
    use_composition_features: bool = True
    """Use statistics of known properties of the elements (electronegativity, radius, ...) too: with few labels, the
    periodic table need not be learned from them."""
    model: PredictorModel = PredictorModel()
    """The head."""
    origins: Count = 4
    """How many of a crystal's origins (atoms of its rarest element) a prediction is averaged over, at most."""
    training: TrainingSection = TrainingSection()
    """How long and how fast."""

    @field_validator("targets")
    @classmethod
    def _are_columns(cls, targets: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        if info.context and "data" in info.data:
            find_columns(info.data["data"].path, targets)
        return targets


def _look_for_crystals(file: str, info: ValidationInfo) -> str:
    if info.context and not Path(file).exists():
        raise mistake(f"found '{file}'; expected a file or folder of crystals")
    return file


class Sample(ComputeRecipe, SamplerSection, RequestSection):
    """Draw crystals from a generator."""

    command: ClassVar[str] = "sample"
    model: LdmName
    """The generator: a run folder, a checkpoint folder or a name."""
    num_samples: Count = 100
    """Crystals to draw; with `like`, for each of its crystals."""
    out: UserPath = "generated.cif"
    """The file to write; its suffix says how: .cif (a data block per crystal), .extxyz, .csv or .json.gz."""
    batch_size: Count = 256
    """Crystals drawn at a time."""
    precision: Literal["auto", "float32", "bf16"] = "auto"
    """Arithmetic of the transformer blocks; `auto` takes bf16 where the machine is fast at it."""


class Score(DeviceRecipe):
    """Score crystals: a row for each and a summary."""

    command: ClassVar[str] = "score"
    file: Annotated[UserPath, AfterValidator(_look_for_crystals)]
    """The crystals: CIF, extxyz, CSV, json.gz or POSCAR, a folder or a zip of them."""
    reward: Reward | None = None
    """Rewards to compute for each crystal; null for none. `--reward NAME` takes the section of another recipe."""
    model: LdmName | None = None
    """The generator that diversity and novelty are about: its autoencoder and its training set. A run folder, a
    checkpoint folder or a name; null: the `model` of the recipe that `--reward` names, if any."""
    reference: ReferenceFolder | None = None
    """The data folder, all of its splits, that novelty is measured against; null: the train split that `model` has
    learned from."""
    against: Annotated[UserPath, AfterValidator(_look_for_crystals)] | None = None
    """Known crystals to be found among these (a file, or a data folder's test split): match rate and RMSE."""
    energy_model: str | None = None
    """The potential: `chgnet`, a MACE foundation model such as `medium-mpa-0`, or a MACE model file. Null: the
    reward's, if any."""
    energy_scale: str | None = None
    """Which energies a potential from a file was fitted to, as the hull's manifest has it; null for named ones."""
    hull: str | None = None
    """The reference energies: a `hull.csv.gz`, a data folder that holds one, or `starter`. Null: the reward's, if
    any."""
    relax: Relaxation | None = None
    """Relax the crystals too (steps, fmax), which takes long; null: as the reward does."""
    matching: Matching | None = None
    """When two crystals are the same (ltol, stol, angle_tol), for unique and novel; null: as the reward does."""
    out: UserPath | None = None
    """The table to write, .csv or .parquet, with the summary as .json beside it; null: a CSV beside the file that is
    scored."""
    relaxed_out: UserPath | None = None
    """A file for the relaxed crystals, in the format of its suffix: .cif, .extxyz, .csv or .json.gz; null for none."""

    def energies(self) -> EnergySettings:
        """Potential, hull, relaxation and matcher: those that are named here or, where they are not, in the reward."""
        other = self.reward or EnergySettings()
        return EnergySettings(
            energy_model=self.energy_model or other.energy_model,
            energy_scale=self.energy_scale if self.energy_model else self.energy_scale or other.energy_scale,
            hull=self.hull or other.hull,
            relax=self.relax or other.relax,
            matching=self.matching or other.matching,
        )

    @model_validator(mode="after")
    def _look_for_energies(self, info: ValidationInfo) -> Score:
        settings = self.energies()
        mistakes = settings.check_energies() if info.context else []
        if self.relaxed_out and settings.relax is None:
            mistakes.append(("relaxed_out", f"found '{self.relaxed_out}'; expected null where relax is null"))
        if self.energy_scale and settings.energy_model is None:
            mistakes.append(("energy_scale", f"found '{self.energy_scale}'; expected null where energy_model is null"))
        if mistakes:
            raise several("score", mistakes)
        return self


def _is_table(path: str) -> str:
    if not path.endswith((".csv.gz", ".csv")):
        raise mistake(f"found '{path}'; expected a name that ends in .csv.gz or .csv")
    return path


class WriteHull(DeviceRecipe):
    """Compute the energies of a set of crystals and write them as a hull."""

    command: ClassVar[str] = "write-hull"
    file: Annotated[UserPath, AfterValidator(_look_for_crystals)]
    """The crystals: CIF, extxyz, CSV, json.gz or POSCAR, a folder or a zip of them."""
    energy_model: str = "chgnet"
    """The potential: `chgnet`, a MACE foundation model such as `medium-mpa-0`, or a MACE model file."""
    energy_scale: str | None = None
    """Which energies a potential from a file was fitted to, such as `PBE/MP-uncorrected`; null for named ones. The
    hull is of this scale, and only energies of the same scale may be measured by it."""
    relax: Relaxation | None = None
    """Relax the crystals first (steps, fmax), which takes long; null: energies of the crystals as they are."""
    out: Annotated[UserPath, AfterValidator(_is_table)] = "hull.csv.gz"
    """The table to write, .csv.gz or .csv, with its manifest as .json beside it."""

    @model_validator(mode="after")
    def _look_for_potential(self, info: ValidationInfo) -> WriteHull:
        settings = EnergySettings(energy_model=self.energy_model, energy_scale=self.energy_scale)
        if info.context and (mistakes := settings.check_energies() or settings.check_scale()):
            raise several("write-hull", mistakes)
        return self


RECIPES: dict[str, type[Recipe]] = {
    model.command: model for model in (FetchData, TrainVae, TrainLdm, TrainPredictor, TrainRl, Sample, Score, WriteHull)
}
"""Every command that takes a recipe, and its model."""
