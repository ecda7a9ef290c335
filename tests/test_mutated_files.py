"""Files that were damaged at random, but the same in every run: each gives crystals, rejections with a reason, or one
line that says what is wrong with the file; never a traceback."""

import csv
import io
import json
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pymatgen.io.vasp import Poscar
from samples import rock_salt

from chemeleon_cli.core.data.cif import cif_text
from chemeleon_cli.errors import UserError
from chemeleon_cli.sources import examine, files, labels
from chemeleon_cli.sources.files import read_records, write_crystals

pytestmark = pytest.mark.filterwarnings("ignore")

SALT, OTHER = rock_salt(5.64), rock_salt(6.28, "K")
JUNK = (
    "", " ", "\n", "\n\n", "\r", "\t", ",", ";", '"', "'", ":", "=", "{", "}", "[", "]", "\\", "#", "!", "_", "*", "\0",
    "\x0b", "\x85", "\u2028", "é", "结", "0", "-1", "1.5", "1e300", "-1e9", "1e-300", "nan", "inf", "1d0", "0x1", "1_0",
    "100000000", "99999999999999999999", "-", ".", "null", "true", "[]", "{}", "NaN", "T F T", "X", "D", "Uuo", "Na",
    "Direct", "Cartesian", "Direct configuration= 1", "Lattice", "Properties=forces:R:100000000", "pbc", "data_",
    "structure", "lattice", "sites", "species", "cif", "id", "material_id", "forces:R:100000000",
    "_cell_length_a 1e300",
)  # fmt: skip
"""What is put into a file: what has a meaning in one of the formats, and numbers of every size."""
LARGEST_STEP = 300_000_000
"""Bytes by which the process may grow over all the files of a format; imports are some of it."""


def crystals_as(suffix: str) -> Callable[[Path], str]:
    def text(folder: Path) -> str:
        path = folder / f"made{suffix}"
        write_crystals(path, [SALT, OTHER], ["a", "b"], {"gap": [1.5, 2.5]})
        return path.read_text()

    return text


def poscars(folder: Path) -> str:
    speeds = "\n" + "  0.1 0.2 0.3\n" * 8
    return Poscar(SALT).get_str() + speeds + Poscar(OTHER).get_str()


def xdatcar(folder: Path) -> str:
    places = "".join(f"{x} {y} {z}\n" for x, y, z in SALT.frac_coords)
    head = "".join(f"{line}\n" for line in Poscar(SALT).get_str().splitlines()[:7])
    return head + "".join(f"Direct configuration= {n}\n{places}" for n in (1, 2))


def table(folder: Path) -> str:
    out = io.StringIO()
    rows = [["id", "gap", "note", "cif"], ["a", "1.5", "x", cif_text(SALT, "")], ["b", "", "y;z", cif_text(OTHER, "")]]
    csv.writer(out, delimiter=";").writerows(rows)
    return out.getvalue()


def optimade(folder: Path) -> str:
    attributes = {
        "lattice_vectors": SALT.lattice.matrix.tolist(),
        "cartesian_site_positions": SALT.cart_coords.tolist(),
        "species_at_sites": [site.specie.symbol for site in SALT],
        "species": [{"name": s, "chemical_symbols": [s], "concentration": [1.0]} for s in ("Na", "Cl")],
        "_x_gap": 1.5,
    }
    return json.dumps({"data": [{"id": "x", "type": "structures", "attributes": attributes}], "meta": {}})


def entries(folder: Path) -> str:
    data = {"entry_id": "e", "energy": -1.0, "@class": "ComputedStructureEntry", "structure": SALT.as_dict()}
    return json.dumps({"entries": [data | {"data": {"gap": 1.0}}]})


def pandas_split(folder: Path) -> str:
    rows = [[SALT.as_dict(), 1.0], [OTHER.as_dict(), 2.0]]
    return json.dumps({"index": ["a", "b"], "columns": ["structure", "gap"], "data": rows})


def id_prop(folder: Path) -> str:
    return "a,1.0\nb.cif,2.0\nc,1.0 eV\n"


def by_id(folder: Path) -> str:
    return json.dumps({"a": {"gap": 1.0}, "b.cif": {"gap": 2.0}, "c": {"gap": None}})


KINDS: dict[str, list[tuple[str, Callable[[Path], str]]]] = {
    "extxyz": [("x.extxyz", crystals_as(".extxyz"))],
    "poscar": [("POSCAR", poscars), ("XDATCAR", xdatcar)],
    "csv": [("x.csv", crystals_as(".csv")), ("x.csv", table), ("id_prop.csv", id_prop)],
    "json": [
        ("x.json", crystals_as(".json")), ("x.json", optimade), ("x.json", entries), ("x.json", pandas_split),
        ("x.json", by_id),
    ],
}  # fmt: skip


def replaced(text: str, where: float, junk: str) -> str:
    """A JSON document with another value somewhere in it, so that it is still one."""
    try:
        document = [json.loads(text)]
    except ValueError:
        return text
    places: list[tuple[Any, Any]] = [(document, 0)]
    for container, key in places:  # grows
        value = container[key]
        keys = range(len(value)) if isinstance(value, list) else value if isinstance(value, dict) else ()
        places += [(value, inside) for inside in keys]
    container, key = places[int(where * (len(places) - 1))]
    values = [junk, None, [], {}, [junk], {junk: junk}, -1, 1e300, float("nan"), True, [[junk, 0]]]
    container[key] = values[len(junk) % len(values)]
    return json.dumps(document[0])


@st.composite
def damages(draw: st.DrawFn) -> Callable[[str], bytes]:
    """Up to four changes: something put in or over, cut out, said twice or moved; now and then a byte of no text."""
    changes = draw(
        st.lists(
            st.tuples(st.sampled_from("iiorrcdmsjjj"), st.floats(0, 1), st.integers(1, 60), st.sampled_from(JUNK)),
            min_size=1,
            max_size=4,
        )
    )
    end = draw(st.one_of(st.just(1.0), st.floats(0, 1)))
    byte = draw(st.sampled_from([b"", b"", b"", b"\xff", b"\xfe\xff"]))

    def damaged(text: str) -> bytes:
        for kind, where, length, junk in changes:
            words = text.split(" ")
            start, word = int(where * len(text)), int(where * (len(words) - 1))
            part = text[start : start + length]
            if kind == "r":
                words[word] = junk
            text = {
                "i": text[:start] + junk + text[start:],
                "o": text[:start] + junk + text[start + len(junk) :],
                "r": " ".join(words),
                "c": text[:start] + text[start + length :],
                "d": text[:start] + part + text[start:],
                "j": replaced(text, where, junk),
                "m": text[start:] + text[:start],
                "s": "\n".join(reversed(text.split("\n", 8))),
            }[kind]
        content = text[: int(end * len(text)) + 1].encode("utf-8", errors="surrogatepass")
        middle = len(content) // 2
        return content[:middle] + byte + content[middle:]

    return damaged


def check_line(error: UserError) -> None:
    assert error.message and "\n" not in error.message + error.hint, error.message
    assert len(error.message) < 1000


def check(path: Path) -> str:
    """How a file ends: "crystals", "rejected" or "error"."""
    try:
        crystals = [examine.examine(("", record), 20) for record in read_records(path)]
    except UserError as error:
        check_line(error)
        return "error"
    for crystal in crystals:
        code, separator, detail = (crystal.reason or "duplicate: x").partition(": ")
        assert code in {**files.REASONS, **examine.REASONS} and separator and detail, crystal.reason
        assert "\n" not in detail
    return "crystals" if any(crystal.reason is None for crystal in crystals) else "rejected"


def check_labels(path: Path) -> None:
    """The same file as labels of a folder of crystals."""
    try:
        table = labels.labels_in(str(path), path.parent, None)
        list(table.join(("", record) for record in read_records(path.parent / "a.cif")))
    except UserError as error:
        check_line(error)


def run(kind: str, count: int, folder: Path) -> None:
    """Damage the files of a format `count` times."""
    (folder / "a.cif").write_text(cif_text(SALT, ""))
    made = [(name, text(folder)) for name, text in KINDS[kind]]
    for path in folder.glob("made.*"):
        path.unlink()
    ends: list[str] = []

    @settings(
        max_examples=count, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(damage=damages())
    def damaged(damage: Callable[[str], bytes]) -> None:
        name, text = made[len(ends) % len(made)]
        path = folder / name
        path.write_bytes(damage(text))
        start = time.monotonic()
        ends.append(check(path))
        if kind in ("csv", "json"):
            check_labels(path)
        assert time.monotonic() - start < 20, f"{name} takes too long"
        path.unlink()

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    damaged()
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    assert len(ends) >= count
    assert grown < LARGEST_STEP, f"{grown:,} bytes"
    assert "crystals" in ends and {"rejected", "error"} & set(ends), "the damage is none, or too much"


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_is_crystals_or_reasons_or_a_line(kind: str, tmp_path: Path) -> None:
    run(kind, 30, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_300_damaged_files(kind: str, tmp_path: Path) -> None:
    run(kind, 300, tmp_path)
