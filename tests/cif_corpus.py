"""The whole corpus of CIF texts, and how a reader does on it, counted by kind of text.

python tests/cif_corpus.py                  the program's own reader
python tests/cif_corpus.py --readers        gemmi and pymatgen beside it
python tests/cif_corpus.py --show KIND      the first texts of a kind that it does not read rightly
"""

from __future__ import annotations

import argparse
import random
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from cif_programs import program_cases
from cif_texts import READ, REFUSE, Case, contradictions, symmetry_cases
from cif_truth import SETTINGS, crystals, is_read_right

if TYPE_CHECKING:
    from pymatgen.core import Structure

Reader = Callable[[str], "tuple[Structure | None, str | None]"]
"""From a text to a structure, or None and the reason."""

RIGHT, REFUSED, LOST, WRONG = "right", "refused", "lost", "wrong"
"""Read as it is; refused where that is right; refused though it says what it is; read as something else."""


def cases(hall_numbers: Iterable[int] = SETTINGS) -> Iterator[Case]:
    """All cases of these settings, two crystals in each."""
    for crystal in crystals(hall_numbers):
        yield from symmetry_cases(crystal)
        yield from contradictions(crystal)
        yield from program_cases(crystal)


def verdict(case: Case, structure: Structure | None) -> str:
    """What to say of a reader that made this of a case: RIGHT, REFUSED, LOST or WRONG."""
    if structure is None:
        return LOST if case.right == READ else REFUSED
    if case.right == REFUSE or case.crystal is None or not is_read_right(case.crystal, structure, case.tolerance):
        return WRONG
    return RIGHT


def own_reader(text: str) -> tuple[Structure | None, str | None]:
    from chemeleon_cli.sources.files import structure_of
    from chemeleon_cli.sources.records import Record

    return structure_of(Record("x", "cif", text, {}))


def gemmi_reader(text: str) -> tuple[Structure | None, str | None]:
    """gemmi's small structure of the first block with atoms, expanded by its space group."""
    import gemmi
    from pymatgen.core import Lattice, Structure

    try:
        blocks = gemmi.cif.read_string(text)
        block = next((b for b in blocks if b.find_loop("_atom_site_fract_x")), blocks[0])
        small = gemmi.make_small_structure_from_block(block)
        atoms = small.get_all_unit_cell_sites()
        if not atoms:
            return None, "no atoms"
        symbols = [atom.element.name for atom in atoms]
        cell = Lattice.from_parameters(*small.cell.parameters)
        return Structure(cell, symbols, [atom.fract.tolist() for atom in atoms]), None
    except Exception as error:
        return None, f"{type(error).__name__}: {error}"


def pymatgen_reader(text: str) -> tuple[Structure | None, str | None]:
    """pymatgen's parser as it is called by most."""
    from pymatgen.io.cif import CifParser

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            structure = CifParser.from_str(text).parse_structures(primitive=False)[0]
            return (structure, None) if structure.is_ordered else (None, "disorder")
        except Exception as error:
            return None, f"{type(error).__name__}: {error}"


READERS: dict[str, Reader] = {"chemeleon": own_reader, "gemmi": gemmi_reader, "pymatgen": pymatgen_reader}


class Tally:
    """How a reader does.

    Attributes:
        verdicts: counted by kind of text.
        reasons: codes of all refusals.
        failures: (case, what was made of it) of every text that is WRONG or LOST.
        seconds: spent reading.
    """

    def __init__(self) -> None:
        self.verdicts: dict[str, Counter[str]] = defaultdict(Counter)
        self.reasons: Counter[str] = Counter()
        self.failures: list[tuple[Case, str]] = []
        self.seconds = 0.0

    def add(self, case: Case, reader: Reader) -> str:
        start = time.perf_counter()
        structure, reason = reader(case.text)
        self.seconds += time.perf_counter() - start
        found = verdict(case, structure)
        self.verdicts[case.kind][found] += 1
        if structure is None:
            self.reasons[str(reason).split(":")[0]] += 1
        if found in (WRONG, LOST):
            made = reason if structure is None else f"{structure.composition.formula} ({len(structure)} atoms)"
            self.failures.append((case, f"{found}: {made}"))
        return found

    def count(self, word: str) -> int:
        return sum(counter[word] for counter in self.verdicts.values())


def table(tallies: dict[str, Tally]) -> str:
    """Counts by kind for every reader, then the sums, the reasons and the time per text."""
    words = (RIGHT, REFUSED, LOST, WRONG)
    lines = [f"{'':44}" + "".join(f"{name:>40}" for name in tallies), f"{'':44}"]
    lines[1] += ("    " + "".join(f"{w:>9}" for w in words)) * len(tallies)
    kinds = list(dict.fromkeys(kind for tally in tallies.values() for kind in tally.verdicts))
    for kind in kinds:
        counts = [tally.verdicts[kind] for tally in tallies.values()]
        lines.append(f"{kind:44}" + "".join("    " + "".join(f"{c[w] or '-':>9}" for w in words) for c in counts))
    sums = ["    " + "".join(f"{t.count(w):>9}" for w in words) for t in tallies.values()]
    lines.append(f"{'all':44}" + "".join(sums))
    for name, tally in tallies.items():
        texts = sum(map(tally.count, words))
        reasons = ", ".join(f"{n} {code}" for code, n in tally.reasons.most_common(8))
        lines.append(f"{name}: {1000 * tally.seconds / max(texts, 1):.1f} ms a text; refused: {reasons}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--readers", action="store_true", help="gemmi and pymatgen, too")
    parser.add_argument("--show", metavar="KIND", help="print failing texts of a kind")
    parser.add_argument("--settings", type=int, default=530, help="how many of them, drawn at random; all by default")
    parser.add_argument("--first", type=int, default=3, help="how many texts to print")
    options = parser.parse_args()
    chosen = sorted(random.Random(0).sample(list(SETTINGS), options.settings))
    tallies = {name: Tally() for name in (READERS if options.readers else ["chemeleon"])}
    for case in cases(chosen):
        if options.show in (None, case.kind):
            for name, tally in tallies.items():
                tally.add(case, READERS[name])
    if options.show:
        for case, made in next(iter(tallies.values())).failures[: options.first]:
            meant = "a refusal" if case.crystal is None else f"{dict(case.crystal.content)}"
            print(f"# {made}; right is {meant} ({case.right})\n{case.text}")
    print(table(tallies))


if __name__ == "__main__":
    main()
