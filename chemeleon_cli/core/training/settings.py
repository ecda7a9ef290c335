"""How a model is trained: steps, learning rate, validation."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """Settings of training, from the section `training:` of the recipe.

    Attributes:
        max_steps: number of optimiser steps.
        learning_rate: peak learning rate of AdamW.
        warmup_steps: steps of linear warm-up, followed by a cosine schedule.
        min_learning_rate_ratio: final learning rate as a share of the peak.
        weight_decay: of AdamW.
        gradient_clip: largest gradient norm.
        ema_decay: decay of the exponential moving average of the weights; None for no average.
        accumulate: micro-batches per step and rank, whose gradients are accumulated.
        val_every: steps between validations.
        patience: validations without improvement after which the run ends; None to never end it.
        max_minutes: training time after which the run ends if it has not reached max_steps; the learning rate schedule
            is shortened accordingly. None for no limit.
        precision: "auto", "float32" or "bf16"; see `layers.set_precision`.
        log_every: steps between rows of metrics.csv, which hold means over these steps.
    """

    max_steps: int
    learning_rate: float
    warmup_steps: int
    min_learning_rate_ratio: float
    weight_decay: float
    gradient_clip: float
    ema_decay: float | None
    accumulate: int
    val_every: int
    patience: int | None
    max_minutes: float | None
    precision: str
    log_every: int = 50
