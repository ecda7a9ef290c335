"""The symmetry of a CIF block: the operations that it lists or, if there are none, those of its space group.

Names are looked up in gemmi's table of 564 settings (International Tables A). A name may not determine the origin
choice, or the axes of a rhombohedral group; then all possible settings are returned, and the caller decides by the
atoms. A symmetry that cannot be determined is an error, because without it the file describes another crystal.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import gemmi
import numpy as np

from chemeleon_cli.core.data.cif_sites import Block, number_of, text_of
from chemeleon_cli.core.data.limits import Unfit

_OPERATIONS = ("_space_group_symop_operation_xyz", "_symmetry_equiv_pos_as_xyz", "_space_group_symop_xyz")
_MAGNETIC = ("_space_group_symop_magn_operation_xyz", "_space_group_symop_magn_centering_xyz")
_HALL = ("_space_group_name_hall", "_symmetry_space_group_name_hall")
_STEMS = tuple(f"_{where}space_group_name_h{dash}m" for where in ("", "symmetry_") for dash in "-_")
_NAMES = tuple(stem + end for stem in _STEMS for end in ("_alt", "_full", ""))
_REFERENCES = tuple(stem + "_ref" for stem in _STEMS)
"""Symbols of the standard setting, which may differ from that of the file; they are used only if there is no other."""
_NUMBERS = ("_space_group_it_number", "_symmetry_int_tables_number")
_SUPERSPACE = "_space_group_symop_ssg_operation_algebraic"

MAX_OPERATIONS = 1_000
"""Operations that a file may list: a group of the tables has at most 192, and a supercell some more."""
METRIC = 0.03
"""Largest relative change of a^2, and largest change of a.b / |a||b|, of the cell under a symmetry operation; if it is
exceeded, cell and operation contradict each other."""


@dataclass(frozen=True)
class Setting:
    """A set of symmetry operations x' = R x + t on fractional coordinates.

    Attributes:
        name: for messages.
        rotations: (M, 3, 3).
        translations: (M, 3).
    """

    name: str
    rotations: np.ndarray
    translations: np.ndarray


@dataclass(frozen=True)
class Symmetry:
    """The symmetry that a file gives.

    Attributes:
        settings: all settings that the file allows, the likeliest first; a single one if the file is explicit.
        doubt: for messages, why the first setting may not be the right one; "" if it is certain.
    """

    settings: Sequence[Setting]
    doubt: str = ""


def read_symmetry(block: Block, metric: np.ndarray) -> Symmetry:
    """The symmetry of a block.

    Args:
        block: the values of a data block.
        metric: (3, 3) scalar products of the cell vectors, Å^2.

    Raises:
        Unfit: the symmetry is unknown, contradicts itself, or does not fit the cell.
    """
    if _SUPERSPACE in block:
        raise Unfit("symmetry: a modulated structure, described in more than three dimensions")
    listed = _listed(block)
    if len(listed) > 1 or (listed and listed[0] != gemmi.Op()):
        _check_group(listed, [] if _is_magnetic(block) else _named(block, metric, strict=False))
        return Symmetry(_fitting([_of_operations("its operations", listed)], metric))
    settings = [_setting(sg.xhm(), sg.hall) for sg in _named(block, metric, strict=not listed)]
    if not settings or all(len(setting.rotations) == 1 for setting in settings):
        known = settings or listed
        return Symmetry([_IDENTITY], "" if known else "the file names no space group and lists no operations")
    settings = _fitting(settings, metric)
    if listed:
        return Symmetry([_IDENTITY, *settings], f"the file names {settings[0].name} and lists only the identity")
    names = " or ".join(setting.name for setting in settings)
    return Symmetry(settings, f"the file does not say which setting is meant, {names}" if len(settings) > 1 else "")


_IDENTITY = Setting("P 1", np.eye(3)[None], np.zeros((1, 3)))


def _is_magnetic(block: Block) -> bool:
    return any(tag in block for tag in _MAGNETIC)


def _listed(block: Block) -> list[gemmi.Op]:
    """The operations that the file lists, without duplicates; those of a magnetic group without time reversal."""
    if _is_magnetic(block):
        groups = [[re.sub(r",\s*[+-]?1\s*$", "", text) for text in block.get(tag, ())] for tag in _MAGNETIC]
        operations, centrings = ([_operation(text) for text in texts] or [gemmi.Op()] for texts in groups)
        _check_number(len(operations) * len(centrings))
        every = [(c * o).wrap() for c in centrings for o in operations]
    else:
        texts = next((block[tag] for tag in _OPERATIONS if tag in block), ())
        stated = [text for text in texts if text.strip() not in ("", "?", ".")]
        every = [_operation(text) for text in (texts if stated else ())]  # one of several that is left open is none
    return list({operation.triplet(): operation for operation in every}.values())


def _check_group(operations: Sequence[gemmi.Op], named: Sequence[gemmi.SpaceGroup]) -> None:
    """Check that the listed operations form a group, and that it is the named one."""
    _check_number(len(operations))
    if gemmi.Op() not in operations:
        raise Unfit("symmetry: x, y, z is not among its operations")
    group = gemmi.GroupOps(list(operations))
    try:
        group.add_missing_elements()
    except RuntimeError:  # no end of them
        is_group = False
    else:
        is_group = len(group) == len(operations)
    if not is_group:
        raise Unfit(f"symmetry: its {len(operations)} operations do not form a group")
    found = gemmi.find_spacegroup_by_ops(group)
    if found is not None and named and found.number not in {sg.number for sg in named}:
        raise Unfit(f"symmetry: its operations are those of {found.xhm()}, but it names {named[0].xhm()}")


def _check_number(operations: int) -> None:
    if operations > MAX_OPERATIONS:
        raise Unfit(f"symmetry: {operations:,} operations are more than any group has")


def _operation(text: str) -> gemmi.Op:
    try:
        if re.search(r"[^xyzXYZ\d\s+\-*/.,]", text):
            raise ValueError(text)
        return gemmi.Op(text.strip()).wrap()
    except (ValueError, RuntimeError) as error:
        raise Unfit(f"symmetry: '{text[:40]}' is not a symmetry operation") from error


def _of_operations(name: str, operations: Iterable[gemmi.Op]) -> Setting:
    matrices = np.array([operation.float_seitz() for operation in operations])
    return Setting(name, matrices[:, :3, :3], matrices[:, :3, 3])


@functools.lru_cache(600)
def _setting(name: str, hall: str) -> Setting:
    return _of_operations(name, gemmi.symops_from_hall(hall))


def _fitting(settings: Sequence[Setting], metric: np.ndarray) -> list[Setting]:
    """The settings whose rotations leave the metric of the cell unchanged within METRIC."""
    scale = np.sqrt(np.outer(metric.diagonal(), metric.diagonal()))
    found = []
    for setting in settings:
        turned = np.einsum("mji,jk,mkl->mil", setting.rotations, metric, setting.rotations)
        if (np.abs(turned - metric) <= METRIC * scale).all():
            found.append(setting)
    if not found:
        raise Unfit(f"symmetry: the cell does not have the symmetry of {settings[0].name}")
    return found


def _named(block: Block, metric: np.ndarray, strict: bool) -> list[gemmi.SpaceGroup]:
    """All settings that the names and numbers of a file allow; [] if it gives none.

    Args:
        block: the values of a data block.
        metric: (3, 3) of the cell, which shows the unique axis of a monoclinic group.
        strict: whether unknown or contradictory names are errors; if not, they are ignored.
    """
    try:
        return _by_names(block, _unique_axis(metric))
    except Unfit:
        if strict:
            raise
        return []


def _unique_axis(metric: np.ndarray) -> str:
    """The axis that is perpendicular to the other two, if these are oblique; else "b", the usual unique axis."""
    scale = np.sqrt(np.outer(metric.diagonal(), metric.diagonal()))
    oblique = np.abs(metric / scale) > 0.01
    pairs = {"a": oblique[1, 2], "b": oblique[0, 2], "c": oblique[0, 1]}
    tilted = [axis for axis, is_oblique in pairs.items() if is_oblique]
    return tilted[0] if len(tilted) == 1 else "b"


def _by_names(block: Block, axis: str) -> list[gemmi.SpaceGroup]:
    number = _table_number(text_of(block, *_NUMBERS))
    halls, names, references = (_texts(block, tags) for tags in (_HALL, _NAMES, _REFERENCES))
    found = {text: settings for text in halls if (settings := _by_hall(text))}
    found |= {text: settings for text in names or references if (settings := _by_name(text, axis))}
    unknown = [*names, *halls, *references]
    if not found and unknown:
        raise Unfit(f"symmetry: '{unknown[0][:40]}' is not a known space group")
    if number is not None:
        found = found or {f"number {number}": _by_number(number)}
        text, settings = next(iter(found.items()))
        if settings[0].number != number:
            raise Unfit(f"symmetry: it names '{text}' (number {settings[0].number}) and number {number}")
    chosen = next(iter(found.values()), ())
    for text, settings in found.items():
        both = [sg for sg in chosen if sg.xhm() in {other.xhm() for other in settings}]
        if not both:
            raise Unfit(f"symmetry: it names '{next(iter(found))}' and '{text}'")
        chosen = both
    choice = text_of(block, "_space_group_it_coordinate_system_code").lower()
    return [sg for sg in chosen if choice and choice in (sg.ext.lower(), sg.qualifier)] or list(chosen)


def _texts(block: Block, tags: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(text for tag in tags if (text := text_of(block, tag))))


def _table_number(text: str) -> int | None:
    value = number_of(text)
    if value is None or not 1 <= value <= 230:
        return None
    return int(value)


@functools.lru_cache(1024)
def _by_hall(symbol: str) -> Sequence[gemmi.SpaceGroup]:
    try:
        group = gemmi.symops_from_hall(symbol.replace("_", " "))
    except (ValueError, RuntimeError):
        return ()
    found = gemmi.find_spacegroup_by_ops(group)
    return () if found is None else (found,)


@functools.lru_cache(230)
def _by_number(number: int) -> Sequence[gemmi.SpaceGroup]:
    """The standard setting, with both origin choices or both kinds of axes if there are two."""
    return _variants(gemmi.find_spacegroup_by_number(number))


def _variants(group: gemmi.SpaceGroup | None) -> Sequence[gemmi.SpaceGroup]:
    return tuple(sg for sg in gemmi.spacegroup_table() if group is not None and sg.hm == group.hm)


@functools.lru_cache(1024)
def _by_name(name: str, axis: str) -> Sequence[gemmi.SpaceGroup]:
    """The settings of a Hermann-Mauguin symbol; empty if it is unknown.

    A short monoclinic symbol (P 21/n) is read with the unique axis of the cell.

    Besides the symbols of the table, these are understood: origin choice or axes after a colon, in words (`origin
    choice 2`) or as in ICSD (S and Z for origins 1 and 2, H and R for the axes), full symbols, `2(1)` and `2_1`.
    """
    text, choice = _split_choice(re.sub(r"\s+", " ", name.strip()))
    text = re.sub(r"\((\d)\)", r"\1", text)
    text = text[:1].upper() + text[1:].lower()
    for spelling in (re.sub(r"(?<=\d)_(?=\d)", "", text), text):
        spelling = spelling.replace("_", " ").strip()
        for symbol in dict.fromkeys((_monoclinic(spelling, axis), spelling, _short(spelling))):
            group = gemmi.find_spacegroup_by_name(symbol)
            if group is not None:
                variants = _with_either_glide(symbol, group) or _variants(group)
                return tuple(sg for sg in variants if sg.ext == choice) or variants
    return ()


def _with_either_glide(symbol: str, group: gemmi.SpaceGroup) -> Sequence[gemmi.SpaceGroup]:
    """The settings of a symbol with an e-glide: C m m e is C m m a or C m m b, which differ in their origins."""
    pattern = symbol.replace(" ", "").replace("e", "[abc]")
    table = gemmi.spacegroup_table() if "[abc]" in pattern else ()
    meant = [sg for sg in table if sg.number == group.number and re.fullmatch(pattern, sg.hm.replace(" ", ""))]
    return tuple({sg.hall: sg for sg in reversed(meant)}.values())  # C c c a and C c c b are equal in origin choice 1


def _split_choice(name: str) -> tuple[str, str]:
    """Split a symbol from its origin choice or axes: "1", "2", "H", "R" or ""."""
    words = re.match(r"(.*?)\s*[\[(,]?\s*origin(?:\s+choice)?\s*(?:no\.?|at)?\s*([12])\s*[\])]?$", name, re.IGNORECASE)
    if words:
        return words.group(1).strip(), words.group(2)
    words = re.match(r"(.*?)\s*[\[(]?\s*(hexagonal|rhombohedral)(?:\s+axes)?\s*[\])]?$", name, re.IGNORECASE)
    if words:
        return words.group(1).strip(), words.group(2)[0].upper()
    after = re.match(r"(.*?)\s*:\s*([12HR])$", name, re.IGNORECASE)
    if after:
        return after.group(1), after.group(2).upper()
    after = re.match(r"(.*[a-z\d])\s*([SZHR])$", name)
    if after:
        return after.group(1).strip(), {"S": "1", "Z": "2"}.get(after.group(2), after.group(2))
    return name, ""


def _monoclinic(symbol: str, axis: str) -> str:
    """The full form of a short monoclinic symbol, P 21/n -> P 1 1 21/n for "c"; other symbols are not changed."""
    short = re.fullmatch(r"([ABCIFP]) ?(21?|(?:21?/)?[abcmn])", symbol)
    places = {"a": "{} {} 1 1", "b": "{} 1 {} 1", "c": "{} 1 1 {}"}
    return places[axis].format(*short.groups()) if short else symbol


def _short(symbol: str) -> str:
    """The short form of a full symbol, as in the table: P 21/b 21/n 21/m -> P b n m, F 4/m -3 2/m -> F m -3 m."""
    short = re.sub(r"(?<!4)21?/([a-emn])", r"\1", symbol)
    return re.sub(r"4[123]?/([a-emn])(?=\s*-3)", r"\1", short)
