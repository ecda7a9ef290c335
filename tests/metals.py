"""Metals out of place and a real, cheap potential for them; imported by worker processes, so it imports little."""

import math
import os
import pickle
import time
from pathlib import Path

import numpy as np
from ase.calculators.emt import EMT
from pymatgen.core import Lattice, Structure

from chemeleon_cli.core.potentials.base import CalculatorPotential


def strained(symbol: str, a: float, strain: float = 0.04) -> Structure:
    """An fcc metal, stretched along z, one of its atoms out of place."""
    metal = Structure(Lattice.cubic(a), [symbol] * 4, [[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    metal.apply_strain([0, 0, strain])
    metal.translate_sites([1], [0.02, 0.01, 0])
    return metal


class Metals(CalculatorPotential):
    """ASE's EMT potential, real and cheap, for Al, Ni, Cu, Pd, Ag, Pt, Au; notes each process that loads it."""

    def __init__(self, log: Path, trouble: str = "") -> None:
        self.log, self.trouble = log, trouble
        with log.open("a") as file:
            file.write(f"{os.getpid()}\n")
        super().__init__("metals", "EMT", "cpu", Troubled(trouble) if trouble else EMT())

    def __reduce__(self):
        return type(self), (self.log, self.trouble)


class Troubled(EMT):
    """EMT that does something bad to gold."""

    def __init__(self, trouble: str) -> None:
        super().__init__()
        self.trouble = trouble

    def calculate(self, atoms=None, properties=("energy",), system_changes=("positions",)) -> None:
        assert atoms is not None
        gold = "Au" in atoms.get_chemical_symbols()
        if gold and self.trouble == "dies":
            os._exit(7)
        if gold and self.trouble == "hangs":
            time.sleep(1000)
        if gold and self.trouble == "bug":
            raise AttributeError("a bug in the calculator")
        if gold and self.trouble == "raises":
            raise ValueError("no such metal\nand more")
        if self.trouble == "slow":
            time.sleep(0.05)
        super().calculate(atoms, properties, system_changes)
        if gold and self.trouble == "nan":
            self.results["forces"] = self.results["forces"] * math.nan
        if gold and self.trouble == "explodes":
            self.results["stress"] = np.array([-1.0, -1.0, -1.0, 0, 0, 0]) * 5
        if gold and self.trouble == "collapses":
            self.results["stress"] = np.array([1.0, 1.0, 1.0, 0, 0, 0]) * 5


def metals() -> list[Structure]:
    cells = [("Cu", 3.7), ("Ni", 3.4), ("Au", 4.2), ("Al", 4.1), ("Pd", 3.8)]
    return [strained(symbol, a) for symbol, a in cells]


class Unloadable(Metals):
    """Cannot be loaded where it has not been made."""

    def __reduce__(self):
        return pickle.loads, (b"this is no pickle",)
