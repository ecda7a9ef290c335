"""CIF as it is written by people and programs: what is read is what the file says, or the reason why not."""

from collections.abc import Sequence

import numpy as np
import pytest
import spglib
from pymatgen.core import Lattice, Structure

from chemeleon_cli.core.data.cif import block_tags, cif_text, parse_cif, split_blocks
from chemeleon_cli.core.data.limits import Unfit
from chemeleon_cli.sources.files import structure_of
from chemeleon_cli.sources.records import Record

CUBE = (4.0, 4.0, 4.0, 90.0, 90.0, 90.0)
IDENTITY = "loop_\n_symmetry_equiv_pos_as_xyz\n'x, y, z'\n"
SALT_SITES = ("Na1 Na 0 0 0", "Cl1 Cl 0.5 0.5 0.5")
ROCK_SALT = (5.64, 5.64, 5.64, 90, 90, 90)
BRUCITE = (3.142, 3.142, 4.766, 90, 90, 120)
BRUCITE_SITES = ("Mg Mg 0 0 0", "O O 0.33333 0.66667 0.2216", "H H 0.33333 0.66667 0.4303")


def cif(
    cell: Sequence[float],
    rows: Sequence[str],
    head: str = "",
    columns: str = "label type_symbol fract_x fract_y fract_z",
    tail: str = "",
) -> str:
    names = [f"_cell_length_{k}" for k in "abc"] + [f"_cell_angle_{k}" for k in ("alpha", "beta", "gamma")]
    lines = ["data_x", *head.splitlines(), *(f"{name} {value}" for name, value in zip(names, cell, strict=True))]
    return "\n".join([*lines, "loop_", *(f"_atom_site_{column}" for column in columns.split()), *rows, tail, ""])


def read(text: str) -> tuple[str, int, int]:
    """Formula, atoms and space group number of what is read."""
    structure = parse_cif(text)
    cell = (structure.lattice.matrix, structure.frac_coords, structure.atomic_numbers)
    dataset = spglib.get_symmetry_dataset(cell, symprec=0.02)
    assert dataset is not None
    return structure.composition.reduced_formula, len(structure), dataset.number


def reason(text: str) -> str:
    structure, why = structure_of(Record("x", "cif", text, {}))
    assert structure is None
    assert why is not None
    return why


# --- nothing is dropped or invented -----------------------------------------------------------------

LABELS = {
    "1O": "O", "AlT": "Al", "CA1": "Ca", "CO1": "Co", "Ca1A": "Ca", "CaM2": "Ca", "FE1": "Fe", "Fe3+": "Fe",
    "HO1": "Ho", "KM1": "K", "MG1": "Mg", "NaA": "Na", "O1p": "O", "OW1": "O", "O_1": "O", "SiT1": "Si", "fe": "Fe",
}  # fmt: skip


@pytest.mark.parametrize(("label", "element"), LABELS.items())
def test_a_label_begins_with_its_element(label: str, element: str) -> None:
    structure = parse_cif(cif(CUBE, [f"{label} 0 0 0", "S1 0.5 0.5 0.5"], IDENTITY, "label fract_x fract_y fract_z"))
    assert [site.specie.symbol for site in structure] == [element, "S"]


@pytest.mark.parametrize(("formula", "element"), [("C S", "C"), ("Co S", "Co")])
def test_the_formula_decides_what_two_capitals_are(formula: str, element: str) -> None:
    head = f"_chemical_formula_sum '{formula}'\n{IDENTITY}"
    structure = parse_cif(cif(CUBE, ["CO1 0 0 0", "S1 0.5 0.5 0.5"], head, "label fract_x fract_y fract_z"))
    assert structure[0].specie.symbol == element


@pytest.mark.parametrize("label", ["Wat1", "H2O", "NO3", "Vac1", "Du1", "X1", "Cg1", "NH4"])
def test_a_label_that_is_no_element_is_refused_by_name(label: str) -> None:
    text = cif(CUBE, [f"{label} 0 0 0", "S1 0.5 0.5 0.5"], IDENTITY, "label fract_x fract_y fract_z")
    assert reason(text) == f"element: '{label}' is not an element up to Z = 100"


SYMBOLS = {"FE": "Fe", "Fe+3": "Fe", "Fe3+": "Fe", "Fe3": "Fe", "Fe(III)": "Fe", "Tl1": "Tl", "fe": "Fe", "O2-": "O"}


@pytest.mark.parametrize(("symbol", "element"), SYMBOLS.items())
def test_type_symbols_with_charges_and_numbers(symbol: str, element: str) -> None:
    structure = parse_cif(cif(CUBE, [f"A1 {symbol} 0 0 0", "S1 S 0.5 0.5 0.5"], IDENTITY))
    assert structure[0].specie.symbol == element


@pytest.mark.parametrize("symbol", ["Va", "Vac", "Du", "OH", "NH4", "Uuo", "Q", "M", "X", "Xx", "Lr"])
def test_a_type_symbol_that_is_no_element_is_refused_by_name(symbol: str) -> None:
    for head in (IDENTITY, "_symmetry_space_group_name_H-M 'P m -3 m'"):
        text = cif(CUBE, [f"A1 {symbol} 0 0 0", "S1 S 0.5 0.5 0.5"], head)
        assert reason(text) == f"element: '{symbol}' is not an element up to Z = 100"


@pytest.mark.parametrize("symbol", ["'Nb,Zr'", "Si/Al", "'0.75Si + 0.25Al'", "O-H"])
def test_a_site_of_several_elements_is_disorder(symbol: str) -> None:
    assert reason(cif(CUBE, [f"M1 {symbol} 0 0 0"], IDENTITY)).startswith("disorder: ")
    label_alone = cif(CUBE, [f"{symbol} 0 0 0"], IDENTITY, "label fract_x fract_y fract_z")
    assert reason(label_alone).startswith("disorder: ")


@pytest.mark.parametrize("occupancy", ["0", "-1", "-0.03(5)", "0.5", "2"])
@pytest.mark.parametrize("head", [IDENTITY, "_symmetry_space_group_name_H-M 'P m -3 m'"])
def test_an_occupancy_other_than_one_is_disorder(occupancy: str, head: str) -> None:
    rows = ["Na1 Na 0 0 0 1", f"Cl1 Cl 0.5 0.5 0.5 {occupancy}"]
    text = cif(CUBE, rows, head, "label type_symbol fract_x fract_y fract_z occupancy")
    assert reason(text) == f"disorder: Cl1 with occupancy {float(occupancy.split('(')[0]):g}"


def test_an_occupancy_left_open_is_one() -> None:
    rows = [f"{row} ." for row in SALT_SITES]
    assert read(cif(CUBE, rows, IDENTITY, "label type_symbol fract_x fract_y fract_z occupancy")) == ("NaCl", 2, 221)


@pytest.mark.parametrize(
    ("oxygen", "formula", "expected"),
    [
        ("O", "Mg O2 H2", "formula: the file says MgO2H2, its sites give MgO2"),
        ("OH", "Mg O2 H2", "formula: the file says MgO2H2, its sites give MgO2"),
        ("OH", "", "incomplete: OH is a hydroxyl group, and its hydrogen has no position"),
    ],
)
def test_hydrogen_that_is_only_named_is_missed(oxygen: str, formula: str, expected: str) -> None:
    head = "_symmetry_space_group_name_H-M 'P -3 m 1'\n" + (f"_chemical_formula_sum '{formula}'" if formula else "")
    rows = ["Mg 0 0 0", f"{oxygen} 0.33333 0.66667 0.2216"]
    assert reason(cif(BRUCITE, rows, head, "label fract_x fract_y fract_z")) == expected
    whole = cif(BRUCITE, [*rows, "H 0.33333 0.66667 0.4303"], head, "label fract_x fract_y fract_z")
    assert read(whole) == ("Mg(HO)2", 5, 164)


def test_attached_hydrogen_is_missed_unless_there_is_none() -> None:
    head = "_symmetry_space_group_name_H-M 'P m -3 m'"
    columns = "label type_symbol fract_x fract_y fract_z attached_hydrogens"
    text = cif(CUBE, ["N1 N3- 0 0 0 4", "Cl1 Cl1- 0.5 0.5 0.5 0"], head, columns)
    assert reason(text) == "incomplete: hydrogen is attached to N1 (4) and has no position"
    assert read(text.replace(" 4\n", " 0\n")) == ("NCl", 2, 221)


@pytest.mark.parametrize("coordinates", ["? ? ?", ". . ."])
def test_a_site_without_coordinates_is_incomplete(coordinates: str) -> None:
    for head in (IDENTITY, "_symmetry_space_group_name_H-M 'P -3 m 1'"):
        text = cif(BRUCITE, [*BRUCITE_SITES[:2], f"H1 H {coordinates}"], head)
        assert reason(text) == "incomplete: H1 has no coordinates"


def test_a_dummy_is_no_atom_and_does_not_hide_one() -> None:
    columns = "label type_symbol fract_x fract_y fract_z calc_flag"
    rows = [f"{row} d" for row in SALT_SITES]
    assert read(cif(CUBE, [*rows, "Cg1 O 0.5 0 0 dum"], IDENTITY, columns)) == ("NaCl", 2, 221)
    text = cif(CUBE, [*rows, "H1 H -1 -1 -1 dum"], IDENTITY + "_chemical_formula_sum 'Na Cl H'", columns)
    assert reason(text) == "formula: the file says NaClH, its sites give NaCl"


@pytest.mark.parametrize(
    ("formula", "units", "agrees"),
    [
        ("Na Cl", None, True),
        ("Na Cl", 4, True),
        ("Na4 Cl4", None, True),
        ("Na4 Cl4", 4, True),
        ("NaCl", 4, True),
        ("NA CL", 4, True),
        ("Na Cl", 2, False),
        ("Na Cl2", None, False),
        ("Li Na Cl", None, False),
        ("Na8 Cl8", None, False),
        ("?", None, True),
        ("C6 H6 2(N O)", None, True),  # not to be read, so it says nothing
    ],
)
def test_the_formula_and_z_are_held_against_the_cell(formula: str, units: int | None, agrees: bool) -> None:
    head = f"_symmetry_space_group_name_H-M 'F m -3 m'\n_chemical_formula_sum '{formula}'\n"
    text = cif(ROCK_SALT, SALT_SITES, head + (f"_cell_formula_units_Z {units}" if units else ""))
    if agrees:
        assert read(text) == ("NaCl", 8, 225)
    else:
        assert reason(text).startswith("formula: the file says ")


def test_a_row_that_repeats_an_atom_is_one_atom() -> None:
    text = cif(ROCK_SALT, [*SALT_SITES, "Na2 Na 0 0.5 0.5"], "_symmetry_space_group_name_H-M 'F m -3 m'")
    assert read(text) == ("NaCl", 8, 225)


# --- symmetry ---------------------------------------------------------------------------------------

PEROVSKITE = (5.3829, 5.4458, 7.6453, 90, 90, 90)
PEROVSKITE_SITES = ("Ca1 Ca 0.9933 0.035 0.25", "Ti1 Ti 0 0.5 0", "O1 O 0.0707 0.4833 0.25", "O2 O 0.711 0.2885 0.0372")
CRYOLITE = (5.4139, 5.6012, 7.7769, 90, 90.183, 90)
CRYOLITE_SITES = (
    "Na1 Na 0 0 0.5", "Na2 Na 0.5133 -0.0519 0.2474", "Al1 Al 0 0 0",
    "F1 F 0.1026 0.0451 0.2194", "F2 F -0.2732 0.1726 0.0462", "F3 F 0.1626 0.2699 -0.0637",
)  # fmt: skip
CORUNDUM = ((4.7589, 4.7589, 12.991, 90, 90, 120), ("Al1 Al 0 0 0.35217", "O1 O 0.3063 0 0.25"))
CORUNDUM_R = ((5.128, 5.128, 5.128, 55.28, 55.28, 55.28), ("Al1 Al 0.352 0.352 0.352", "O1 O 0.556 -0.056 0.25"))
SPINEL = (8.083, 8.083, 8.083, 90, 90, 90)
SPINEL_1 = ("Mg1 Mg 0 0 0", "Al1 Al 0.625 0.625 0.625", "O1 O 0.3874 0.3874 0.3874")
SPINEL_2 = ("Mg1 Mg 0.125 0.125 0.125", "Al1 Al 0.5 0.5 0.5", "O1 O 0.2624 0.2624 0.2624")
ANATASE = (3.785, 3.785, 9.514, 90, 90, 90)
ANATASE_1, ANATASE_2 = ("Ti1 Ti 0 0 0", "O1 O 0 0 0.2081"), ("Ti1 Ti 0 0.75 0.125", "O1 O 0 0.75 0.3331")
LITHARGE = (3.964, 3.964, 5.011, 90, 90, 90)
LITHARGE_1, LITHARGE_2 = ("Pb1 Pb 0 0.5 0.2385", "O1 O 0 0 0"), ("Pb1 Pb 0.25 0.25 0.2385", "O1 O 0.75 0.25 0")
SILICON = (5.431, 5.431, 5.431, 90, 90, 90)

HM, NUMBER = "_symmetry_space_group_name_H-M", "_symmetry_Int_Tables_number"
NAMED = [
    *[(PEROVSKITE, PEROVSKITE_SITES, f"{tag} '{name}'", ("CaTiO3", 20, 62)) for tag, name in (
        (HM, "P b n m"), (HM, "Pbnm"), (HM, "P 21/b 21/n 21/m"), ("_space_group_name_H-M_full", "P 21/b 21/n 21/m"),
        ("_space_group_name_H-M_alt", "P b n m"), ("_space_group_name_H-M_ref", "P b n m"), (HM, "P_b_n_m"),
        ("_symmetry_space_group_name_H_M", "P b n m"), ("_space_group.name_H-M_alt", "P b n m"),
        ("_space_group_name_Hall", "-P 2c 2ab"), ("_symmetry_space_group_name_Hall", "-P_2c_2ab"),
    )],
    *[(CRYOLITE, CRYOLITE_SITES, f"{HM} '{name}'", ("Na3AlF6", 20, 14)) for name in (
        "P 21/n", "P21/n", "P 1 21/n 1", "P2(1)/n", "P2_1/n", "P_21/n", "P 1 2_1/n 1",
    )],
    *[(*CORUNDUM, head, ("Al2O3", 30, 167)) for head in (
        f"{HM} 'R -3 c'", f"{HM} 'R -3 c :H'", f"{HM} 'R -3 c H'", f"{HM} 'H -3 c'", f"{HM} 'R -3 2/c'",
        "_space_group_name_Hall '-R 3 2\"c'", f"{NUMBER} 167", f"{HM} 'R -3 c (hexagonal axes)'",
    )],
    *[(*CORUNDUM_R, head, ("Al2O3", 10, 167)) for head in (
        f"{HM} 'R -3 c'", f"{HM} 'R -3 c :R'", f"{HM} 'R -3 c :r'", f"{HM} 'R -3 c R'", f"{NUMBER} 167",
        "_space_group_name_Hall 'P -3* 2n'",
    )],
    *[(SPINEL, sites, head, ("MgAl2O4", 56, 227)) for n, sites in (("1", SPINEL_1), ("2", SPINEL_2)) for head in (
        f"{HM} 'F d -3 m :{n}'", f"{HM} 'F d -3 m {'SZ'[int(n) - 1]}'", f"{HM} 'F d -3 m (origin choice {n})'",
        f"{HM} 'F d 3 m'", f"{HM} 'F 41/d -3 2/m'", f"{HM} 'F d -3 m'\n_space_group.IT_coordinate_system_code {n}",
        f"{HM} 'F d -3 m'", f"{NUMBER} 227",
    )],
    *[(ANATASE, sites, f"{HM} 'I 41/a m d{end}'", ("TiO2", 12, 141)) for sites, ends in (
        (ANATASE_1, ("", " :1", " S")), (ANATASE_2, ("", " :2", " Z")),
    ) for end in ends],
    *[(LITHARGE, sites, f"{HM} 'P 4/n m m{end}'", ("PbO", 4, 129)) for sites, ends in (
        (LITHARGE_1, ("", " :1", " S")), (LITHARGE_2, ("", " :2", " Z")),
    ) for end in ends],
    (LITHARGE, LITHARGE_2, f"{HM} 'P 4/n 21/m 2/m (origin choice 2)'\n{NUMBER} 129", ("PbO", 4, 129)),
    *[(SILICON, [f"Si1 Si {x} {x} {x}"], f"{HM} 'F d -3 m'", ("Si", 8, 227)) for x in (0, 0.125)],
    *[(ROCK_SALT, SALT_SITES, head, ("NaCl", 8, 225)) for head in (
        f"{HM} 'F m 3 m'", f"{HM} 'F m 3 m'\n{NUMBER} 225", f"{HM} 'F 4/m -3 2/m'", f"{HM} 'f m -3 m'", f"{HM} 'FM-3M'",
        f"{NUMBER} 225", "_space_group_IT_number 225", "_space_group_name_H-M_ref 'F m -3 m'",
        "_symmetry_space_group_name_Hall '-F 4 2 3'",
        "_space_group.name_H-M_alt 'F m -3 m'\n_space_group.IT_number 225",
    )],
]  # fmt: skip


@pytest.mark.parametrize(("cell", "sites", "head", "expected"), NAMED)
def test_a_space_group_that_is_named(
    cell: Sequence[float], sites: Sequence[str], head: str, expected: tuple[str, int, int]
) -> None:
    assert read(cif(cell, sites, head)) == expected


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        ("", "symmetry: the file names no space group and lists no operations"),
        (f"{HM} '?'\n{NUMBER} ?", "symmetry: the file names no space group and lists no operations"),
        (f"{HM} 'Q m -3 m'", "symmetry: 'Q m -3 m' is not a known space group"),
        (f"{HM} 'Q m -3 m'\n{NUMBER} 225", "symmetry: 'Q m -3 m' is not a known space group"),
        (f"{HM} 'F m -3 m'\n{NUMBER} 221", "symmetry: it names 'F m -3 m' (number 225) and number 221"),
        (f"{HM} 'P 63/m m c'", "symmetry: the cell does not have the symmetry of P 63/m m c"),
        (f"{HM} 'P m -3 m'\nloop_\n_symmetry_equiv_pos_as_xyz\nx,y,z\n-x,-y,-z", "symmetry: its operations are those"),
        ("loop_\n_symmetry_equiv_pos_as_xyz\nx,y,z\ny,z,x", "symmetry: its 2 operations do not form a group"),
        ("loop_\n_symmetry_equiv_pos_as_xyz\nx,y,z\nnonsense", "symmetry: 'nonsense' is not a symmetry operation"),
        (f"{HM} 'F m -3 m'\n{IDENTITY}", "symmetry: the file names F m -3 m and lists only the identity"),
    ],
)
def test_symmetry_is_the_files_or_refused(head: str, expected: str) -> None:
    assert reason(cif(ROCK_SALT, SALT_SITES, head)).startswith(expected)


def test_without_symmetry_a_formula_with_z_says_that_all_atoms_are_listed() -> None:
    assert read(cif(CUBE, SALT_SITES, "_chemical_formula_sum 'Na Cl'\n_cell_formula_units_Z 1")) == ("NaCl", 2, 221)
    assert reason(cif(CUBE, SALT_SITES, "_chemical_formula_sum 'Na Cl'")).startswith("symmetry: ")


def test_raw_output_of_a_language_model_is_not_two_atoms() -> None:
    head = f"{HM} Fm-3m\n{NUMBER} 225\n_chemical_formula_sum 'Na4 Cl4'\n_cell_formula_units_Z 4\n{IDENTITY}"
    assert read(cif(ROCK_SALT, SALT_SITES, head)) == ("NaCl", 8, 225)
    nameless = head.split("\n", 2)[2]
    assert reason(cif(ROCK_SALT, SALT_SITES, nameless)) == "formula: the file says Na4Cl4 (Z = 4), its sites give NaCl"


def test_atoms_that_are_all_listed_beside_the_name_of_their_group_stay_as_they_are() -> None:
    structure = Structure.from_spacegroup(225, Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    text = cif_text(structure, "x").replace("'P 1'", "'F m -3 m'").replace("Tables_number   1", "Tables_number   225")
    assert np.abs(parse_cif(text).frac_coords - structure.frac_coords).max() < 1e-8


@pytest.mark.parametrize("xy", ["0.33 0.67", "0.333 0.667", "0.3333 0.6667", "0.33333(2) 0.66667(2)", "1/3 2/3"])
def test_few_digits_on_a_symmetry_element_are_one_atom(xy: str) -> None:
    text = cif((2.665, 2.665, 4.947, 90, 90, 120), [f"Zn1 Zn {xy} 0.25"], f"{HM} 'P 63/m m c'")
    structure = parse_cif(text)
    assert len(structure) == 2
    assert structure.get_neighbor_list(2.66)[3].size == 0
    ideal = Structure(structure.lattice, ["Zn"] * 2, [[1 / 3, 2 / 3, 0.25], [2 / 3, 1 / 3, 0.75]])
    assert structure.matches(ideal)
    assert read(text) == ("Zn", 2, 194)


@pytest.mark.parametrize("name", ["P 21/m", "P21/m", "P 1 1 21/m"])
def test_the_cell_shows_the_unique_axis_of_a_short_symbol(name: str) -> None:
    cell, rows = (3.95, 5.73, 4.0, 90, 90, 103.6), ["K1 K 0.175 0.288 0.25", "O1 O 0.318 0.77 0.25"]
    assert read(cif(cell, rows, f"{HM} '{name}'")) == ("K2O2", 4, 11)


def test_an_e_glide_leaves_two_settings_which_the_formula_may_decide() -> None:
    cell, rows = (9.5431, 8.1971, 6.5452, 90, 90, 90), ["Ti1 Ti 0.3871 0.7298 0.6416", "Cl1 Cl 0.5 0 0.5"]
    texts = [cif(cell, rows, f"{HM} '{name}'") for name in ("C m m e", "C m m a", "C m m b")]
    assert reason(texts[0]).startswith("symmetry: the file does not say which setting is meant, C m m b or C m m a")
    assert [read(text)[2] for text in texts[1:]] == [67, 67]


@pytest.mark.parametrize("compact", ["P21/b21/n21/m", "P21/B21/N21/M"])
def test_a_full_symbol_needs_no_spaces(compact: str) -> None:
    assert read(cif(PEROVSKITE, PEROVSKITE_SITES, f"{HM} {compact}")) == ("CaTiO3", 20, 62)
    assert read(cif(ROCK_SALT, SALT_SITES, f"{HM} F4/m-32/m")) == ("NaCl", 8, 225)


def test_two_elements_at_one_place_are_disorder() -> None:
    text = cif(CUBE, [*SALT_SITES, "K1 K 0 0 0"], f"{HM} 'P m -3 m'")
    assert reason(text) == "disorder: K1 has the position of another site with Na"


def test_magnetic_operations_count_without_time_reversal() -> None:
    head = (
        "_parent_space_group.name_H-M_alt 'P m -3 m'\n"
        "loop_\n_space_group_symop_magn_operation.xyz\nx,y,z,+1\n-x,-y,-z,+1\n"
        "loop_\n_space_group_symop_magn_centering.xyz\nx,y,z,+1\nx,y,z+1/2,-1"
    )
    assert read(cif((4, 4, 8, 90, 90, 90), ["Ni1 Ni 0 0 0", "O1 O 0.5 0.5 0.25"], head)) == ("NiO", 4, 221)


# --- grammar ----------------------------------------------------------------------------------------


def test_a_text_field_starts_no_block_and_holds_no_tags() -> None:
    field = "_publ_section_comment\n;\ndata_reduction was done at 298 K.\n_cell_length_a 9.9\n;\n"
    for text in (cif(CUBE, SALT_SITES, field + IDENTITY), cif(CUBE, SALT_SITES, IDENTITY, tail=field)):
        assert list(split_blocks(text.splitlines(keepends=True))) == [text]
        assert read(text) == ("NaCl", 2, 221)


@pytest.mark.parametrize(
    "change",
    [
        str.upper,
        lambda text: text.replace("_atom_site_", "_atom_site.").replace("_cell_", "_cell."),
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("\n", "\r"),
        lambda text: "\ufeff" + text,
        lambda text: text.replace(" 0.5", " 1/2"),
        lambda text: text.replace(" 0.5", "\t.5(1)"),
        lambda text: text.replace("4.0", "4.0(12) # angstrom"),
        lambda text: "#\\#CIF_2.0\n" + text.replace("loop_", "_a '''\ntriple\n'''\n_b [1 2 3]\nloop_", 1),
        lambda text: "data_global\n_journal_year 2020\n" + text,
        lambda text: text.rstrip(),
    ],
)
def test_spellings_of_one_file(change) -> None:
    assert read(change(cif(CUBE, SALT_SITES, IDENTITY))) == ("NaCl", 2, 221)


def test_capitals_and_decimals_in_operations() -> None:
    head = "loop_\n_symmetry_equiv_pos_as_xyz\n'X,Y,Z'\n'1/2+X,1/2+Y,Z'\n'.5+X, Y, .5+Z'\n'X,Y+0.5,Z+0.5'"
    assert read(cif(CUBE, SALT_SITES, head)) == ("NaCl", 8, 225)


def test_two_crystals_in_one_text_are_refused() -> None:
    text = cif(CUBE, SALT_SITES, IDENTITY)
    assert "2 data blocks with atoms" in reason(text + text.replace("data_x", "data_y"))


@pytest.mark.parametrize("value", ["1e300", "-1e9", "nan", "inf", "0.5.5", "abc"])
def test_a_coordinate_that_is_none_is_named(value: str) -> None:
    text = cif(CUBE, [SALT_SITES[0], f"Cl1 Cl 0.5 {value} 0.5"], IDENTITY)
    assert reason(text) == f"unreadable: Cl1 is at 0.5, {value}, 0.5"


def test_unfit_is_what_the_reader_raises() -> None:
    with pytest.raises(Unfit, match="Cartesian"):
        parse_cif(cif(CUBE, SALT_SITES, IDENTITY, "label type_symbol Cartn_x Cartn_y Cartn_z"))


def test_a_carriage_return_ends_a_comment() -> None:
    text = "# salt\n" + cif(CUBE, [SALT_SITES[0], "# the anion", SALT_SITES[1]], IDENTITY)
    assert read(text.replace("\n", "\r")) == ("NaCl", 2, 221)


def test_nul_characters_are_named() -> None:
    text = cif(CUBE, SALT_SITES, IDENTITY)
    for damaged in (text + 512 * "\0", "".join(f"{character}\0" for character in text)):
        assert "NUL characters" in reason(damaged)


@pytest.mark.parametrize(
    ("tail", "tag"),
    [
        ("loop_\n_atom_site_label\n_atom_site_fract_x\nH1 0.1\nH2 0.2", "_atom_site_label"),
        ("_cell_length_a 5.0", "_cell_length_a"),
        ("_cell.length_a 5.0", "_cell_length_a"),
        (IDENTITY.replace("x, y, z", "-x, -y, -z"), "_symmetry_equiv_pos_as_xyz"),
    ],
)
def test_what_is_there_twice_has_to_be_the_same(tail: str, tag: str) -> None:
    assert reason(cif(CUBE, SALT_SITES, IDENTITY, tail=tail)).endswith(f"{tag} is there twice, with different values")
    assert read(cif(CUBE, SALT_SITES, IDENTITY, tail="_cell_length_a 4.0")) == ("NaCl", 2, 221)


@pytest.mark.parametrize(
    "cell",
    [(-4, 4, 4, 90, 90, 90), (-4, -4, 4, 90, 90, 90), (4, 4, 4, 90, 90, 180), (4, 4, 4, 90, 90, -90),
     (4, 4, 4, 90, 90, 450), (4, 4, 4, 120, 60, 30), (4, 4, 4, 60, 60, 150), (0, 4, 4, 90, 90, 90)],
)  # fmt: skip
def test_lengths_and_angles_of_no_cell(cell: Sequence[float]) -> None:
    assert reason(cif(cell, SALT_SITES, IDENTITY)).startswith("no_cell: no cell has the parameters ")


@pytest.mark.parametrize(
    ("operations", "expected"),
    [
        (["-x,-y,-z"], "symmetry: x, y, z is not among its operations"),
        (["x+1/2,y,z"], "symmetry: x, y, z is not among its operations"),
        (["x,y,z", "?"], "symmetry: '?' is not a symmetry operation"),
        (["x,y,z", "x+y,y,z"], "symmetry: its 2 operations do not form a group"),
        (["x,y,z", "x,x,x"], "symmetry: its 2 operations do not form a group"),
    ],
)
def test_operations_are_a_group_with_the_identity(operations: list[str], expected: str) -> None:
    head = "\n".join(["loop_", "_symmetry_equiv_pos_as_xyz", *operations])
    assert reason(cif(CUBE, SALT_SITES, head)) == expected


def test_a_column_of_another_length_is_not_left_out() -> None:
    text = cif(CUBE, SALT_SITES, IDENTITY, tail="_atom_site_occupancy 0.5")
    assert reason(text) == "unreadable: _atom_site_occupancy has 1 values and there are 2 sites"


@pytest.mark.parametrize("value", ["1e999", "9" * 400 + "/1", "9" * 400 + "/" + "9" * 400])
def test_a_number_beyond_all_numbers_is_none(value: str) -> None:
    def text(column: str) -> str:
        return cif(CUBE, [f"Na1 Na 0 0 0 {value}"], IDENTITY, f"label type_symbol fract_x fract_y fract_z {column}")

    assert reason(text("occupancy")) == f"unreadable: the occupancy of Na1 is '{value[:20]}'"
    assert reason(text("attached_hydrogens")).startswith("incomplete: hydrogen is attached to Na1 ")
    assert read(text("symmetry_multiplicity")) == ("Na", 1, 221)


def test_a_reason_is_one_line() -> None:
    assert reason(cif(CUBE, ["\n;Na\n1\n;\nNa 0 0 q"], IDENTITY)) == "unreadable: Na 1 is at 0, 0, q"


def test_a_tag_of_ours_without_a_value_does_not_take_the_next_line() -> None:
    text = cif(CUBE, SALT_SITES, "_chemeleon_id\n_chemeleon_label_gap\n_symmetry_Int_Tables_number 1")
    assert block_tags(text) == ("x", {})


# --- handedness -------------------------------------------------------------------------------------


def test_a_left_handed_cell_keeps_its_handedness() -> None:
    quartz = Structure.from_spacegroup(
        "P3_221", Lattice.hexagonal(4.913, 5.405), ["Si", "O"], [[0.4697, 0, 0], [0.4133, 0.2672, 0.1188]], tol=0.01
    )
    places = quartz.cart_coords
    left = Structure(quartz.lattice.matrix[[1, 0, 2]], quartz.species, places, coords_are_cartesian=True)
    assert np.linalg.det(left.lattice.matrix) < 0
    groups = [spglib.get_spacegroup((s.lattice.matrix, s.frac_coords, s.atomic_numbers)) for s in (quartz, left)]
    back = parse_cif(cif_text(left, "x"))
    groups.append(spglib.get_spacegroup((back.lattice.matrix, back.frac_coords, back.atomic_numbers)))
    assert groups == ["P3_221 (154)"] * 3
