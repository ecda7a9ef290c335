"""CIFs that were damaged at random, but the same in every run.

Each text gives a crystal, a rejection with its reason, or one line that says what is wrong with the file: never a
traceback, and never a crystal that is not made of what its own formula says.
"""

import itertools
import math
import re
import resource
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from cif_programs import amcsd, gsas, icsd, jana, pymatgen_symmetric, shelx
from cif_texts import text_of
from cif_truth import Crystal, Site, crystal, is_read_right, seeded, setting
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from samples import rock_salt

from chemeleon_cli.core.data.cif import cif_text, parse_cif
from chemeleon_cli.errors import UserError
from chemeleon_cli.sources.files import REASONS, read_crystals, read_records

FORMULA, UNITS = "_chemical_formula_sum", "_cell_formula_units_Z"
SECONDS = 10.0
"""Of the processor, for one text; 3 at most were seen, and what these texts found took 14 or more."""
LARGEST_STEP = 300_000_000
"""Bytes by which the process may grow."""

ZINC = Crystal(  # P 63/m m c, on thirds
    setting(488), (2.665, 2.665, 4.947, 90, 90, 120), (Site("Zn", (1 / 3, 2 / 3, 0.25)),), ("Zn", "Zn"),
    np.array([[1 / 3, 2 / 3, 0.25], [2 / 3, 1 / 3, 0.75]]),
)  # fmt: skip
CRYSTALS = {number: crystal(number, special=number > 100) for number in (2, 15, 87, 293, 434, 460, 523)}
"""By Hall number: no special positions, centred and oblique axes, glides, two origins, rhombohedral, cubic."""


@dataclass(frozen=True)
class Original:
    """A sound text.

    Attributes:
        text: one data block or more.
        contents: atoms by element in a cell, for each line that gives a formula.
        crystal: what it means; None of several crystals.
        units: the line that gives Z, or nothing.
    """

    text: str
    contents: Mapping[str, Mapping[str, int]]
    crystal: Crystal | None = None
    units: str = ""


def original(text: str, one: Crystal) -> Original:
    lines = text.splitlines()
    formulas = {line: one.content for line in lines if line.startswith(FORMULA)}
    return Original(text, formulas, one, next((line for line in lines if line.startswith(UNITS)), ""))


def named(one: Crystal) -> str:
    """Symbol with its origin or axes, and the formula; no operations."""
    origin = f" :{one.setting.origin}" if one.setting.origin else ""
    name = f"_symmetry_space_group_name_H-M '{one.setting.full}{origin}'"
    formula = " ".join(f"{symbol}{n // one.units}" for symbol, n in sorted(one.content.items()))
    return text_of(one, [name], [f"{FORMULA} '{formula}'", f"{UNITS} {one.units}"], seeded("named"))


def originals() -> dict[str, Original]:
    """P1 of this program, operations, a named group, a text field, several blocks with and without crystals."""
    found = {}
    for write in (icsd, jana, shelx, gsas, amcsd, pymatgen_symmetric):
        for number, one in CRYSTALS.items():
            found[f"{write.__name__} {number}"] = original("\n".join([*write(one), ""]), one)
    found |= {f"named {number}": original(named(one), one) for number, one in CRYSTALS.items() if number != 15}
    found["amcsd thirds"] = original("\n".join([*amcsd(ZINC), ""]), ZINC)
    salts = {symbol: rock_salt(5.64 if symbol == "Na" else 6.28, symbol) for symbol in ("Na", "K")}
    texts = [cif_text(salt, f"{symbol} salt", {"gap": 1.5}) for symbol, salt in salts.items()]
    contents = [{symbol: 4, "Cl": 4} for symbol in salts]
    lines = [next(line for line in text.splitlines() if line.startswith(FORMULA)) for text in texts]
    found["this program"] = Original(texts[0], {lines[0]: contents[0]})
    found["two crystals"] = Original("".join(texts), dict(zip(lines, contents, strict=True)))
    return found


ORIGINALS = originals()

# --- what is right ----------------------------------------------------------------------------------


def unharmed(lines: list[str], tag: str, sound: Collection[str]) -> str:
    """The one line with this tag if it is as it was and not within a text field, or nothing."""
    given = {line for line in lines if tag.lower() in line.lower()}
    if len(given) != 1 or not given <= set(sound):
        return ""
    (line,) = given
    fields = sum(before.startswith(";") for before in lines[: lines.index(line)])
    return "" if fields % 2 else line


def proportions(content: Mapping[str, int]) -> dict[str, int]:
    unit = math.gcd(*content.values())
    return {symbol: n // unit for symbol, n in content.items()}


def check_reason(reason: str) -> None:
    """Its code is a known one, and a line of words follows; an error other than ValueError is a fault of the reader."""
    code, separator, detail = reason.partition(": ")
    assert code in REASONS and separator and detail.strip(), reason
    assert "\n" not in reason and "\r" not in reason and len(reason) < 500, reason
    assert re.match(r"[A-Za-z]*(Error|Exception|Warning)\b", detail.replace("ValueError", "")) is None, reason


def check_line(error: UserError) -> None:
    assert error.message and "\n" not in error.message + error.hint and len(error.message) < 500, error.message


def check(path: Path, sound: Original) -> Counter[str]:
    """Read a file, and count how it ends: "crystal", "compared" with its formula, "rejected", "error"."""
    ends: Counter[str] = Counter()
    start = time.process_time()
    try:
        rows = list(read_crystals(path))
    except UserError as error:
        check_line(error)
        return Counter({"error": 1})
    seconds = time.process_time() - start
    assert seconds < SECONDS, f"{seconds:.1f} s"
    for row, record in zip(rows, read_records(path), strict=True):
        if row.structure is None:
            assert row.reason is not None
            check_reason(row.reason)
            ends["rejected"] += 1
            continue
        ends["crystal"] += 1
        assert isinstance(record.content, str)
        lines = re.split(r"\r\n|\r|\n", record.content)
        formula = unharmed(lines, FORMULA, sound.contents)
        if formula:
            stated = sound.contents[formula]
            found = Counter(site.specie.symbol for site in row.structure)
            assert proportions(found) == proportions(stated), f"{stated} is read as {found}:\n{record.content}"
            if unharmed(lines, UNITS, [sound.units]):
                assert found == stated, f"not Z formulas:\n{record.content}"
            ends["compared"] += 1
    return ends


# --- damage -----------------------------------------------------------------------------------------

NUMBER = re.compile(r"(?<=[\s,'+-])[-+]?\d*\.?\d+(?:\(\d+\))?(?=[\s,'+-])")
NUMBERS = (
    "1e300", "-1e9", "1e7", "1e400", "-1e400", "1e-300", "nan", "inf", "-inf", "-0.5", ".", "?", "", "0", "-1", "1/3",
    "2/3", "0.33", "0.67", "1/0", "7/-3", "0.5.5", "1d0", "1_0", "0x1", "(3)", "0.5(", "1e", "99999999999999999999",
    "9" * 400, "9" * 400 + "/1", "180", "90.001", "١", "½", "0,5", "'0.5'", "\n;\n0.5\n;\n",
)  # fmt: skip
WORDS = (
    "\0", "\x0b", "\x85", "\u2028", "\ufeff", "é", "结", "'", '"', "'''", '"""', ";", "\n;", "\n;\n", "#", "[", "{",
    "loop_", "data_", "data_other\n", "save_", "stop_", "global_", "\n", "\r", "\t", "_", "?", ".", "x,y,z",
    "'-x,-y,-z'",
    "'x, y, z+1/2'", "x+1/7,y,z", "99999999999x,y,z", "x,y", "P1", "'F m -3 m'", "'F d -3 m'", "Fe", "D", "OH", "Xx",
    "0.5", "-1", "1e300", "_cell_length_a 1e7", "_atom_site_occupancy 0.5", "_chemical_formula_sum 'Na Cl'",
)  # fmt: skip


@dataclass(frozen=True)
class Change:
    """One change to a text: how, where (0..1), a second place (0..1), and what is put there, by its number."""

    kind: str
    where: float
    other: float
    choice: int

    def line_of(self, lines: list[str]) -> tuple[int, int]:
        last = len(lines) - 1
        return round(self.where * last), round(self.other * last)

    def apply(self, text: str) -> str:
        return CHANGES[self.kind](self, text)


def of_lines(change: Callable[[list[str], int, int], None]) -> Callable[[Change, str], str]:
    def changed(self: Change, text: str) -> str:
        lines = text.splitlines(keepends=True) or [""]
        change(lines, *self.line_of(lines))
        return "".join(lines)

    return changed


def of_matches(pattern: re.Pattern[str], put: Callable[[Change, str], str]) -> Callable[[Change, str], str]:
    """One of all matches of a pattern is replaced."""

    def changed(self: Change, text: str) -> str:
        found = list(pattern.finditer(text))
        if not found:
            return text
        match = found[round(self.where * (len(found) - 1))]
        return text[: match.start()] + put(self, match.group()) + text[match.end() :]

    return changed


def _swap(lines: list[str], i: int, j: int) -> None:
    lines[i], lines[j] = lines[j], lines[i]


def _move(lines: list[str], i: int, j: int) -> None:
    lines.insert(j, lines.pop(i))


def _flip(self: Change, text: str) -> str:
    place = round(self.where * (len(text) - 1)) if text else 0
    return text[:place] + chr(ord(text[place]) ^ (1 << self.choice % 7)) + text[place + 1 :] if text else text


def _insert(self: Change, text: str) -> str:
    place = round(self.where * len(text))
    return text[:place] + WORDS[self.choice % len(WORDS)] + text[place:]


def _cut(self: Change, text: str) -> str:
    start = round(self.where * len(text))
    return text[:start] if self.choice % 3 == 0 else text[:start] + text[start + self.choice % 60 :]


def _renamed(self: Change, tag: str) -> str:
    dotted = tag.replace("_atom_site_", "_atom_site.")
    ways = (tag.upper(), tag[:-1], tag + "_x", tag.replace("_", ".", 2), dotted, "_x")
    return ways[self.choice % len(ways)]


def _fraction(self: Change, number: str) -> str:
    value = float(number.split("(")[0])
    return f"{round(24 * value)}/24" if self.choice % 2 else f"{value:.2f}"


def _again(self: Change, text: str) -> str:
    """A second data block: the same, another, or only its start."""
    name, other = list(ORIGINALS.items())[self.choice % len(ORIGINALS)]
    return text + (text, other.text, f"data_{name.replace(' ', '_')}\n_cell_length_a 5\n")[self.choice % 3]


ATOM = re.compile(r"(?m)^(?=(?:.*\s-?\d*\.\d+(?:\(\d+\))?){3}).*\n")
"""A line with three decimal numbers."""
OPERATION = re.compile(r"(?m)^[^,\n]*[xX][^,\n]*,[^,\n]*,[^,\n]*\n")


def _in_atom(self: Change, line: str) -> str:
    kind = ("a number replaced", "a word replaced", "a word left out", "a bit flipped")[self.choice % 4]
    return CHANGES[kind](Change(kind, self.other, self.where, self.choice // 4), line)


CHANGES: dict[str, Callable[[Change, str], str]] = {
    "a bit flipped": _flip,
    "a word put in": _insert,
    "a word replaced": of_matches(re.compile(r"\S+"), lambda self, _: WORDS[self.choice % len(WORDS)]),
    "a word left out": of_matches(re.compile(r"\S+\s*"), lambda self, _: ""),
    "a piece cut": _cut,
    "a line dropped": of_lines(lambda lines, i, _: lines.__delitem__(i)),
    "a line twice": of_lines(lambda lines, i, j: lines.insert(j, lines[i])),
    "lines swapped": of_lines(_swap),
    "a line moved": of_lines(_move),
    "a number replaced": of_matches(NUMBER, lambda self, _: NUMBERS[self.choice % len(NUMBERS)]),
    "fractions and few digits": of_matches(re.compile(r"(?<=\s)-?0?\.\d+(?=\s)"), _fraction),
    "a tag renamed": of_matches(re.compile(r"^\s*_\S+", re.MULTILINE), _renamed),
    "a block added": _again,
    "an atom dropped": of_matches(ATOM, lambda self, _: ""),
    "an atom changed": of_matches(ATOM, _in_atom),
    "an operation dropped": of_matches(OPERATION, lambda self, _: ""),
}
FORMS: dict[str, Callable[[str], bytes]] = {
    "UTF-8": lambda text: text.encode("utf-8", "replace"),
    "CRLF": lambda text: text.replace("\n", "\r\n").encode("utf-8", "replace"),
    "CR": lambda text: text.replace("\n", "\r").encode("utf-8", "replace"),
    "BOM": lambda text: text.encode("utf-8-sig", "replace"),
    "UTF-16": lambda text: text.encode("utf-16", "replace"),
    "Latin-1": lambda text: text.encode("latin-1", "replace"),
    "CR comment": lambda text: text.replace("\n", " # \r", 40).encode("utf-8", "replace"),
}
shares = st.sampled_from([n / 1000 for n in range(1001)])  # every place is as likely; `floats` prefers 0 and 1
changes = st.builds(Change, st.sampled_from(list(CHANGES)), shares, shares, st.sampled_from(range(10_000)))
damages = st.tuples(
    st.sampled_from(list(ORIGINALS)),
    st.lists(changes, min_size=1, max_size=3),
    st.sampled_from(["UTF-8"] * 10 + list(FORMS)),
)


def run(count: int, folder: Path) -> Counter[str]:
    ends: Counter[str] = Counter()
    path = folder / "x.cif"

    @settings(
        max_examples=count, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(damages)
    def damaged(damage: tuple[str, list[Change], str]) -> None:
        name, all_changes, form = damage
        text = ORIGINALS[name].text
        for change in all_changes:
            text = change.apply(text)
        path.write_bytes(FORMS[form](text))
        ends.update(check(path, ORIGINALS[name]))

    before = peak()
    damaged()
    assert peak() - before < LARGEST_STEP
    return ends


def peak() -> int:
    """Bytes that this process ever had."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def check_ends(ends: Counter[str], count: int) -> None:
    """That the damage is neither none nor too much for anything to be compared."""
    print(dict(ends))
    assert ends.total() >= count and ends["rejected"] > count / 10 and ends["compared"] > count / 10, ends


def test_a_damaged_cif_is_a_crystal_of_its_formula_or_a_reason(tmp_path: Path) -> None:
    check_ends(run(100, tmp_path), 100)


@pytest.mark.slow
def test_300_damaged_cifs(tmp_path: Path) -> None:
    check_ends(run(300, tmp_path), 300)


# --- what changes nothing ---------------------------------------------------------------------------

COORDINATE = re.compile(r"(?<=\s)0?\.\d+(?=\s)")


def as_fraction(match: re.Match[str]) -> str:
    steps = 24 * float(match.group())
    return f"{round(steps)}/24" if abs(steps - round(steps)) < 0.01 else match.group()


HARMLESS: dict[str, Callable[[str], bytes]] = {
    **{form: FORMS[form] for form in ("UTF-8", "CRLF", "CR", "BOM", "CR comment")},
    "tags in capitals": lambda text: re.sub(r"(?m)^\s*_\S+", lambda m: m.group().upper(), text).encode(),
    "fractions": lambda text: COORDINATE.sub(as_fraction, text).encode(),
    "a block without atoms behind": lambda text: f"{text}data_refln\n_refln_index_h 1\n".encode(),
    "bytes of no text in a comment": lambda text: b"# \xff\xfe\x80\n" + text.encode(),
}


@pytest.mark.parametrize("form", HARMLESS)
def test_a_form_of_the_same_text_is_the_same_crystal(form: str, tmp_path: Path) -> None:
    path = tmp_path / "x.cif"
    for name, sound in ORIGINALS.items():
        path.write_bytes(HARMLESS[form](sound.text))
        rows = list(read_crystals(path))
        assert len(rows) == (2 if name == "two crystals" else 1), name
        for row in rows:
            assert row.structure is not None, f"{name}: {row.reason}\n{path.read_text(errors='replace')}"
            right = sound.crystal is None or is_read_right(sound.crystal, row.structure, tolerance=0.02)
            assert right, f"{name} is read as {row.structure}"


@pytest.mark.parametrize("digits", [2, 3, 4])
def test_thirds_of_few_digits_are_the_same_crystal(digits: int) -> None:
    def cut(match: re.Match[str]) -> str:
        value = float(match.group())
        return f"{value:.{digits}f}" if abs(3 * value - round(3 * value)) < 0.01 else match.group()

    structure = parse_cif(COORDINATE.sub(cut, ORIGINALS["amcsd thirds"].text))
    assert is_read_right(ZINC, structure, tolerance=0.001)


# --- time and memory --------------------------------------------------------------------------------


def cell(a: float | str, b: float | str, c: float | str) -> str:
    lengths = "".join(f"_cell_length_{k} {value}\n" for k, value in zip("abc", (a, b, c), strict=True))
    return lengths + "".join(f"_cell_angle_{k} 90\n" for k in ("alpha", "beta", "gamma"))


CUBE, LARGE_CUBE = cell(5, 5, 5), cell(70, 70, 70)
SITES = "loop_\n_atom_site_type_symbol\n_atom_site_fract_x\n_atom_site_fract_y\n_atom_site_fract_z\n"
SALT = SITES + "Na 0 0 0\nCl 0.1 0.2 0.3\n"
NAME, OPERATIONS = "_symmetry_space_group_name_H-M ", "loop_\n_symmetry_equiv_pos_as_xyz\nx,y,z\n"
TWO_ORIGINS = NAME + "'P n -3 n'\n"
MAGNETIC = [f"loop_\n_space_group_symop_magn_{what}.xyz\n" for what in ("operation", "centering")]
STEPS = (
    "".join(
        f"{s}x+{i}/24,{t}y+{j}/24,{u}z+{k}/24\n"
        for s, t, u in itertools.product(("", "-"), repeat=3)
        for i, j, k in itertools.product(range(24), repeat=3)
    )[:1_900_000].rpartition("\n")[0]
    + "\n"
)
"""100,000 operations, all different."""
LONG = 20_000


def scattered(count: int) -> str:
    """Carbon, nowhere twice."""
    places = (np.outer(np.arange(count), [0.6180340, 0.7548777, 0.5698403]) % 1).tolist()
    return SITES + "".join(f"C {x:.5f} {y:.5f} {z:.5f}\n" for x, y, z in places)


LARGE: dict[str, tuple[str, str]] = {
    "a coordinate of -1e9": (CUBE + OPERATIONS + SITES + "Na -1e9 0 0\n", "unreadable: "),
    "a coordinate of 1e300": (CUBE + OPERATIONS + SITES + "Na 1e300 0 0\n", "unreadable: "),
    "a coordinate of 1e400 / 1e400": (CUBE + OPERATIONS + SITES + f"Na {'9' * 400}/{'9' * 400} 0 0\n", "unreadable: "),
    "a cell of 1e7 Å": (cell("1e7", "1e7", "1e7") + TWO_ORIGINS + SALT, "symmetry: "),
    "a cell of 1e300 Å": (cell("1e300", "1e300", "1e300") + TWO_ORIGINS + SALT, "no_cell: "),
    "a flat cell": (cell("1e5", "1e5", "1e-5") + NAME + "'P 4/n'\n" + SALT, "symmetry: "),
    "10^5 operations that are one": (CUBE + OPERATIONS + 100_000 * "x,y,z\n" + SALT, ""),
    "10^5 operations": (CUBE + OPERATIONS + STEPS + SALT, "symmetry: "),
    "magnetic operations": (
        CUBE + "".join(head + 40_000 * "x,y,z,+1\n" for head in MAGNETIC) + SALT, "symmetry: ",
    ),
    "operations without end": (CUBE + OPERATIONS + "x+y,y,z\n" + SALT, "symmetry: "),
    "operations that flatten": (CUBE + OPERATIONS + "0,0,0\nx,x,x\n" + SALT, "symmetry: "),
    "operations of large numbers": (CUBE + OPERATIONS + "99999999999x,y,z\nx+1/0,y,z\n" + SALT, "symmetry: "),
    "an operation without end": (CUBE + OPERATIONS + LONG * "x+" + "x,y,z\n" + SALT, "symmetry: "),
    "12,000 sites and a centre": (LARGE_CUBE + NAME + "'P -1'\n" + scattered(12_000), "unreadable: "),
    "4,900 sites and a centre": (LARGE_CUBE + NAME + "'P -1'\n" + scattered(4_900), ""),
    "40 sites and two origins": (LARGE_CUBE + TWO_ORIGINS + scattered(40), "symmetry: the file does not say"),
    "40 sites that crowd": (cell(12, 12, 12) + TWO_ORIGINS + scattered(40), "symmetry: the file does not say"),
    "200 sites and two origins": (LARGE_CUBE + TWO_ORIGINS + scattered(200), "symmetry: the file does not say"),
    "60,000 atoms": (CUBE + OPERATIONS + scattered(60_000), ""),
    "a number of many digits": (CUBE + OPERATIONS + SITES + f"Na {LONG * '9'}x 0 0\n", "unreadable: "),
    "a symbol of many digits": (CUBE + OPERATIONS + SITES + f"Na{LONG * '9'}x 0 0 0\n", "element: "),
    "a symbol of two lines": (CUBE + OPERATIONS + SITES + f"\n;a{LONG * '('}\nx\n;\n0 0 0\n", "element: "),
    "a formula of many digits": (CUBE + OPERATIONS + f"{FORMULA} 'NA{LONG * '9'}x'\n" + SALT, ""),
    "an id of many spaces": (CUBE + OPERATIONS + f"_chemeleon_id a{LONG * ' '}b\n" + SALT, "unreadable: "),
    "blank lines": (CUBE + OPERATIONS + SALT + LONG * "\n" + "x data_\n", "unreadable: "),
    "many blocks": (LONG * "data_a\n_cell_length_a 1\n", "unreadable: "),
}  # fmt: skip


@pytest.mark.parametrize("name", LARGE)
def test_time_and_memory_are_bounded(name: str, tmp_path: Path) -> None:
    text, expected = LARGE[name]
    path = tmp_path / "x.cif"
    path.write_text(f"data_x\n{text}")
    before, start = peak(), time.process_time()
    row = next(read_crystals(path))
    assert time.process_time() - start < SECONDS
    assert peak() - before < LARGEST_STEP
    assert (row.structure is None) == bool(expected), row.reason
    if row.reason is not None:
        check_reason(row.reason)
        assert row.reason.startswith(expected), row.reason
