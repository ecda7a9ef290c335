"""What every training run shares: steps, precision, clipping, EMA, logging, checkpoints, resuming, ranks.

Each training command writes its own loop around a `Run`:

    for step in run.steps():
        for micro_batch in run.micro_batches():
            loss = model.loss(batch(micro_batch), run.generator(micro_batch))["total"]
            run.backward(loss)
            run.note({"loss": loss})
        run.log({"gradient_norm": run.optimise()})
        if run.validation_is_due():
            with run.ema_weights():
                metrics = validate()
            run.validated(metrics)

Random numbers depend only on the seed, the step and the micro-batch, not on a state that is carried from step to step.
So a resumed run continues as if it had never stopped (unless `max_minutes` ends it by the clock), and two ranks with
one micro-batch each give the same result as one rank with `accumulate: 2`.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from lightning_fabric import Fabric
from safetensors.torch import load_file
from torch import Tensor, nn

from chemeleon_cli.core.models.layers import set_precision
from chemeleon_cli.core.training import checkpoint
from chemeleon_cli.core.training.meta import read_object
from chemeleon_cli.core.training.metrics_file import Logger, MetricsFile
from chemeleon_cli.core.training.ranks import average_gradients, largest_of_ranks
from chemeleon_cli.core.training.resuming import check_recipe
from chemeleon_cli.core.training.settings import Settings
from chemeleon_cli.errors import UserError

MEMORY = "memory."
"""Prefix of the names of a memory's tensors."""
LOST_UPDATES = 10
"""Consecutive updates without a finite gradient after which a run ends with an error. A single one may be due to its
batch; ten in a row are due to the model or the data."""


class Memory(Protocol):
    """State of a run other than weights and optimiser, which is saved with them."""

    def state(self) -> Mapping[str, Tensor]:
        """The state as tensors."""
        ...

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state` returned."""
        ...


class Run:
    """One training run in its folder.

    Args:
        folder: the run folder; `checkpoints/` and `metrics.csv` are written in it.
        kind: checkpoint kind of the model.
        model: the model, with `.config`; parameters that do not require gradients are not trained.
        settings: of training.
        fabric: launched; provides device and ranks.
        seed: of all random numbers.
        meta: further metadata for checkpoints.
        monitor: name of the validation metric that selects `best`.
        mode: "min" or "max".
        logger: a further place to record metrics.
        memory: further state of the run, saved in checkpoints to resume from.

    Attributes:
        step: number of completed steps.
        saved: number of completed steps in `checkpoints/last`; None if there is none.
        updates: number of updates since the run was started or resumed.
        lost_updates: consecutive updates that were skipped because their gradient was not finite.
        validated_at: number of completed steps at the last validation.
    """

    def __init__(
        self,
        folder: Path,
        kind: str,
        model: nn.Module,
        settings: Settings,
        fabric: Fabric,
        seed: int,
        meta: dict[str, Any],
        monitor: str,
        mode: str = "min",
        logger: Logger | None = None,
        memory: Memory | None = None,
    ) -> None:
        self.folder, self.kind, self.model, self.settings = folder, kind, model.to(fabric.device), settings
        self.fabric, self.seed, self.meta, self.logger, self.memory = fabric, seed, meta, logger, memory
        self.monitor, self.sign = monitor, 1.0 if mode == "min" else -1.0
        self.precision = set_precision(model, settings.precision)
        self.trained = {k: p for k, p in model.named_parameters() if p.requires_grad}
        self.optimizer = torch.optim.AdamW(
            self.trained.values(),
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
            betas=(0.9, 0.99),
            fused=True,  # on a CPU, 4 times as fast for 6.5 M parameters
        )
        self.ema = {k: p.detach().clone() for k, p in self.trained.items()} if settings.ema_decay else {}
        self.step = 0
        self.saved: int | None = None
        self.updates = self.lost_updates = 0
        self.validated_at: int | None = None
        self.best: float | None = None
        self.bad_validations = 0
        self.minutes_before = 0.0
        self._clock = 0.0
        self.started = time.monotonic()
        self._pending: dict[str, list[float]] = defaultdict(list)
        self._rows = MetricsFile(folder / "metrics.csv") if fabric.is_global_zero else None

    # --- the loop -------------------------------------------------------------------------------

    def steps(self) -> Iterator[int]:
        """Yield the number of each step until the run is over, then save `last`.

        Raises:
            UserError: the gradient of `LOST_UPDATES` consecutive updates, or of all of them, was not finite.
        """
        while not self.is_over():
            self.model.train()
            yield self.step
            self.step += 1
            if self.lost_updates >= LOST_UPDATES:
                raise self._lost()
        if self.lost_updates == self.updates and self.updates:
            raise self._lost()
        self.save("last")

    def _lost(self) -> UserError:
        text = f"the loss or its gradient was not finite for {self.lost_updates} updates in a row"
        hint = "try a lower learning_rate or precision: float32; is every number of the data finite?"
        return UserError(f"step {self.step}: {text}; {self.standing()}", hint)

    def is_over(self) -> bool:
        """Whether the steps, the minutes or the patience are used up."""
        patience = self.settings.patience
        impatient = patience is not None and self.bad_validations >= patience
        return self.progress() >= 1 or impatient

    def progress(self) -> float:
        """Completed share of the run, by steps or by time, whichever is larger."""
        return min(1.0, max(self.step / self.settings.max_steps, self._clock))

    def minutes(self) -> float:
        """Minutes of training, including those before a resume."""
        return self.minutes_before + (time.monotonic() - self.started) / 60

    @property
    def micro_batches_per_step(self) -> int:
        """Micro-batches per step, summed over ranks."""
        return self.settings.accumulate * self.fabric.world_size

    def micro_batches(self) -> Iterator[int]:
        """Yield the indices of the micro-batches of this rank in this step. They are counted over the whole run."""
        first = self.step * self.micro_batches_per_step + self.fabric.global_rank * self.settings.accumulate
        for micro_batch in range(first, first + self.settings.accumulate):
            torch.manual_seed(self._seed_of(micro_batch))  # dropout has no generator of its own
            yield micro_batch

    def generator(self, micro_batch: int) -> torch.Generator:
        """The random generator of a micro-batch."""
        return torch.Generator().manual_seed(self._seed_of(micro_batch))

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradient of the mean loss of one micro-batch."""
        (loss / self.settings.accumulate).backward()

    def optimise(self) -> float:
        """Do one optimiser step with the gradient that `backward` accumulated, averaged over ranks. It is skipped if
        the gradient is not finite.

        Returns:
            The norm of the gradient before clipping.
        """
        parameters = list(self.trained.values())
        for p in parameters:  # a parameter unused by this rank's batch may be used by another rank's
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        if self.fabric.world_size > 1:
            average_gradients(self.fabric, parameters)
        norm = nn.utils.clip_grad_norm_(parameters, self.settings.gradient_clip)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        self.updates += 1
        if norm.isfinite():
            self.optimizer.step()
            self.lost_updates = 0
        else:
            self.lost_updates += 1
        self.optimizer.zero_grad(set_to_none=True)
        self._update_ema()
        if self.settings.max_minutes is not None:  # read once per step, so that all methods agree on the time
            self._clock = largest_of_ranks(self.fabric, self.minutes() / self.settings.max_minutes)
        return norm.item()

    def learning_rate(self) -> float:
        """The learning rate: linear warm-up, then a cosine down to `min_learning_rate_ratio` of the peak."""
        s = self.settings
        warm = min(1.0, (self.step + 1) / s.warmup_steps) if s.warmup_steps else 1.0
        floor = s.min_learning_rate_ratio
        return s.learning_rate * warm * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * self.progress())))

    def note(self, metrics: Mapping[str, float | Tensor]) -> None:
        """Collect the training metrics of a micro-batch for the next row of metrics.csv."""
        for name, value in metrics.items():
            self._pending[name].append(value.item() if isinstance(value, Tensor) else float(value))

    def log(self, metrics: Mapping[str, float | Tensor]) -> None:
        """Collect the metrics of a step, and every `log_every` steps write a row with the means since the last row."""
        self.note(metrics)
        if (self.step + 1) % self.settings.log_every == 0:
            row = {k: sum(v) / len(v) for k, v in self._pending.items()}
            self._write_row({**row, "learning_rate": self.learning_rate()}, self.step + 1)
            self._pending.clear()

    def validation_is_due(self) -> bool:
        """Whether to validate after this step: every `val_every` steps and at the end of the run."""
        done = self.step + 1
        return done % self.settings.val_every == 0 or done >= self.settings.max_steps or self.progress() >= 1

    def validation_is_missing(self) -> bool:
        """Whether the run was stopped by the validation of its last step, which a resumed run does first."""
        due = self.step % self.settings.val_every == 0 or self.is_over()
        return due and self.validated_at != self.step

    def validated(self, metrics: Mapping[str, float], between_steps: bool = False) -> bool:
        """Log validation metrics, save `last`, and save `best` if the monitored metric improved.

        Args:
            metrics: of the model as it is saved.
            between_steps: whether no step is under way, as before training and after a resume.

        Returns:
            Whether the monitored metric improved.

        Raises:
            KeyError: the monitored metric is missing.
        """
        metrics = self.fabric.broadcast(dict(metrics))  # ranks must not decide differently because of rounding
        value = metrics[self.monitor] * self.sign
        improved = math.isfinite(value) and (self.best is None or value < self.best)
        self.best, self.bad_validations = (value, 0) if improved else (self.best, self.bad_validations + 1)
        under_way, self.step = self.step, self.step + (not between_steps)  # checkpoints count the step just done
        self.validated_at = self.step
        self._write_row(metrics, self.step)
        if improved:
            self.save("best", metrics)
        self.save("last", metrics)
        self.step = under_way
        return improved

    # --- weights --------------------------------------------------------------------------------

    @contextlib.contextmanager
    def ema_weights(self) -> Iterator[nn.Module]:
        """The model in evaluation mode, with the moving average of the weights if there is one."""
        live = {k: p.detach().clone() for k, p in self.trained.items()} if self.ema else {}
        self._set_weights(self.ema)
        self.model.eval()
        try:
            with torch.no_grad():
                yield self.model
        finally:
            self._set_weights(live)
            self.model.train()

    def save(self, name: str, metrics: Mapping[str, float] | None = None) -> None:
        """Write `checkpoints/<name>` with the moving average of the weights if there is one; `last` also gets the state
        to resume from.

        Raises:
            UserError: a weight is not finite; nothing is written.
        """
        weights = {**self.model.state_dict(), **self.ema}
        live_and_kept = [*self.model.state_dict().items(), *self.ema.items()]
        broken = next((name for name, weight in live_and_kept if not weight.isfinite().all()), None)
        if broken is not None:
            raise UserError(
                f"step {self.step}: the weight {broken} is no longer finite; {self.standing()}",
                "try a lower learning_rate or precision: float32",
            )
        if self.fabric.is_global_zero:
            meta = {**self.meta, "ema": bool(self.ema), "step": self.step, "minutes": round(self.minutes(), 2)}
            if metrics is not None:
                self.meta["metrics"] = meta["metrics"] = dict(metrics)
            config = self.model.config
            target = self.folder / "checkpoints" / name
            checkpoint.save(target, self.kind, config, weights, meta, self._state() if name == "last" else None)  # type: ignore[arg-type]
        if name == "last":
            self.saved = self.step
        self.fabric.barrier()

    def standing(self) -> str:
        """A phrase that says what is saved, for an error that ends the run."""
        if self.saved is None:
            return "nothing is saved yet"
        return f"saved is {self.folder / 'checkpoints' / 'last'}, of step {self.saved}"

    def resume(self) -> None:
        """Continue from `checkpoints/last`.

        Raises:
            UserError: there is no checkpoint to resume, or it is from another recipe, model or data set.
        """
        folder = self.folder / "checkpoints" / "last"
        if self.fabric.is_global_zero:
            for name in ("last", "best"):
                checkpoint.recover(folder.with_name(name))
        self.fabric.barrier()
        if not (folder / "train_state.json").is_file():
            raise UserError(f"{folder}: stopped before its first checkpoint", "--overwrite starts the run again")
        meta = checkpoint.read_meta(folder)
        check_recipe(self.folder, meta.get("recipe", {}), self.meta.get("recipe", {}))
        for what, before, now in zip(("parents", "data"), _origin(meta), _origin(self.meta), strict=True):
            if before != now:
                raise UserError(f"{folder}: its {what} changed since the run began", "start a run of another name")
        if meta["config"] != json.loads(json.dumps(self.model.config)):
            hint = "resume with the recipe.yaml in the run folder"
            raise UserError(f"{folder}: its model does not have the config of the recipe", hint)
        tensors = load_file(folder / "train_state.safetensors")
        state = read_object(folder / "train_state.json")
        self._set_weights({k: tensors[f"live.{k}"] for k in self.trained})
        self.ema = {k: tensors[f"ema.{k}"].to(self.fabric.device) for k in self.ema}
        groups = self.optimizer.state_dict()["param_groups"]
        moments = {
            i: {m: tensors[f"{m}.{k}"] for m in ("step", "exp_avg", "exp_avg_sq")}
            for i, k in enumerate(self.trained)
            if f"step.{k}" in tensors
        }
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        self.step, self.best, self.bad_validations = state["step"], state["best"], state["bad_validations"]
        self.saved, self.validated_at = self.step, state.get("validated_at", self.step)
        self.minutes_before = state["minutes"]
        if self.settings.max_minutes is not None:
            self._clock = self.minutes_before / self.settings.max_minutes
        self._pending = defaultdict(list, state["pending"])
        if self.memory is not None:
            self.memory.load({k.removeprefix(MEMORY): v for k, v in tensors.items() if k.startswith(MEMORY)})
        self.meta["metrics"] = meta.get("metrics")
        if self._rows is not None:
            self._rows.drop_after(self.step)

    def _state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors = {f"live.{k}": p for k, p in self.trained.items()}
        tensors |= {f"ema.{k}": v for k, v in self.ema.items()}
        for k, p in self.trained.items():
            tensors |= {f"{m}.{k}": v for m, v in self.optimizer.state[p].items()}
        if self.memory is not None:
            tensors |= {f"{MEMORY}{k}": v for k, v in self.memory.state().items()}
        state = {"step": self.step, "validated_at": self.validated_at, "best": self.best}
        state["bad_validations"] = self.bad_validations
        return tensors, {**state, "minutes": self.minutes(), "pending": self._pending}

    def _set_weights(self, weights: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, value in weights.items():
                self.trained[name].copy_(value)

    def _update_ema(self) -> None:
        if self.ema and self.settings.ema_decay is not None:
            # an average over few steps decays faster, so that it does not retain the initial weights
            decay = min(self.settings.ema_decay, (1 + self.step) / (10 + self.step))
            for name, average in self.ema.items():
                average.lerp_(self.trained[name].detach(), 1 - decay)

    # --- ranks and records ----------------------------------------------------------------------

    def _seed_of(self, micro_batch: int) -> int:
        return (self.seed * 6364136223846793005 + self.step * 1442695040888963407 + micro_batch * 22695477) % 2**63

    def _write_row(self, metrics: Mapping[str, float], step: int) -> None:
        row = {"step": step, "minutes": round(self.minutes(), 3), **metrics}
        if self._rows is not None:
            self._rows.append(row)
            if self.logger is not None:
                self.logger.log(metrics, step)


def _origin(meta: Mapping[str, Any]) -> tuple[list[str], str | None]:
    """Hashes of the inputs of a run: the weights of its parents and its data."""
    return [p["sha256"] for p in meta.get("parents", [])], meta.get("data", {}).get("sha256")
