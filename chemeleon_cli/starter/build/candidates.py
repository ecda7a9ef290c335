"""Which crystals are relaxed: element, binary, ternary, quaternary, intermetallic and molecular ones, in order."""

from __future__ import annotations

import gzip
import hashlib
import itertools
import json
import math
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pymatgen.core import Composition, Lattice, Structure

from chemeleon_cli.core.data.validity import smact_valid
from chemeleon_cli.core.paths import replacing
from chemeleon_cli.starter.build import chemistry
from chemeleon_cli.starter.build.known import COMPOUNDS, ELEMENTAL, METALLIC
from chemeleon_cli.starter.build.molecules import molecules
from chemeleon_cli.starter.build.prototypes import Prototype, all_types, parents

SEED = 20
COUNTS = {"ternary": 3600, "quaternary": 1500, "intermetallic": 1700}
PER_BINARY, PER_RARE_BINARY = 5, 3
"""Prototypes of a pair's only compound of common states, and of any other binary."""
PER_ELEMENT = 5
DRAWS = 16
"""Drawn at random for each crystal wanted; the one that fits best and adds most variety is taken."""
FIT = 0.35
"""Largest mean difference of the logarithms of radius ratios between a crystal and its type's namesake."""
PER_FORMULA = 5


@dataclass(frozen=True)
class Candidate:
    """A crystal to relax.

    Attributes:
        id: made of prototype and occupants alone, so that it stays when the list changes.
        prototype: name of its type.
        kind: element, molecule, binary, ternary, quaternary or intermetallic.
        structure: with the namesake's cell (molecules: their own).
    """

    id: str
    prototype: str
    kind: str
    structure: Structure

    def as_record(self) -> dict[str, Any]:
        """For JSON."""
        return {"id": self.id, "prototype": self.prototype, "kind": self.kind, **record_of(self.structure)}


def record_of(structure: Structure) -> dict[str, Any]:
    """Cell (Å, 9 numbers), elements and fractional coordinates, rounded to 1e-6."""
    return {
        "lattice": [round(x, 6) for x in structure.lattice.matrix.ravel().tolist()],
        "symbols": [site.specie.symbol for site in structure],
        "frac_coords": [[round(x, 6) for x in site] for site in (structure.frac_coords % 1.0).tolist()],
    }


def structure_of(record: dict[str, Any]) -> Structure:
    """The structure of `record_of`."""
    matrix = [record["lattice"][i : i + 3] for i in (0, 3, 6)]
    return Structure(Lattice(matrix), record["symbols"], record["frac_coords"])


def write_candidates(path: Path, candidates: Iterable[Candidate]) -> None:
    """As lines of JSON, compressed, the same bytes each time."""
    with replacing(path) as temporary:
        lines = "".join(json.dumps(c.as_record()) + "\n" for c in candidates)
        temporary.write_bytes(gzip.compress(lines.encode(), mtime=0))


def read_candidates(path: Path) -> list[dict[str, Any]]:
    """Records of `write_candidates`."""
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]


def _candidate(prototype: Prototype, symbols: Sequence[str], kind: str) -> Candidate:
    return Candidate(_identifier(prototype.name, symbols), prototype.name, kind, prototype.fill(tuple(symbols)))


def _identifier(prototype: str, symbols: Sequence[str]) -> str:
    return "st-" + hashlib.sha256(f"{prototype}:{'-'.join(symbols)}".encode()).hexdigest()[:10]


def mismatch(prototype: Prototype, symbols: Sequence[str], charges: Sequence[int] | None) -> float:
    """Mean |difference of ln r| between occupants and namesakes, each relative to its crystal's mean ln r.

    Args:
        charges: of the occupants; None compares atomic radii.
    """
    if charges is None:
        new = [math.log(chemistry.atomic_radius(s)) for s in symbols]
        old = [math.log(chemistry.atomic_radius(s.original)) for s in prototype.slots]
    else:
        new = [math.log(chemistry.ionic_radius(s, q)) for s, q in zip(symbols, charges, strict=True)]
        old = [
            math.log(chemistry.ionic_radius(s.original, s.charge) if s.charge else chemistry.atomic_radius(s.original))
            for s in prototype.slots
        ]
    shift = sum(n - o for n, o in zip(new, old, strict=True)) / len(new)
    return sum(abs(n - o - shift) for n, o in zip(new, old, strict=True)) / len(new)


def elements() -> Iterator[Candidate]:
    """Each element that is no diatomic molecule in its own forms, in the metals' and in a few others'."""
    unary = [p for p in parents() if len(p.slots) == 1]
    for i, symbol in enumerate(chemistry.ELEMENTS):
        if symbol in {"N", "O", "F", "Cl", "Br", "I"}:
            continue
        wanted = ELEMENTAL.get(symbol, ()) + (METALLIC if symbol not in {"S", "P", "Se", "B"} else METALLIC[:1])
        chosen = [p for label in wanted for p in unary if p.name.split(".")[0] == label]
        others = [p for p in unary if p not in chosen and len(p) <= 8]
        chosen += others[i % 7 :: 7][: max(1, PER_ELEMENT - len(chosen))]
        yield from (_candidate(p, (symbol,), "element") for p in chosen)


def known() -> Iterator[Candidate]:
    """Well-known compounds in the types they are known in: the hull is theirs."""
    for label, formulas in COMPOUNDS.items():
        prototypes = [p for p in parents() if re.fullmatch(re.escape(label) + r"\.\d+", p.name)]
        for formula in formulas.split():
            composition = Composition(formula)
            options = [
                (p, symbols)
                for p in prototypes
                for symbols in itertools.permutations(e.symbol for e in composition.elements)
                if _formula(p, symbols) == composition.reduced_formula
            ]
            best = min(options, key=lambda o: _misplaced(*o) + mismatch(*o, None))
            yield _candidate(*best, "binary" if len(composition) == 2 else "ternary")


def _misplaced(prototype: Prototype, symbols: Sequence[str]) -> int:
    """Slots of the namesake's anions that hold metals, and the other way round."""
    pairs = zip(symbols, prototype.slots, strict=True)
    return sum((chemistry.electronegativity(s) > 2.1) != (slot.charge < 0) for s, slot in pairs)


def binaries() -> Iterator[Candidate]:
    """Every neutral binary of the elements, in the types of its ratio that fit best, one crystal a pair at a time."""
    rng = random.Random(SEED)
    types = [p for p in all_types() if len(p.slots) == 2]
    used: Counter[str] = Counter()
    queues = []
    for first, second in itertools.combinations(chemistry.ELEMENTS, 2):
        both_metals = chemistry.is_metal(first) and chemistry.is_metal(second)
        formulas = chemistry.pair_formulas(first, second)
        if not formulas or (both_metals and min(map(abs, _charges_of(first, second, formulas[0]))) > 3):
            continue
        queue: list[Candidate] = []
        for m, n in formulas:
            charges = _charges_of(first, second, (m, n))
            options = []
            for p in types:
                for symbols, q in (((first, second), charges), ((second, first), charges[::-1])):
                    count = (m, n) if symbols[0] == first else (n, m)
                    if p.slots[0].count * count[1] != p.slots[1].count * count[0]:
                        continue
                    misplaced = 0.5 if p.slots[0].charge * q[0] < 0 else 0.25 * (not p.is_ionic)
                    options.append((mismatch(p, symbols, q) + misplaced, len(p), p, symbols))
            common = all(c in chemistry.STATES[s] for s, c in zip((first, second), charges, strict=True))
            wanted = PER_BINARY if common and len(formulas) == 1 else PER_RARE_BINARY
            for _ in range(min(wanted, len(options))):
                best = min(options, key=lambda o: o[0] + 0.02 * used[o[2].name] + 0.01 * o[1] + rng.random() * 0.1)
                options = [o for o in options if o[2] is not best[2]]
                used[best[2].name] += 1
                queue.append(_candidate(best[2], best[3], "binary"))
        queues.append(queue)
    rng.shuffle(queues)
    for layer in itertools.zip_longest(*queues):
        yield from (c for c in layer if c)


def _charges_of(first: str, second: str, counts: tuple[int, int]) -> tuple[int, int]:
    """The charges that balance, the anion being the more electronegative."""
    m, n = counts
    divisor = math.gcd(m, n)
    sign = 1 if chemistry.electronegativity(first) < chemistry.electronegativity(second) else -1
    charges = (sign * n // divisor, -sign * m // divisor)
    for p, q in itertools.product(chemistry.STATES[first], chemistry.STATES[second]):
        if p * m + q * n == 0 and p * sign > 0:
            return p, q
    return charges


class Variety:
    """What has been taken so far, and how much more of the same is unwanted."""

    def __init__(self) -> None:
        self.types: Counter[str] = Counter()
        self.elements: Counter[str] = Counter()
        self.formulas: Counter[str] = Counter()
        self.seen: set[str] = set()

    def cost(self, prototype: Prototype, symbols: Sequence[str]) -> float:
        """0 for what is new; about 1 for what is as frequent as the average."""
        total = sum(self.elements.values()) / len(chemistry.ELEMENTS) + 1
        often = sum(self.elements[s] / chemistry.WEIGHT.get(s, 1.0) for s in symbols) / len(symbols) / total
        root = prototype.name.split("/")[0]
        return often + self.types[root] / 40 + self.types[prototype.name] / 12 + len(prototype) / 40

    def take(self, candidate: Candidate, root: str) -> None:
        """Count it."""
        self.types.update({candidate.prototype, root})
        self.elements.update({site.specie.symbol for site in candidate.structure})
        self.formulas[candidate.structure.composition.reduced_formula] += 1
        self.seen.add(candidate.id)

    def allows(self, prototype: Prototype, symbols: Sequence[str]) -> bool:
        """Whether it is new, of a formula not yet common."""
        rare = self.formulas[_formula(prototype, symbols)] < PER_FORMULA
        return rare and _identifier(prototype.name, symbols) not in self.seen


def _formula(prototype: Prototype, symbols: Sequence[str]) -> str:
    return _composition(prototype, symbols).reduced_formula


def _composition(prototype: Prototype, symbols: Sequence[str]) -> Composition:
    return Composition({s: slot.count for s, slot in zip(symbols, prototype.slots, strict=True)})


def compounds(kind: str, wanted: int) -> Iterator[Candidate]:
    """Ternary or quaternary crystals whose charges balance, about half of them polymorphs of another."""
    slots = {"ternary": 3, "quaternary": 4}[kind]
    rng = random.Random(f"{SEED}-{kind}")
    types = [p for p in all_types() if len(p.slots) == slots and p.is_ionic]
    by_ratio = defaultdict(list)
    for p in types:
        by_ratio[_ratio(p)].append(p)
    variety, made, fruitless = Variety(), 0, 0
    while made < wanted and fruitless < 2000:
        drawn = [_drawn_ions(rng.choice(types), rng) for _ in range(DRAWS)]
        best = _best([d for d in drawn if d], variety)
        if best is None:
            fruitless += 1
            continue
        prototype, symbols, charges = best
        options = [(prototype, symbols, charges)]
        if rng.random() < 0.5:  # another type for the same ions
            formula = _formula(prototype, symbols)
            for p in by_ratio[_ratio(prototype)]:
                for order in itertools.permutations(range(slots)):
                    other = tuple(symbols[i] for i in order), tuple(charges[i] for i in order)
                    if p is not prototype and _fits(p, *other) and _formula(p, other[0]) == formula:
                        options.append((p, *other))
            polymorph = _best(options[1:], variety)
            options = [options[0], *([polymorph] if polymorph else [])]
        for p, s, _ in options:
            if made < wanted and variety.allows(p, s):
                candidate = _candidate(p, s, kind)
                variety.take(candidate, p.name.split("/")[0])
                made, fruitless = made + 1, 0
                yield candidate


def _ratio(prototype: Prototype) -> tuple[int, ...]:
    divisor = math.gcd(*(s.count for s in prototype.slots))
    return tuple(sorted(s.count // divisor for s in prototype.slots))


Drawn = tuple[Prototype, tuple[str, ...], tuple[int, ...]]


def _drawn_ions(prototype: Prototype, rng: random.Random) -> Drawn | None:
    """Ions for each slot, of its sign, whose charges balance; None where chance finds none in a few tries."""
    pools = [chemistry.ions(1 if s.charge > 0 else -1) for s in prototype.slots]
    for _ in range(60):
        chosen = [rng.choice(pool) for pool in pools]
        symbols, charges = tuple(s for s, _ in chosen), tuple(q for _, q in chosen)
        if sum(q * s.count for q, s in zip(charges, prototype.slots, strict=True)) == 0 and _fits(
            prototype, symbols, charges
        ):
            return prototype, symbols, charges
    return None


def _fits(prototype: Prototype, symbols: tuple[str, ...], charges: tuple[int, ...]) -> bool:
    if any(s.charge * q <= 0 for s, q in zip(prototype.slots, charges, strict=True)):
        return False
    ions = list(zip(symbols, charges, strict=True))
    return chemistry.compatible(ions) and mismatch(prototype, symbols, charges) < FIT


def _best(drawn: Sequence[Drawn], variety: Variety) -> Drawn | None:
    allowed = [d for d in drawn if variety.allows(d[0], d[1]) and smact_valid(_composition(d[0], d[1]))]
    return min(allowed, key=lambda d: variety.cost(d[0], d[1]) + mismatch(*d), default=None)


def intermetallics(wanted: int) -> Iterator[Candidate]:
    """Crystals of two to four metals (and Si, Ge, Sb, Bi) in metallic types and the simplest ionic ones."""
    rng = random.Random(f"{SEED}-intermetallic")
    simple = ("AB_cP2_221_b_a", "AB2_cF12_225_a_c", "AB_cF8_225_a_b", "AB_hP4_194_c_a", "ABC_cF12_216_b_c_a")
    types = [p for p in all_types() if len(p.slots) > 1 and (not p.is_ionic or p.name.split(".")[0] in simple)]
    by_slots = {n: [p for p in types if len(p.slots) == n] for n in (2, 3, 4)}
    variety, made = Variety(), 0
    while made < wanted:
        drawn: list[Drawn] = []
        for _ in range(DRAWS):
            prototype = rng.choice(by_slots[rng.choices((2, 3, 4), (5, 4, 1))[0]])
            symbols = tuple(rng.sample(chemistry.ALLOYING, len(prototype.slots)))
            if not any(map(chemistry.is_metal, symbols)) or not chemistry.alloyable(symbols):
                continue
            if variety.allows(prototype, symbols) and mismatch(prototype, symbols, None) < 0.15:
                drawn.append((prototype, symbols, ()))
        if not drawn:
            continue
        prototype, symbols, _ = min(drawn, key=lambda d: variety.cost(d[0], d[1]) + 2 * mismatch(d[0], d[1], None))
        candidate = _candidate(prototype, symbols, "intermetallic")
        variety.take(candidate, prototype.name.split("/")[0])
        made += 1
        yield candidate


def all_candidates() -> list[Candidate]:
    """The whole list, ordered so that its beginning is of use alone."""
    references = [Candidate(_identifier(n, s), n, "molecule", crystal) for n, s, crystal in molecules()]
    rest = [c for kind in ("ternary", "quaternary") for c in compounds(kind, COUNTS[kind])]
    rest += intermetallics(COUNTS["intermetallic"])
    random.Random(SEED).shuffle(rest)
    found: dict[str, Candidate] = {}
    for candidate in itertools.chain(references, elements(), known(), binaries(), rest):
        found.setdefault(candidate.id, candidate)
    return list(found.values())
