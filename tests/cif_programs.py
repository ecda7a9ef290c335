"""Crystals as programs and databases write them, after files of each: tags, columns, spellings, text around."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from cif_texts import EITHER, READ, Case, cell_lines, loop, number, operation
from cif_truth import Crystal, Setting, named, same_operations, seeded

A_CRYSTAL = 5
"""Programs that each crystal is written by, of all of them."""
CHARGES = {"O": -2, "S": -2, "F": -1, "Cl": -1, "Li": 1, "Na": 1, "Cs": 1, "Ca": 2, "Cu": 2, "Co": 2, "Pb": 2, "Fe": 3}

Writer = Callable[[Crystal], list[str]]


def program_cases(crystal: Crystal) -> Iterator[Case]:
    """The crystal as a few of the programs write it."""
    one = crystal.setting
    rng = seeded("programs", one.hall_number, len(crystal.symbols))
    for i in sorted(rng.choice(len(PROGRAMS), A_CRYSTAL, replace=False)):
        name, write, symbol = PROGRAMS[i]
        # without operations, the symbol has to tell the setting
        sure = symbol is None or all(same_operations(m, one) for m in named(symbol(one)) if m.origin == one.origin)
        text = "\n".join([*write(crystal), ""])
        yield Case(name, text, crystal, READ if sure else EITHER, tolerance=0.02)


def vesta(crystal: Crystal) -> list[str]:
    one = crystal.setting
    columns = _columns(
        crystal, lambda x: f"{x:.6f}    ",
        label=_labels(crystal), occupancy="   1.0   ", fract="", adp_type="Biso ", B_iso_or_equiv="1.000000",
        type_symbol=_symbols(crystal),
    )  # fmt: skip
    return [
        "",
        "#======================================================================",
        "# CRYSTAL DATA",
        "#----------------------------------------------------------------------",
        "data_VESTA_phase_1",
        "",
        f"_chemical_name_common                  '{''.join(crystal.content)}'",
        *cell_lines(crystal.cell),
        f"_space_group_name_H-M_alt              '{one.short}'",
        f"_space_group_IT_number                 {one.number}",
        "",
        *_operations(one, "_space_group_symop_operation_xyz", "   '{}'", 0),
        "",
        *loop("   _atom_site_", columns),
    ]


def icsd(crystal: Crystal) -> list[str]:
    one = crystal.setting
    symbols = [_charged(site.symbol, "{symbol}{size}{sign}") for site in crystal.sites]
    columns = _columns(
        crystal, lambda x: f"{x:.5g}" if x in (0, 0.25, 0.5) else f"{x:.5f}(3)",
        label=_labels(crystal), type_symbol=symbols, symmetry_multiplicity=_multiplicities(crystal),
        Wyckoff_symbol="a", fract="", occupancy="1.", attached_hydrogens="0",
    )  # fmt: skip
    letter = {"1": " S", "2": " Z", "H": " H", "R": " R"}.get(one.origin, "")
    return [
        "#(C) 2020 by a database",
        f"data_{one.hall_number}-ICSD",
        f"_database_code_ICSD {one.hall_number}",
        _formula(crystal, "1"),
        "_chemical_name_systematic",
        ";",
        "a salt; of",
        "data_that were taken by hand",
        ";",
        *cell_lines(crystal.cell),
        f"_cell_formula_units_Z {crystal.units}",
        f"_symmetry_space_group_name_H-M '{one.full if one.number < 16 else one.short}{letter}'",
        f"_symmetry_Int_Tables_number {one.number}",
        "loop_",
        "_symmetry_equiv_pos_site_id",
        *_operations(one, "_symmetry_equiv_pos_as_xyz", "{n} '{}'", 0)[1:],
        "loop_",
        "_atom_type_symbol",
        "_atom_type_oxidation_number",
        *(f"{s} {CHARGES.get(site.symbol, 4)}" for s, site in zip(symbols, crystal.sites, strict=True)),
        *loop("_atom_site_", columns),
        f"#End of TTdata_{one.hall_number}-ICSD",
    ]


def cod(crystal: Crystal) -> list[str]:
    one = crystal.setting
    columns = _columns(
        crystal, lambda x: f"{x:.6f}",
        label=_labels(crystal), fract="", occupancy="1.00000", U_iso_or_equiv="?",
    )  # fmt: skip
    origin = f" :{one.origin}" if one.origin else ""
    return [
        "#------------------------------------------------------------------------------",
        "#$Date: 2016-02-13 $",
        "#------------------------------------------------------------------------------",
        f"data_{9000000 + one.hall_number}",
        *("loop_", "_publ_author_name", "'Doe, J.'", '"O\'Neill, B."', "_publ_section_title"),
        *(";", " Crystal structures of salts", " loop_ _cell_length_a 1.0", ";"),
        _formula(crystal, ""),
        f"_space_group_IT_number           {one.number}",
        f"_symmetry_space_group_name_Hall  '{one.hall}'",
        f"_symmetry_space_group_name_H-M   '{one.full if one.number < 16 else one.short}{origin}'",
        *cell_lines(crystal.cell),
        f"_cod_original_sg_symbol_H-M      '{one.old}'",
        *_operations(one, "_symmetry_equiv_pos_as_xyz", "{}", 1),
        *loop("_atom_site_", columns),
        *("loop_", "_geom_bond_atom_site_label_1", "_geom_bond_atom_site_label_2", "_geom_bond_distance"),
        f"{columns['label'][0]} {columns['label'][-1]} 2.35(2)",
    ]


def shelx(crystal: Crystal) -> list[str]:
    one = crystal.setting
    count = len(crystal.sites)
    columns = {
        "label": _labels(crystal),
        "type_symbol": [site.symbol for site in crystal.sites],
        **_coordinates(crystal, lambda x: number(x, 4) if x in (0, 0.25, 0.5, 0.75) else f"{x:.5f}(12)"),
        "U_iso_or_equiv": ["0.0213(4)"] * count,
        "adp_type": ["Uani"] * count,
        "occupancy": ["1"] * count,
        "site_symmetry_order": [str(len(one.rotations) // n) for n in crystal.multiplicities],
        "calc_flag": ["d"] * count,
        **{name: ["."] * count for name in ("refinement_flags_posn", "disorder_assembly", "disorder_group")},
    }
    esds = [f"{line}(3)" if "length" in line else line for line in cell_lines(crystal.cell)]
    return [
        "data_I",
        _formula(crystal, ""),
        f"_space_group_IT_number            {one.number}",
        f"_space_group_name_H-M_alt         '{one.short}'",
        f"_space_group_name_Hall            '{one.hall}'",
        *("_shelx_space_group_comment", ";", "The symmetry employed for this shelxl refinement is", ";"),
        *_operations(one, "_space_group_symop_operation_xyz", " '{}'", 0),
        *esds,
        f"_cell_formula_units_Z             {crystal.units}",
        *loop(" _atom_site_", columns),
        *("_shelx_res_file", ";", "TITL I in P1", "CELL 0.71073 3.0 3.0 3.0 90 90 90", "SYMM -X, Y, -Z"),
        *("H1 2 0.1 0.2 0.3 11 0.05", "REM a ; in the middle, data_ and loop_", "END", ";"),
        "_shelx_res_checksum               1234",
    ]


def findsym(crystal: Crystal) -> list[str]:
    return _findsym(crystal, _operations(crystal.setting, "_space_group_symop_operation_xyz", "{n} {}", 1))


def findsym_cut(crystal: Crystal) -> list[str]:
    return _findsym(crystal, [])


def _findsym(crystal: Crystal, operations: list[str]) -> list[str]:
    one = crystal.setting
    words = {
        "1": " (origin choice 1)", "2": " (origin choice 2)", "H": " (hexagonal axes)", "R": " (rhombohedral axes)",
    }  # fmt: skip
    columns = _columns(
        crystal, lambda x: f"{x:.5f}",
        label=_labels(crystal), type_symbol=_symbols(crystal), symmetry_multiplicity=_multiplicities(crystal),
        Wyckoff_label="a", fract="", occupancy="1.00000", fract_symmform="Dx,Dy,Dz",
    )  # fmt: skip
    return [
        "# CIF file created by FINDSYM, version 7.1",
        "",
        "data_findsym-output",
        "_audit_creation_method FINDSYM",
        *cell_lines(crystal.cell),
        f'_symmetry_space_group_name_H-M "{one.full}{words.get(one.origin, "")}"',
        f"_symmetry_Int_Tables_number {one.number}",
        f"_space_group.reference_setting '{one.number:03d}:{one.hall}'",
        "_space_group.transform_Pp_abc a,b,c;0,0,0",
        *([operations[0], "_space_group_symop_id", *operations[1:]] if operations else []),
        *loop("_atom_site_", columns),
        "# end of cif",
    ]


def aflow(crystal: Crystal) -> list[str]:
    one = crystal.setting
    columns = _columns(
        crystal, lambda x: f"{x:.5f}",
        label=_labels(crystal), type_symbol=_symbols(crystal), symmetry_multiplicity=_multiplicities(crystal),
        Wyckoff_label="a", fract="", occupancy="1.00000",
    )  # fmt: skip
    operations = _operations(one, "_space_group_symop_operation_xyz", "{n} {}", 1)
    return [
        "# AFLOW.org Repositories",
        f"data_{''.join(sorted(crystal.content))}",
        "_pd_phase_name salt",
        *cell_lines(crystal.cell),
        "",
        f'_symmetry_space_group_name_H-M "{one.short}"',
        f"_symmetry_Int_Tables_Number {one.number}",
        "",
        *("_aflow_title 'A Structure'", "_aflow_proto 'A_cF4_225_a'", "_aflow_params 'a'", "_aflow_params_values '5'"),
        "",
        *[operations[0], "_space_group_symop_id", *operations[1:]],
        "",
        *loop("_atom_site_", columns),
    ]


def materials_studio(crystal: Crystal) -> list[str]:
    one = crystal.setting
    columns = _columns(
        crystal, lambda x: f"{x:.5f}  ",
        label=_labels(crystal), type_symbol=[f"{site.symbol}   " for site in crystal.sites], fract="",
        U_iso_or_equiv="0.00000 ", adp_type="Uiso ", occupancy="1.00",
    )  # fmt: skip
    return [
        "data_salt",
        "_audit_creation_date              2020-01-01",
        "_audit_creation_method            'Materials Studio'",
        f"_symmetry_space_group_name_H-M    '{one.short.replace(' ', '').upper()}'",
        f"_symmetry_Int_Tables_number       {one.number}",
        *_operations(one, "_symmetry_equiv_pos_as_xyz", "  {}", 1),
        *cell_lines(crystal.cell),
        *loop("_atom_site_", columns),
    ]


def topas(crystal: Crystal) -> list[str]:
    one = crystal.setting
    columns = _columns(
        crystal, lambda x: number(x, 6),
        label=_labels(crystal), type_symbol=[_charged(site.symbol, "{symbol}{sign}{size}") for site in crystal.sites],
        symmetry_multiplicity=_multiplicities(crystal), fract="", occupancy="1", B_iso_or_equiv="1.2(1)",
    )  # fmt: skip
    origin = {"1": ":1", "2": ":2", "H": ":H", "R": ":R"}.get(one.origin, "")
    return [
        "data_",
        "_chemical_name_mineral Salt",
        *(f"{line}(2)" if "length" in line else line for line in cell_lines(crystal.cell)),
        f"_symmetry_space_group_name_H-M {one.full.replace(' ', '')}{origin}",
        *loop("_atom_site_", columns),
    ]


def jana(crystal: Crystal) -> list[str]:
    one = crystal.setting
    columns = _columns(
        crystal, lambda x: number(x, 6),
        label=_labels(crystal), type_symbol=_symbols(crystal), fract="", adp_type="Uani", U_iso_or_equiv="0.0112(3)",
        site_symmetry_multiplicity=_multiplicities(crystal), occupancy="1",
    )  # fmt: skip
    operations = _operations(one, "_space_group_symop_operation_xyz", "  {n}   {}", 1)
    return [
        "#\\#CIF_1.1",
        "data_I",
        "_symmetry_cell_setting                 ?",
        f"_symmetry_space_group_name_H-M         '{one.short}'",
        f"_symmetry_space_group_name_Hall        '{one.hall}'",
        f"_symmetry_Int_Tables_number            {one.number}",
        *[operations[0], " _space_group_symop_id", f" {operations[1]}", *operations[2:]],
        *cell_lines(crystal.cell),
        _formula(crystal, ""),
        f"_cell_formula_units_Z                  {crystal.units}",
        *loop("  _atom_site_", columns),
    ]


def gsas(crystal: Crystal) -> list[str]:
    one = crystal.setting
    columns = _columns(
        crystal, lambda x: f"{x:.5f}",
        label=[f"{label}  " for label in _labels(crystal)],
        type_symbol=[_charged(site.symbol, "{symbol}{sign}{size}") for site in crystal.sites], fract="",
        occupancy="1.000", adp_type="Uiso", U_iso_or_equiv="0.010",
        site_symmetry_multiplicity=_multiplicities(crystal),
    )  # fmt: skip
    return [
        "data_salt_publ",
        "_pd_block_id 2020|salt",
        "_audit_author_name ?",
        "data_salt_phase_1",
        "_pd_phase_name salt",
        *cell_lines(crystal.cell),
        f'_symmetry_space_group_name_H-M  "{one.short}"',
        *_operations(one, "_symmetry_equiv_pos_as_xyz", "       '{}'", 3),
        *loop("   _atom_site_", columns),
        _formula(crystal, ""),
        "data_salt_pwd_0",
        *("loop_", "_pd_meas_2theta_scan", "_pd_meas_counts_total", "10 1", "11 2"),
    ]


def crystalmaker(crystal: Crystal) -> list[str]:
    one = crystal.setting
    columns = _columns(
        crystal, lambda x: f"{x:.4f}",
        label=_labels(crystal), type_symbol=_symbols(crystal), occupancy="1.0000", fract="",
    )  # fmt: skip
    return [
        "data_global",
        "_chemical_name_common salt",
        *cell_lines(crystal.cell),
        f"_symmetry_int_tables_number {one.number}",
        f"_symmetry_space_group_name_h-m '{one.short}'",
        *_operations(one, "_symmetry_equiv_pos_as_xyz", "'{}'", 5),
        *loop("_atom_site_", columns),
    ]


def amcsd(crystal: Crystal) -> list[str]:
    """Labels alone, thirds and sixths of three digits."""
    one = crystal.setting
    columns = {"label": [site.symbol for site in crystal.sites], **_coordinates(crystal, _three_digits)}
    return [
        "data_global",
        "_chemical_name_mineral 'Salt'",
        *("loop_", "_publ_author_name", "'Doe J'", "_journal_year 1931", "_publ_section_title", ";", "The salt", ";"),
        "_database_code_amcsd 0000001",
        _formula(crystal, ""),
        *cell_lines(crystal.cell),
        "_exptl_crystal_density_diffrn      3.585",
        f"_symmetry_space_group_name_H-M '{one.short}'",
        *_operations(one, "_space_group_symop_operation_xyz", "  '{}'", 2),
        *loop("_atom_site_", columns),
    ]


def capitals(crystal: Crystal) -> list[str]:
    """Every tag in capitals, tabs between columns."""
    one = crystal.setting
    columns = _columns(
        crystal, lambda x: number(x, 7),
        label=_labels(crystal), type_symbol=_symbols(crystal), fract="",
    )  # fmt: skip
    operations = _operations(one, "_symmetry_equiv_pos_as_xyz", "'{}'", 0)
    lines = ["data_SALT", *cell_lines(crystal.cell), *operations, *loop("_atom_site_", columns)]
    return [line.upper() if line.startswith(("_", "loop_")) else line.replace(" ", "\t") for line in lines]


def dotted(crystal: Crystal) -> list[str]:
    """The tags of DDLm dictionaries: `_atom_site.fract_x`."""
    one = crystal.setting
    columns = _columns(
        crystal, lambda x: number(x, 7),
        label=_labels(crystal), type_symbol=_symbols(crystal), fract="",
    )  # fmt: skip
    return [
        "#\\#CIF_2.0",
        "data_salt",
        *(line.replace("_cell_", "_cell.") for line in cell_lines(crystal.cell)),
        *_operations(one, "_space_group_symop.operation_xyz", "'{}'", 0),
        *loop("_atom_site.", columns),
    ]


def pymatgen_symmetric(crystal: Crystal) -> list[str]:
    """As CifWriter does with a symprec: the formula of the whole cell beside Z."""
    one = crystal.setting
    symbols = [_charged(site.symbol, "{symbol}{size}{sign}") for site in crystal.sites]
    columns = _columns(
        crystal, lambda x: f"{x:.8f}",
        type_symbol=symbols, label=[f"{site.symbol}{i}" for i, site in enumerate(crystal.sites)],
        symmetry_multiplicity=_multiplicities(crystal), fract="", occupancy="1",
    )  # fmt: skip
    operations = _operations(one, " _symmetry_equiv_pos_as_xyz", "  {n}  '{}'", 0)
    return [
        "# generated using pymatgen",
        f"data_{''.join(crystal.content)}",
        f"_symmetry_space_group_name_H-M   '{one.short}'",
        *cell_lines(crystal.cell),
        f"_symmetry_Int_Tables_number   {one.number}",
        f"_chemical_formula_sum   '{' '.join(f'{s}{n}' for s, n in crystal.content.items())}'",
        f"_cell_formula_units_Z   {crystal.units}",
        *[operations[0], " _symmetry_equiv_pos_site_id", *operations[1:]],
        *loop(" _atom_site_", columns),
    ]


def ase(crystal: Crystal) -> list[str]:
    """Every atom, without symmetry."""
    listed = crystal.listed()
    columns = {
        "type_symbol": [site.symbol for site in listed.sites],
        "label": _labels(listed),
        "symmetry_multiplicity": ["1.0"] * len(listed.sites),
        **_coordinates(listed, lambda x: f"{x!r}"),
        "occupancy": ["1.0000"] * len(listed.sites),
    }
    return [
        "data_image0",
        f'_chemical_formula_sum              "{" ".join(f"{s}{n}" for s, n in crystal.content.items())}"',
        *cell_lines(crystal.cell),
        "",
        '_space_group_name_H-M_alt    "P 1"',
        "_space_group_IT_number       1",
        "",
        *("loop_", "  _space_group_symop_operation_xyz", "  'x, y, z'", ""),
        *loop("  _atom_site_", columns),
    ]


PROGRAMS: tuple[tuple[str, Writer, Callable[[Setting], str] | None], ...] = (
    ("as VESTA", vesta, None),
    ("as ICSD", icsd, None),
    ("as COD", cod, None),
    ("as SHELX", shelx, None),
    ("as FINDSYM", findsym, None),
    ("as FINDSYM, operations cut off", findsym_cut, lambda one: one.full),
    ("as AFLOW", aflow, None),
    ("as Materials Studio", materials_studio, None),
    ("as TOPAS", topas, lambda one: one.full),
    ("as JANA", jana, None),
    ("as GSAS", gsas, None),
    ("as CrystalMaker", crystalmaker, None),
    ("as AMCSD", amcsd, None),
    ("tags in capitals, tabs", capitals, None),
    ("DDLm tags", dotted, None),
    ("as pymatgen", pymatgen_symmetric, None),
    ("as ASE", ase, None),
)
"""Name, writer, and the symbol that the setting is to be known by where no operations are written."""


def _columns(crystal: Crystal, form: Callable[[float], str], **cells: str | list[str]) -> dict[str, list[str]]:
    """Columns of the atom sites in order; a text stands in every row, and `fract` is where the coordinates are."""
    columns: dict[str, list[str]] = {}
    for name, cell in cells.items():
        columns |= _coordinates(crystal, form) if name == "fract" else {name: cell}  # type: ignore[dict-item]
    return {name: [cell] * len(crystal.sites) if isinstance(cell, str) else cell for name, cell in columns.items()}


def _symbols(crystal: Crystal) -> list[str]:
    return [site.symbol for site in crystal.sites]


def _multiplicities(crystal: Crystal) -> list[str]:
    return [str(n) for n in crystal.multiplicities]


def _labels(crystal: Crystal) -> list[str]:
    return [f"{site.symbol}{i}" for i, site in enumerate(crystal.sites, 1)]


def _coordinates(crystal: Crystal, form: Callable[[float], str]) -> dict[str, list[str]]:
    return {f"fract_{axis}": [form(site.position[i]) for site in crystal.sites] for i, axis in enumerate("xyz")}


def _operations(one: Setting, tag: str, form: str, style: int) -> list[str]:
    """A loop of the operations; `form` holds `{}`, and `{n}` where they are numbered."""
    texts = [operation(r, t, style) for r, t in zip(one.rotations, one.translations, strict=True)]
    return ["loop_", tag, *(form.format(text, n=n) for n, text in enumerate(texts, 1))]


def _formula(crystal: Crystal, one: str) -> str:
    counts = {symbol: n // crystal.units for symbol, n in sorted(crystal.content.items())}
    return f"_chemical_formula_sum '{' '.join(f'{s}{n if n > 1 else one}' for s, n in counts.items())}'"


def _charged(symbol: str, form: str) -> str:
    charge = CHARGES.get(symbol, 4)
    return form.format(symbol=symbol, size=abs(charge), sign="+" if charge > 0 else "-")


def _three_digits(x: float) -> str:
    """`.333` for a third; other coordinates keep their digits."""
    return f"{x:.3f}" if abs(6 * x - np.round(6 * x)) < 1e-4 else f"{x:.5f}"
