"""The table of published data sets: where each is downloaded, its licence and its credit. Nothing is read here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Download:
    """One file of a set.

    Attributes:
        name: its name in the cache.
        address: its URL, which contains the revision, so that the file cannot change.
        checksum: `sha256:` and its hex digest, or `git:` and the id of its content in git.
    """

    name: str
    address: str
    checksum: str


@dataclass(frozen=True)
class PublishedSet:
    """A published data set.

    Attributes:
        crystals: the approximate number of crystals.
        megabytes: the approximate size of the download.
        licence: the licence of the data.
        credit: the publications to cite.
        files: tables that are called train, val and test, or archives of them.
        columns: the names of labels here, by the columns of the data set.
    """

    crystals: int
    megabytes: int
    licence: str
    credit: str
    files: tuple[Download, ...]
    columns: Mapping[str, str] = field(default_factory=dict)


_CDVAE = "https://raw.githubusercontent.com/txie-93/cdvae/f857f598d6f6cca5dc1ea0582d228f12dcc2c2ea/data"
_MATTERGEN = "https://media.githubusercontent.com/media/microsoft/mattergen/ac9ddd406171138c3f037d06b9b53fedbbb1c536"


def _cdvae(folder: str, train: str, val: str, test: str) -> tuple[Download, ...]:
    checksums = {"train": train, "val": val, "test": test}
    return tuple(Download(f"{s}.csv", f"{_CDVAE}/{folder}/{s}.csv", checksum) for s, checksum in checksums.items())


SETS: dict[str, PublishedSet] = {
    "mp-20": PublishedSet(
        crystals=45_200,
        megabytes=65,
        licence="CC BY 4.0 (Materials Project); the selection MIT (CDVAE)",
        credit="Jain et al., APL Materials 1, 011002 (2013); Xie et al., arXiv:2110.06197",
        files=_cdvae(
            "mp_20",
            train="git:b1c9d498565ac2fd8d075a51ff2ef5e51ba6c21f",
            val="git:7efe4d7ebeb4f460ceaad35e5326c42111d9c9a1",
            test="git:5dc643041df53f5ce4970a79930ad262b4f07acd",
        ),
    ),
    "perov-5": PublishedSet(
        crystals=18_928,
        megabytes=18,
        licence="MIT (CDVAE's selection from the Computational Materials Repository)",
        credit="Castelli et al., Energy Environ. Sci. 5, 9034 (2012); Xie et al., arXiv:2110.06197",
        files=_cdvae(
            "perov_5",
            train="git:0769074b5d51d293b765c4371b8f55c468c9c9f2",
            val="sha256:326f401219901270374b71e2faff63df3a29a99fd26f469993b9f476b693daf2",
            test="sha256:a85878c685037f0a578257f6d4fcdde00e968dbab73c5f1e90ecef65218513f6",
        ),
    ),
    "carbon-24": PublishedSet(
        crystals=10_153,
        megabytes=12,
        licence="MIT (CDVAE's selection from Materials Cloud 2020.0026)",
        credit="Pickard, doi:10.24435/materialscloud:2020.0026/v1 (2020); Xie et al., arXiv:2110.06197",
        files=_cdvae(
            "carbon_24",
            train="git:5e7ae970fbad8ddc46b6963e8cd6e425f11783a6",
            val="sha256:36c00689cd63073c954a58bc6ed6e2adb7aeed5a630c994970959a1babffd50e",
            test="sha256:386b17c08816f434818d51e46687bf72ff3f92348f3ba24823e4758f1fe8a969",
        ),
    ),
    "alex-mp-20": PublishedSet(
        crystals=600_000,
        megabytes=187,
        licence="CC BY 4.0 (Alexandria, Materials Project)",
        credit="Schmidt et al., doi:10.24435/materialscloud:m7-50 (2022); Jain et al., APL Materials 1, 011002 (2013); "
        "Zeni et al., Nature 639, 624 (2025)",
        files=(
            Download(
                "alex_mp_20.zip",
                f"{_MATTERGEN}/data-release/alex-mp/alex_mp_20.zip",
                "sha256:6688e652e45fac4ac8b016dbc4a3280afde9ba687bdacfd8c676775ed19b6228",
            ),
        ),
        columns={
            "energy_above_hull": "e_above_hull",
            "dft_band_gap": "band_gap",
            "space_group": "spacegroup.number",
            "dft_bulk_modulus": "bulk_modulus",
            "dft_mag_density": "magnetic_density",
        },
    ),
}
"""The published data sets by name; `columns` gives labels the same names whatever their source."""
NAMES = ("starter", *SETS)
"""What a recipe may name; `starter` comes with the program."""
