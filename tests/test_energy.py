"""Energies and relaxations against ASE's calculators and optimisers, and what happens when something breaks."""

import contextlib
import functools
import io
import math
import os
import pickle
import subprocess
import sys
import threading
import time
import warnings
from collections import Counter
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.calculators.emt import EMT
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS
from metals import Metals, Unloadable, metals
from pymatgen.core import Element, Lattice, Structure
from pymatgen.io.ase import AseAtomsAdaptor
from samples import random_structures

from chemeleon_cli.core.potentials import energy, potentials, relaxation
from chemeleon_cli.core.potentials.energy import FOUNDATION_MODELS, load_energy_model
from chemeleon_cli.core.potentials.potentials import Chgnet, Dtype, Energy, Mace, batches, fastest
from chemeleon_cli.core.potentials.relaxation import Relaxed, relax
from chemeleon_cli.errors import UserError

SYMBOLS = ("Li", "O", "F", "Na", "Mg", "Si", "S", "Cl", "Ti", "Fe", "Zn", "Sr", "Ba")
UNSAFE = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"


def write_mace(path: Path, dtype: Dtype = "float32", heads: tuple[str, ...] = ("Default",)) -> Path:
    """A small MACE of random weights that knows SYMBOLS, its energies of isolated atoms as large as real ones."""
    torch.manual_seed(0)
    with potentials.quietly(), potentials._default_dtype(dtype):
        from mace.modules import ScaleShiftMACE
        from mace.modules.blocks import RealAgnosticResidualInteractionBlock

        from e3nn import o3  # isort: skip  # after MACE, which lets torch read its constants

        model = ScaleShiftMACE(
            r_max=4.0,
            num_bessel=4,
            num_polynomial_cutoff=5,
            max_ell=1,
            interaction_cls=RealAgnosticResidualInteractionBlock,
            interaction_cls_first=RealAgnosticResidualInteractionBlock,
            num_interactions=2,
            num_elements=len(SYMBOLS),
            hidden_irreps=o3.Irreps("8x0e + 8x1o"),
            MLP_irreps=o3.Irreps("8x0e"),
            atomic_energies=-np.tile(np.linspace(1, 9, len(SYMBOLS)), (len(heads), 1)),
            avg_num_neighbors=12.0,
            atomic_numbers=sorted(Element(symbol).Z for symbol in SYMBOLS),
            correlation=2,
            gate=torch.nn.functional.silu,
            atomic_inter_scale=[1.0] * len(heads),  # type: ignore[arg-type]
            atomic_inter_shift=[0.0] * len(heads),  # type: ignore[arg-type]
            heads=list(heads),
        )
    torch.save(model, path)
    return path


@pytest.fixture(scope="module")
def mace_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mace(tmp_path_factory.mktemp("mace") / "tiny.model")


@pytest.fixture(scope="module")
def chgnet() -> Chgnet:
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()) as said:
        warnings.simplefilter("error")
        model = load_energy_model("chgnet")
    assert isinstance(model, Chgnet)
    assert said.getvalue() == ""
    return model


@functools.cache
def crystals() -> list[Structure]:
    """Of 2 to 12 atoms, not sorted by size."""
    found = random_structures(7, seed=1, max_atoms=12)
    sizes = [len(s) for s in found]
    assert sizes != sorted(sizes)
    return found


def from_ase(calculator, structures: list[Structure]) -> list[float]:
    found = []
    for structure in structures:
        atoms = AseAtomsAdaptor.get_atoms(structure, msonable=False)
        atoms.calc = calculator
        found.append(atoms.get_potential_energy())
    return found


def assert_same(structures: list[Structure], ours: list[Energy], theirs: list[float]) -> None:
    assert [e.problem for e in ours] == [None] * len(structures)
    differences = [abs(a.value - b) / len(s) for s, a, b in zip(structures, ours, theirs, strict=True)]
    assert max(differences) < 1e-5
    assert np.ptp(theirs) > 10, "cells of different energies, or the test sees no mix-up"


def test_chgnet_agrees_with_its_ase_calculator(chgnet: Chgnet) -> None:
    from chgnet.model.dynamics import CHGNetCalculator

    structures = crystals()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = from_ase(CHGNetCalculator(use_device="cpu"), structures)
    try:
        for chgnet.batch_atoms in (1, 20, 10_000):
            assert_same(structures, chgnet.energies(structures), theirs)
    finally:
        chgnet.batch_atoms = None


@pytest.mark.parametrize(("stored", "dtype"), [("float32", "float32"), ("float32", "float64"), ("float64", "float32")])
def test_mace_agrees_with_its_ase_calculator(tmp_path: Path, stored: Dtype, dtype: Dtype) -> None:
    structures = crystals()
    path = write_mace(tmp_path / "m.model", stored)
    model = load_energy_model(str(path), energy_scale="mine", dtype=dtype)
    assert isinstance(model, Mace)
    assert (model.energy_scale, torch.get_default_dtype()) == ("mine", torch.float32)
    from mace.calculators import MACECalculator

    raw = torch.load(path, weights_only=False)
    theirs = from_ase(MACECalculator(models=[raw], default_dtype=dtype), structures)
    for model.batch_atoms in (1, 20, 10_000):
        assert_same(structures, model.energies(structures), theirs)
    assert torch.get_default_dtype() == torch.float32


def test_no_forces_where_only_energies_are_asked(mace_file: Path, chgnet: Chgnet, monkeypatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a gradient was computed")

    model = load_energy_model(str(mace_file))
    monkeypatch.setattr(torch.autograd, "grad", refuse)
    for potential in (model, chgnet):
        assert all(e.problem is None for e in potential.energies(crystals()[:2]))


def impossible() -> dict[str, Structure]:
    nan = Structure(Lattice.cubic(4), ["O", "O"], [[0, 0, 0], [math.nan, 0.5, 0.5]])
    return {
        "cell": nan,
        "distance": Structure(Lattice.cubic(4), ["O", "O"], [[0, 0, 0], [0.05, 0, 0]]),
        "volume": Structure(Lattice.cubic(50), ["O"], [[0, 0, 0]]),
        "trained on Po": Structure(Lattice.cubic(3.4), ["Po"], [[0, 0, 0]]),
    }


def test_what_a_potential_cannot_take_is_nan_with_its_reason(mace_file: Path, chgnet: Chgnet) -> None:
    bad = impossible()
    good = crystals()[:2]
    mixed = [good[0], *bad.values(), good[1]]
    for model in (load_energy_model(str(mace_file)), chgnet):
        found = model.energies(mixed)
        alone = model.energies(good)
        assert [found[0].value, found[-1].value] == pytest.approx([e.value for e in alone], abs=1e-4)
        for reason, result in zip(bad, found[1:-1], strict=True):
            assert math.isnan(result.value)
            assert reason in (result.problem or "")
        assert model.energies([]) == []


def test_a_crystal_that_fails_in_a_batch_does_not_take_the_others_along(chgnet: Chgnet) -> None:
    cluster = [[x, y, z] for x in (-0.14, 0, 0.14) for y in (-0.14, 0, 0.14) for z in (-0.14, 0, 0.14)]
    lonely = Structure(Lattice.cubic(10), ["Si"] * 28, [*cluster, [0.5] * 3])  # nothing within 6 Å of the last one
    good = crystals()
    found = chgnet.energies([good[0], lonely, *good[1:]])
    assert "isolated" in (found[1].problem or "")
    assert math.isnan(found[1].value)
    assert all(math.isfinite(e.value) for e in found[:1] + found[2:])


def test_energies_that_are_not_finite_are_named(mace_file: Path, monkeypatch) -> None:
    model = load_energy_model(str(mace_file))
    assert isinstance(model, Mace)
    structures = crystals()[:3]
    real = model._evaluate

    def broken(batch):
        return [math.inf if s is structures[1] else v for s, v in zip(batch, real(batch), strict=True)]

    monkeypatch.setattr(model, "_evaluate", broken)
    found = model.energies(structures)
    assert found[1].problem == "the energy is not finite"
    assert math.isnan(found[1].value)
    assert all(e.problem is None for e in (found[0], found[2]))


def test_a_bug_is_not_taken_for_a_bad_crystal(mace_file: Path, monkeypatch) -> None:
    model = load_energy_model(str(mace_file))
    monkeypatch.setattr(model, "_evaluate", lambda batch: batch.no_such_thing)
    with pytest.raises(AttributeError):
        model.energies(crystals()[:2])


def test_batches_keep_order_and_size() -> None:
    assert list(batches([7, 3, 5, 1], [2, 2, 3, 9], 5)) == [[7, 3], [5], [1]]
    assert list(batches([], [], 5)) == []


@pytest.mark.parametrize(("overhead", "per_atom", "penalty", "size"), [(0.02, 1e-5, 0, 24), (0.0, 1e-3, 1e-3, 1)])
def test_the_batch_that_is_fastest_is_taken(
    overhead: float, per_atom: float, penalty: float, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backend whose calls cost, and one that suffers from size; with a clock that only it moves."""
    clock = [0.0]
    monkeypatch.setattr(potentials.time, "perf_counter", lambda: clock[0])

    def evaluate(batch) -> None:
        atoms = sum(map(len, batch))
        clock[0] += overhead + per_atom * atoms + penalty * atoms * len(batch)

    assert fastest([crystals()[0]] * 200, evaluate) == size * len(crystals()[0])


def test_a_big_call_measures_once(mace_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_energy_model(str(mace_file))
    assert isinstance(model, Mace)
    calls = []
    monkeypatch.setattr(potentials, "fastest", lambda structures, evaluate: calls.append(len(structures)) or 64)
    monkeypatch.setattr(model, "_evaluate", lambda batch: [0.0] * len(batch))
    small, big = crystals()[:5], crystals()[:5] * 40
    for structures in (small, big, big):
        assert len(model.energies(structures)) == len(structures)
    assert calls == [200]
    assert model.batch_atoms == 64


def test_importing_is_cheap_and_mace_leaves_nothing_behind(mace_file: Path) -> None:
    program = f"""
import os, sys
from chemeleon_cli.core.potentials.energy import load_energy_model
assert not {{"torch", "ase", "pymatgen", "chgnet", "mace"}} & set(sys.modules)
load_energy_model({str(mace_file)!r})
assert {UNSAFE!r} not in os.environ
"""
    env = {k: v for k, v in os.environ.items() if k != UNSAFE}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_a_pickled_model_is_what_it_is_loaded_from(mace_file: Path, chgnet: Chgnet) -> None:
    model = load_energy_model(str(mace_file), energy_scale="mine", dtype="float64")
    for potential in (model, chgnet):
        packed = pickle.dumps(potential)
        assert len(packed) < 1000
        again = pickle.loads(packed)
        assert (again.name, again.energy_scale) == (potential.name, potential.energy_scale)
        structures = crystals()[:2]
        assert [e.value for e in again.energies(structures)] == pytest.approx(
            [e.value for e in potential.energies(structures)], abs=1e-5
        )


# --- names, files, downloads


def test_what_is_no_model_is_said(tmp_path: Path, mace_file: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'chgnet'"):
        load_energy_model("chgnett")
    page = tmp_path / "page.model"
    page.write_text("\n <!DOCTYPE html><html>sign in</html>")
    with pytest.raises(UserError, match="a web page"):
        load_energy_model(str(page))
    assert page.is_file(), "a person's own file is never removed"
    cut = tmp_path / "cut.model"
    cut.write_bytes(mace_file.read_bytes()[:-5000])
    with pytest.raises(UserError, match="part of a file"):
        load_energy_model(str(cut))
    other = tmp_path / "other.model"
    torch.save({"state_dict": {}}, other)
    with pytest.raises(UserError, match="a dict, not a MACE model"):
        load_energy_model(str(other))
    with pytest.raises(UserError, match="heads a, b"):
        load_energy_model(str(write_mace(tmp_path / "heads.model", heads=("a", "b"))))


def test_scales_are_declared_and_cannot_be_contradicted(chgnet: Chgnet, mace_file: Path) -> None:
    assert chgnet.energy_scale == "PBE/MP2020"
    assert FOUNDATION_MODELS["medium-mpa-0"] == "PBE/MP-uncorrected"
    assert load_energy_model(str(mace_file)).energy_scale == "unknown"
    with pytest.raises(UserError, match="PBE/MP2020, not r2SCAN"):
        load_energy_model("chgnet", energy_scale="r2SCAN")
    with pytest.raises(UserError, match="float32"):
        load_energy_model("chgnet", dtype="float64")


def test_every_foundation_name_is_one_of_mace() -> None:
    with potentials.quietly():
        from mace.calculators.foundations_models import mace_mp_urls
    assert set(FOUNDATION_MODELS) <= set(mace_mp_urls)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A server on this machine in place of MACE's, with a cache of its own; answers hold what it sends."""
    answers: list[tuple[int, str, bytes, int]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, kind, body, missing = answers.pop(0)
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body) + missing))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with potentials.quietly():
        from mace.calculators import foundations_models
    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}/mace-mpa-0-medium.model"
    monkeypatch.setitem(foundations_models.mace_mp_urls, "medium-mpa-0", url)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    yield answers, url, tmp_path / "xdg" / "mace" / "macempa0mediummodel"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_download_that_fails_is_named_and_the_next_one_works(site, mace_file: Path) -> None:
    answers, url, cached = site
    model = mace_file.read_bytes()
    page = b"<html><body>Sign in to the hotel's network</body></html>"
    for answer, said in [
        ((200, "text/html", page, 0), "a web page"),
        ((200, "application/octet-stream", page, 0), "a web page"),
        ((200, "application/octet-stream", model[:-3000], 3000), "part of a file"),
        ((200, "application/octet-stream", b"", 0), "empty"),
        ((404, "text/plain", b"gone", 0), "404"),
    ]:
        answers.append(answer)
        with pytest.raises(UserError, match=said) as caught:
            load_energy_model("medium-mpa-0")
        assert url in caught.value.message
        assert str(cached) in caught.value.hint
        assert not list(cached.parent.iterdir()), "nothing is left in MACE's cache"
    answers.append((200, "application/octet-stream", model, 0))
    loaded = load_energy_model("medium-mpa-0")
    assert (loaded.name, loaded.energy_scale) == ("medium-mpa-0", "PBE/MP-uncorrected")
    assert not answers
    assert cached.read_bytes() == model
    assert load_energy_model("medium-mpa-0").energies(crystals()[:1])[0].problem is None


def test_a_broken_file_in_the_cache_is_downloaded_again(site, mace_file: Path) -> None:
    answers, _, cached = site
    cached.parent.mkdir(parents=True)
    cached.write_text("<html>")
    answers.append((200, "application/octet-stream", mace_file.read_bytes(), 0))
    load_energy_model("medium-mpa-0")
    assert cached.read_bytes() == mace_file.read_bytes()


def test_a_server_that_is_not_there_is_said(site, monkeypatch: pytest.MonkeyPatch) -> None:
    from mace.calculators import foundations_models

    monkeypatch.setitem(foundations_models.mace_mp_urls, "small", "http://127.0.0.1:9/small.model")
    with pytest.raises(UserError, match="small could not be downloaded from http://127.0.0.1:9/small.model"):
        energy.load_energy_model("small")


# --- relaxation


def test_relaxed_is_where_another_optimiser_ends(tmp_path: Path) -> None:
    structures = metals()[:3]
    found = relax(Metals(tmp_path / "log"), structures, fmax=0.005, steps=500, processes=1)
    for structure, result in zip(structures, found, strict=True):
        atoms = AseAtomsAdaptor.get_atoms(structure, msonable=False)
        atoms.calc = EMT()
        before = atoms.get_potential_energy()
        BFGS(FrechetCellFilter(atoms), logfile=None).run(fmax=0.001, steps=500)  # type: ignore[arg-type]
        assert (result.converged, result.problem) == (True, None)
        assert 0 < result.fmax < 0.005
        assert 0 < result.steps < 500
        assert result.structure is not None
        assert result.structure.composition == structure.composition
        assert result.energy == pytest.approx(atoms.get_potential_energy(), abs=1e-3)
        assert result.energy < before - 0.01
        assert result.structure.volume == pytest.approx(atoms.get_volume(), rel=5e-3)


def test_workers_keep_order_and_load_the_model_once_each(tmp_path: Path) -> None:
    log = tmp_path / "log"
    model = Metals(log)
    structures = metals() + metals()[::-1]
    done: list[int] = []
    found = relax(model, structures, fmax=0.3, steps=300, processes=2, progress=done.append)
    alone = relax(model, structures, fmax=0.3, steps=300, processes=1)
    loaded = Counter(log.read_text().split())
    assert loaded.pop(str(os.getpid())) == 1
    assert len(loaded) == 2
    assert set(loaded.values()) == {1}
    for ours, theirs in zip(found, alone, strict=True):
        assert ours.structure is not None
        assert ours.structure == theirs.structure
        assert (ours.energy, ours.fmax, ours.steps) == (theirs.energy, theirs.fmax, theirs.steps)
    assert min(r.steps for r in found) > 0
    assert done[-1] == len(structures)
    assert done == sorted(set(done))


def gold_and_others(found: list[Relaxed]) -> Relaxed:
    others = found[:2] + found[3:]
    assert all(r.converged and r.problem is None and r.structure is not None for r in others)
    gold = found[2]
    assert gold.structure is None and not gold.converged and math.isnan(gold.energy)
    return gold


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        ("raises", "ValueError: no such metal"),
        ("nan", "not finite after 0 steps"),
        ("explodes", "exploded after"),
        ("collapses", "collapsed after"),
    ],
)
def test_a_crystal_that_goes_wrong_is_marked_and_the_rest_go_on(tmp_path: Path, trouble: str, said: str) -> None:
    found = relax(Metals(tmp_path / "log", trouble), metals(), fmax=0.3, steps=2000, processes=1)
    assert said in (gold_and_others(found).problem or "")


def test_a_worker_that_dies_marks_its_crystal_and_the_rest_go_on(tmp_path: Path) -> None:
    found = relax(Metals(tmp_path / "log", "dies"), metals(), fmax=0.3, steps=300, processes=2)
    assert gold_and_others(found).problem == "the worker process died (exit code 7)"


def test_a_worker_that_hangs_in_a_step_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relaxation, "GRACE", 1.0)
    start = time.monotonic()
    found = relax(Metals(tmp_path / "log", "hangs"), metals(), fmax=0.3, steps=300, seconds=8.0, processes=2)
    assert "hanging" in (gold_and_others(found).problem or "")
    assert time.monotonic() - start < 300, "gold sleeps for 1000 s"


def test_a_bug_in_a_worker_keeps_its_traceback(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"crystal 2:\n(.|\n)*a bug in the calculator"):
        relax(Metals(tmp_path / "log", "bug"), metals(), fmax=0.3, steps=5, processes=2)


def test_workers_that_cannot_start_do_not_start_for_ever(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="no worker process"):
        relax(Unloadable(tmp_path / "log"), metals(), fmax=0.3, steps=5, processes=2)


def test_what_does_not_converge_is_marked_and_kept(tmp_path: Path) -> None:
    (few,) = relax(Metals(tmp_path / "log"), metals()[:1], fmax=1e-6, steps=3)
    assert few.structure is not None
    assert (few.steps, few.converged) == (3, False)
    assert few.fmax > 1e-6 and math.isfinite(few.energy)
    assert "not converged in 3 steps" in (few.problem or "")


def test_the_time_limit_stops_a_relaxation(tmp_path: Path) -> None:
    start = time.monotonic()
    (late,) = relax(Metals(tmp_path / "log", "slow"), metals()[:1], fmax=1e-9, steps=100_000, seconds=0.5)
    assert time.monotonic() - start < 60, "all steps would take more than an hour"
    assert late.structure is not None
    assert "stopped after 0.5 s" in (late.problem or "")


def test_both_backends_relax_and_leave_out_what_they_cannot(mace_file: Path, chgnet: Chgnet) -> None:
    salt = Structure(Lattice(np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]]) * 2.95), ["Na", "Cl"], [[0, 0, 0], [0.5] * 3])
    polonium = impossible()["trained on Po"]
    for model, fmax, steps in ((chgnet, 0.05, 60), (load_energy_model(str(mace_file), dtype="float64"), 1e-4, 3)):
        refused, relaxed = model.relax([polonium, salt], fmax, steps, processes=1)
        assert "was not trained on Po" in (refused.problem or "")
        assert refused.structure is None
        assert relaxed.structure is not None
        assert relaxed.energy == pytest.approx(model.energies([relaxed.structure])[0].value, abs=2e-4)
        assert relaxed.energy < model.energies([salt])[0].value
        if model is chgnet:
            assert relaxed.converged
            assert relaxed.structure.volume * 4 == pytest.approx(5.69**3, rel=0.03)  # PBE's NaCl: 5.69 Å
