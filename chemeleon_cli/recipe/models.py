"""The recipe of every command. `chemeleon recipes schema` shows the docstring below a field as its documentation."""

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
    Size,
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


Heads = Annotated[Size, Field(validate_default=True), AfterValidator(_divides)]


class VaeModel(Section):
    """The size of the autoencoder."""

    hidden_dim: Size = 256
    """Width of the transformers."""
    num_heads: Heads = 8
    """Attention heads; `hidden_dim` must be a multiple of their number."""
    encoder_layers: Size = 4
    """Transformer layers of the encoder, which turns crystals into latents."""
    decoder_layers: Size = 4
    """Transformer layers of the decoder, which turns latents into crystals."""
    latent_dim: Size = 16
    """Latent numbers per atom."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Fraction of activations that are set to zero in training."""


class VaeLoss(Section):
    """The weight of each term of the autoencoder's loss."""

    types: NotNegative = 1.0
    """Weight of the cross-entropy of the elements."""
    lengths: NotNegative = 1.0
    """Weight of the squared error of the cell lengths, each divided by the cube root of the number of atoms, in Å^2."""
    angles: NotNegative = 30.0
    """Weight of the squared error of the cell angles, in rad^2."""
    coords: NotNegative = 10.0
    """Weight of the squared error of the sine and cosine of the fractional coordinates, for which 0 and 1 are equal."""
    kl: NotNegative = 1e-5
    """Weight of the KL divergence of an atom's latents from a standard normal, in nats. Keep it small: with a large
    weight, the decoder no longer reconstructs the crystals."""


class VaeAugment(Section):
    """Random changes to the training crystals (data augmentation)."""

    strain: NotNegative = 0.06
    """Largest standard deviation of the random strain of the cell; 0: no strain."""
    displacement: NotNegative = 0.1
    """Largest standard deviation of the random displacement of the atoms in each direction, in Å; 0: none."""
    latent_noise: NotNegative = 0.1
    """Standard deviation of the noise added to the latents before they are decoded, relative to the standard deviation
    of each latent over the batch; 0: none. It prepares the decoder for the inexact latents of a generator. More noise
    needs a larger `model.latent_dim`, because noisy latents carry less information about a crystal."""


class TrainVae(RunRecipe):
    """Train the autoencoder, which turns a crystal into a few numbers per atom (its latents) and back."""

    command: ClassVar[str] = "train-vae"
    name: RunName = "vae"
    """The name of the run and of its folder."""
    data: DataSection
    """The crystals to learn from."""
    model: VaeModel = VaeModel()
    """The size of the model."""
    loss: VaeLoss = VaeLoss()
    """The weights of the terms of the loss."""
    augment: VaeAugment = VaeAugment()
    """Random changes to the training crystals."""
    training: TrainingSection = TrainingSection()
    """The length of the training and the settings of the optimiser."""


class LdmModel(Section):
    """The denoiser and its size."""

    kind: Literal["dit"] = "dit"
    """The network: `dit`, a diffusion transformer."""
    hidden_dim: Size = 256
    """Width of the transformer."""
    num_blocks: Size = 6
    """Transformer blocks."""
    num_heads: Heads = 8
    """Attention heads; `hidden_dim` must be a multiple of their number."""


class DiffusionSection(Section):
    """The noise that the denoiser learns to remove."""

    timesteps: Annotated[int, Field(ge=2, le=10_000)] = 1000
    """Diffusion steps from the latents of a crystal to pure noise."""
    beta_start: Annotated[float, Field(gt=0, lt=1)] = 1e-4
    """Variance of the noise of the first step; it grows linearly to that of the last."""
    beta_end: Annotated[float, Field(gt=0, lt=1)] = 0.02
    """Variance of the noise of the last step."""


class TrainLdm(RunRecipe):
    """Train the generator, a diffusion model in the latents of a trained autoencoder."""

    command: ClassVar[str] = "train-ldm"
    name: RunName = "ldm"
    """The name of the run and of its folder."""
    data: DataSection
    """The crystals to learn from."""
    vae: VaeName | None = None
    """The autoencoder: a run folder, a checkpoint folder or a name. Null if `start` is given, which contains one."""
    start: LdmName | None = None
    """A trained generator to fine-tune on crystals of your own, such as `starter`. Its autoencoder, `model` and
    `diffusion` are kept, and so are the weights of its `conditions` that are not columns. Null: train from scratch."""
    model: LdmModel = LdmModel()
    """The size of the model."""
    diffusion: DiffusionSection = DiffusionSection()
    """The noise schedule."""
    conditions: Annotated[dict[str, ConditionSection], BeforeValidator(fill_in_kinds)] = {}
    """What the generator can be asked for: `composition`, `chemical_system`, `space_group`, `oxidation_states`, or
    columns of the data."""
    sampling: SamplerSection = SamplerSection()
    """How the crystals of the final report are sampled."""

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
    """The length of the training and the settings of the optimiser."""

    @model_validator(mode="after")
    def _begins_once(self) -> TrainLdm:
        own = {"vae": None, "model": LdmModel(), "diffusion": DiffusionSection()}
        if self.start is None:
            text = "found null; expected an autoencoder, unless `start` names a generator"
            mistakes = [("vae", text)] if self.vae is None else []
        else:
            text = f"expected none together with start: {self.start}, whose own is kept"
            mistakes = [(name, text) for name, default in own.items() if getattr(self, name) != default]
        if mistakes:
            raise several("train-ldm", mistakes)
        return self


class TargetSection(Section):
    """One property to predict."""

    mean: float | None = None
    """Subtracted from the label before training, in the label's unit; null: the mean of the train split."""
    std: Positive | None = None
    """The label is divided by this before training, in the label's unit; null: the standard deviation of the train
    split."""
    loss_weight: NotNegative = 1.0
    """The weight of this target in the loss."""
    window: Annotated[tuple[float, float], Strict(False)] | None = None
    """`[low, high]` in the label's unit: the final table gives precision and recall for values in this range."""
    zero_is: Literal["metal"] | None = None
    """`metal` for band gaps: the final table shows how well the predictor distinguishes zero from non-zero."""

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
    """Fraction of activations that are set to zero in training."""


class TrainPredictor(RunRecipe):
    """Train a property predictor on the encoder of a trained autoencoder."""

    command: ClassVar[str] = "train-predictor"
    name: RunName = "predictor"
    """The name of the run and of its folder."""
    data: DataSection
    """The crystals and their labels."""
    vae: VaeName
    """The autoencoder whose encoder is used: a run folder, a checkpoint folder or a name."""
    encoder: Literal["frozen", "finetune"] = "frozen"
    """`frozen` trains the head only; `finetune` trains the encoder too."""
    targets: Annotated[dict[str, TargetSection], BeforeValidator(_targets_of_names), Field(min_length=1)]
    """Columns of the data to predict: a list of names, or names with their settings."""
    reduce: Literal["mean", "sum"] = "mean"
    """How the atoms' features are pooled: `mean` for intensive properties, `sum` for those that grow with the cell."""
    use_encoder_features: bool = True
    """Use the encoder's last hidden layer in addition to the latents."""
    use_composition_features: bool = True
    """Also use statistics of tabulated properties of the elements (electronegativity, radius, ...). They help where
    labels are few, because the predictor then need not learn the periodic table from them."""
    model: PredictorModel = PredictorModel()
    """The head."""
    origins: Size = 4
    """Largest number of origins that a prediction is averaged over. An origin is an atom of the crystal's rarest
    element, to which the cell is shifted."""
    training: TrainingSection = TrainingSection()
    """The length of the training and the settings of the optimiser."""

    @field_validator("targets")
    @classmethod
    def _are_columns(cls, targets: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        if info.context and "data" in info.data:
            find_columns(info.data["data"].path, targets)
        return targets


def _look_for_crystals(file: str, info: ValidationInfo) -> str:
    if info.context and not Path(file).exists():
        raise mistake(f"found '{file}'; expected an existing file or folder of crystals")
    return file


class Sample(ComputeRecipe, SamplerSection, RequestSection):
    """Sample crystals from a generator."""

    command: ClassVar[str] = "sample"
    model: LdmName
    """The generator: a run folder, a checkpoint folder or a name."""
    num_samples: Count = 100
    """Number of crystals to sample; with `like`, the number for each of its crystals."""
    out: UserPath = "generated.cif"
    """The file to write, in the format of its suffix: .cif (a data block per crystal), .extxyz, .csv or .json.gz."""
    batch_size: Count = 256
    """Number of crystals sampled at a time."""
    precision: Literal["auto", "float32", "bf16"] = "auto"
    """Arithmetic of the transformer blocks; `auto` uses bf16 on hardware that is fast at it."""


class Score(DeviceRecipe):
    """Score crystals: write a table with a row for each, and a summary."""

    command: ClassVar[str] = "score"
    file: Annotated[UserPath, AfterValidator(_look_for_crystals)]
    """The crystals: CIF, extxyz, CSV, json.gz or POSCAR, a folder or a zip of them."""
    reward: Reward | None = None
    """Rewards to compute for each crystal; null: none. `--reward NAME` takes this section from another recipe."""
    model: LdmName | None = None
    """The generator whose autoencoder and training set are used for diversity and novelty: a run folder, a checkpoint
    folder or a name. Null: the `model` of the recipe that `--reward` names, if any."""
    reference: ReferenceFolder | None = None
    """The data folder that novelty is measured against, with all of its splits; null: the train split that `model` was
    trained on."""
    against: Annotated[UserPath, AfterValidator(_look_for_crystals)] | None = None
    """Known crystals to look for among the scored ones, for the match rate and the RMSE: a file, or a data folder, of
    which the test split is used. Null: none."""
    energy_model: str | None = None
    """The potential: `chgnet`, a MACE foundation model such as `medium-mpa-0`, or a MACE model file. Null: that of the
    reward, if any."""
    energy_scale: str | None = None
    """The scale of the energies that a potential from a file was fitted to, written as in the hull's manifest; null for
    potentials that are given by name."""
    hull: str | None = None
    """The reference energies of the convex hull: a `hull.csv.gz`, a data folder that contains one, or `starter`. Null:
    those of the reward, if any."""
    relax: Relaxation | None = None
    """Also relax the crystals (`steps`, and `fmax` in eV/Å), which takes long; null: as in the reward."""
    matching: Matching | None = None
    """Tolerances of the structure matcher (`ltol`, `stol`, `angle_tol`) that decides whether two crystals are the same,
    for uniqueness and novelty; null: as in the reward."""
    out: UserPath | None = None
    """The table to write, .csv or .parquet; the summary is written next to it as .json. Null: a CSV next to `file`."""
    relaxed_out: UserPath | None = None
    """A file for the relaxed crystals, in the format of its suffix: .cif, .extxyz, .csv or .json.gz; null: none."""

    def energies(self) -> EnergySettings:
        """Potential, hull, relaxation and matcher: those that are set here, and otherwise those of the reward."""
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
        if mistakes:
            raise several("score", mistakes)
        return self


def _is_table(path: str) -> str:
    if not path.endswith((".csv.gz", ".csv")):
        raise mistake(f"found '{path}'; expected a name that ends in .csv.gz or .csv")
    return path


class WriteHull(DeviceRecipe):
    """Compute the energies of a set of crystals and write them as the reference of a convex hull."""

    command: ClassVar[str] = "write-hull"
    file: Annotated[UserPath, AfterValidator(_look_for_crystals)]
    """The crystals: CIF, extxyz, CSV, json.gz or POSCAR, a folder or a zip of them."""
    energy_model: str = "chgnet"
    """The potential: `chgnet`, a MACE foundation model such as `medium-mpa-0`, or a MACE model file."""
    energy_scale: str | None = None
    """The scale of the energies that a potential from a file was fitted to, such as `PBE/MP-uncorrected`; null for
    potentials that are given by name. The hull has this scale, and only energies of the same scale can be compared
    with it."""
    relax: Relaxation | None = None
    """Relax the crystals first (`steps`, and `fmax` in eV/Å), which takes long; null: do not relax them."""
    out: Annotated[UserPath, AfterValidator(_is_table)] = "hull.csv.gz"
    """The table to write, .csv.gz or .csv; its manifest is written next to it as .json."""

    @model_validator(mode="after")
    def _look_for_potential(self, info: ValidationInfo) -> WriteHull:
        settings = EnergySettings(energy_model=self.energy_model, energy_scale=self.energy_scale)
        if info.context and (mistakes := settings.check_energies() or settings.check_scale()):
            raise several("write-hull", mistakes)
        return self


RECIPES: dict[str, type[Recipe]] = {
    model.command: model for model in (FetchData, TrainVae, TrainLdm, TrainPredictor, TrainRl, Sample, Score, WriteHull)
}
"""The recipe class of every command that takes a recipe, by the name of the command."""
