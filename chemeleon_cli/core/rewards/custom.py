"""A reward that the user writes: a class in a file or in an installed module."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import re
import sys
import traceback
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ConfigDict, Field, PrivateAttr

from chemeleon_cli.core.rewards.base import RewardComponent
from chemeleon_cli.core.rewards.predictor import predictor_mistake
from chemeleon_cli.core.scoring.needs import FindModel, Needs
from chemeleon_cli.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from torch import Tensor

    from chemeleon_cli.core.scoring.candidates import Candidates
    from chemeleon_cli.core.scoring.context import ScoringContext


FACTS = {
    "features": Needs(encoder=True),
    "novelty": Needs(known=frozenset([None])),
    "hull": Needs(hull=True),
}
"""What a class may need: "features" for `structure_features` and `composition_features`; "novelty" for `unique`,
`novel` and `creativity` against the training set of the generator; "hull" for `e_above_hull`."""


class CustomReward(RewardComponent):
    """Your own reward. Its class has a method `compute(candidates)` that returns one number per crystal, or NaN.

    If it uses facts that need loading, the class has an attribute `needs`, a tuple of keys of `FACTS`. For a parameter
    of its constructor that is annotated as `Predictor`, the recipe gives the name of a checkpoint, and the constructor
    gets the model.
    """

    model_config = ConfigDict(populate_by_name=True)

    type: Literal["custom"] = "custom"
    """The kind of reward."""
    class_: str = Field(alias="class")
    """`module:Class`, or `./file.py:Class` relative to the folder of the recipe."""
    kwargs: dict[str, Any] = {}
    """Arguments of the constructor of the class."""

    _instance: Any = PrivateAttr(default=None)

    @property
    def name(self) -> str:
        """The name of the class in snake case."""
        return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", self.class_.rpartition(":")[2]).lower()

    def needs(self) -> Needs:
        """The predictors that the arguments name, and the facts that the class needs."""
        cls = find_class(self.class_)
        named = predictor_parameters(cls)
        needs = Needs(predictors=frozenset(self.kwargs[key] for key in named if self.kwargs.get(key) is not None))
        for fact in needed_facts(cls):
            needs |= FACTS[fact]
        return needs

    def check(self, find_model: FindModel) -> list[tuple[str, str]]:
        """Check that the class exists, that it takes these arguments, and that its predictors exist."""
        try:
            cls = find_class(self.class_)
            needed_facts(cls)
        except ValueError as error:
            return [("class", str(error))]
        try:
            bind(cls, self.kwargs)
        except ValueError as error:
            return [("kwargs", str(error))]
        named = {key: self.kwargs[key] for key in predictor_parameters(cls) if self.kwargs.get(key) is not None}
        mistakes = [(key, predictor_mistake(name, find_model)) for key, name in named.items()]
        return [(f"kwargs.{key}", text) for key, text in mistakes if text]

    def prepare(self, context: ScoringContext) -> None:
        """Create the object, with its predictors.

        Raises:
            UserError: the constructor failed.
        """
        cls = find_class(self.class_)
        bind(cls, self.kwargs)
        named = predictor_parameters(cls)
        kwargs = {k: context.predictors[v] if k in named and v is not None else v for k, v in self.kwargs.items()}
        with self._blamed():
            self._instance = cls(**kwargs)

    def compute(self, candidates: Candidates) -> Tensor:
        """(B,) float64, in the unit of the class, which gets copies of the facts of the candidates.

        Raises:
            UserError: the class failed, or did not return one number per crystal.
        """
        import torch

        from chemeleon_cli.core.rewards.own_copies import OwnCopies

        if self._instance is None:
            self.prepare(candidates.context)
        with self._blamed():
            result: Any = self._instance.compute(OwnCopies(candidates, self.name))  # type: ignore[union-attr]
        try:
            numbers = result if isinstance(result, torch.Tensor) else torch.as_tensor(result, dtype=torch.float64)
        except (TypeError, ValueError, RuntimeError, OverflowError) as error:
            raise UserError(f"{self.class_}: compute returned no numbers: {error}", _EXPECTED) from error
        if numbers.is_complex() or numbers.shape != (len(candidates),):
            found = f"{numbers.dtype}" if numbers.is_complex() else f"shape {tuple(numbers.shape)}"
            raise UserError(f"{self.class_}: compute returned {found} for {len(candidates)} crystals", _EXPECTED)
        return numbers.detach().cpu().double()

    @contextlib.contextmanager
    def _blamed(self) -> Iterator[None]:
        """Turn an exception of the user's code into a UserError that names its class and line. That includes
        `sys.exit`, because a run that a reward ends has not succeeded."""
        try:
            yield
        except UserError:
            raise
        except (Exception, SystemExit) as error:
            own = inspect.getsourcefile(find_class(self.class_))
            hint = "correct the class; --debug shows the traceback"
            raise UserError(f"{self.class_}: {_cause(error, own)}", hint) from error


_EXPECTED = "return one number per candidate, in order, with NaN for a crystal without a value"


def find_class(path: str) -> type:
    """Import a class.

    Args:
        path: `module:Class` or `file.py:Class`.

    Raises:
        ValueError: there is no such file, module or class, its import fails, or it has no method
            `compute(candidates)`.
    """
    where, colon, name = path.rpartition(":")
    if not colon or not where or not name.isidentifier():
        raise ValueError(f"found '{path}'; expected module:Class or ./file.py:Class")
    module = _load_file(Path(where).expanduser()) if where.endswith(".py") else _import(where)
    found = getattr(module, name, None)
    if not inspect.isclass(found):
        own = [n for n, value in vars(module).items() if inspect.isclass(value) and value.__module__ == module.__name__]
        raise ValueError(f"found '{path}'; {where} has no class {name}{did_you_mean(name, own)}")
    compute = getattr(found, "compute", None)
    if not callable(compute):
        raise ValueError(f"found '{path}'; {name} has no method compute(self, candidates)")
    try:
        inspect.signature(compute).bind(None, None)
    except TypeError:
        raise ValueError(
            f"{path}: its compute{inspect.signature(compute)} cannot be called as compute(candidates)"
        ) from None
    return found


def bind(cls: type, kwargs: dict[str, Any]) -> None:
    """Check arguments against the constructor of a class.

    Raises:
        ValueError: an argument is missing or unknown, or is not a name although it is a predictor.
    """
    signature = inspect.signature(cls)
    try:
        signature.bind(**kwargs)
    except TypeError as error:
        unknown = [key for key in kwargs if key not in signature.parameters]
        meant = did_you_mean(unknown[0], signature.parameters) if unknown else ""
        raise ValueError(f"{error}; {cls.__name__} takes {signature}{meant}") from None
    for key in predictor_parameters(cls) & kwargs.keys():
        if not isinstance(kwargs[key], str | None):
            raise ValueError(f"{key}: found {kwargs[key]!r}; expected the name of a predictor")


def needed_facts(cls: type) -> tuple[str, ...]:
    """The attribute `needs` of a class; empty if it has none.

    Raises:
        ValueError: it is not a tuple or list of keys of FACTS.
    """
    needed = getattr(cls, "needs", ())
    if not isinstance(needed, tuple | list) or not set(needed) <= FACTS.keys():
        raise ValueError(f"{cls.__name__}.needs: found {needed!r}; expected a tuple of {', '.join(FACTS)}")
    return tuple(needed)


def predictor_parameters(cls: type) -> set[str]:
    """The constructor parameters that are annotated as a Predictor, by the text or the type of the annotation."""
    found = set()
    for name, parameter in inspect.signature(cls).parameters.items():
        annotation = parameter.annotation
        text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "") + str(annotation)
        if re.search(r"\bPredictor\b", text):
            found.add(name)
    return found


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        raise ValueError(f"module {name} cannot be imported: {_cause(error)}") from error


def _load_file(path: Path) -> ModuleType:
    path = path.resolve()
    if not path.is_file():
        raise ValueError(f"no such file: {path}")
    name = f"chemeleon_custom_{path.stem}_{zlib.crc32(str(path).encode()):x}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # before execution, because dataclasses look up their module there
        try:
            spec.loader.exec_module(module)
        except (Exception, SystemExit) as error:
            del sys.modules[name]
            raise ValueError(f"{path.name} cannot be imported: {_cause(error)}") from error
    return sys.modules[name]


def _cause(error: BaseException, file: str | None = None) -> str:
    """The error in one line, with the place that raised it: the innermost one, in `file` if that is given."""
    lines = [line for line in traceback.extract_tb(error.__traceback__) if not line.filename.startswith("<")]
    last = next((line for line in reversed(lines) if line.filename == file), lines[-1])
    where = "" if isinstance(error, SyntaxError) else f" ({Path(last.filename).name}:{last.lineno})"
    said = " ".join(str(error).split())
    return f"{type(error).__name__}{said and f': {said}'}{where}"
