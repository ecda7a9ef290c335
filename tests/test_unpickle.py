"""Checkpoints of others: read without executing them, whatever is in the file."""

import contextlib
import functools
import io
import os
import pickle
import sys
import zipfile
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import published_files
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chemeleon_cli.core.chemeleon2 import unpickle
from chemeleon_cli.core.chemeleon2.unpickle import Archive, Global, Stub, TensorRef, entries, stubs
from chemeleon_cli.errors import UserError


class Calls:
    """Pickles as a call of `function`."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.function, self.args = function, args

    def __reduce__(self) -> Any:
        return self.function, self.args


def named(module: str, name: str) -> Any:
    """A function that pickle writes down as this one, without there being one."""
    return Named(f"{module} {name}")


class Named:
    def __init__(self, name: str) -> None:
        self.name = name


class Pickler(pickle._Pickler):  # type: ignore[name-defined]
    def save(self, obj: Any, save_persistent_id: bool = True) -> None:
        if isinstance(obj, Named):
            self.write(b"c" + obj.name.replace(" ", "\n").encode() + b"\n")
        elif isinstance(obj, Calls):
            self.save(obj.function)
            self.save(obj.args)
            self.write(b"R")
        else:
            super().save(obj, save_persistent_id)


def program(content: Any, protocol: int = 2) -> bytes:
    buffer = io.BytesIO()
    Pickler(buffer, protocol).dump(content)
    return buffer.getvalue()


def written(path: Path, data: bytes, **others: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/byteorder", b"little")
        for name, content in others.items():
            archive.writestr(f"archive/data/{name.removeprefix('_')}", content)
    return path


def read(path: Path, content: Any, protocol: int = 2) -> Any:
    return Archive(written(path, program(content, protocol))).content


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file.ckpt"


def test_what_torch_saves_comes_back(path: Path):
    base = torch.arange(24.0)
    tensors = {
        "whole": base,
        "view": base.view(4, 6).T[1:3],
        "half": torch.randn(3).half(),
        "bf16": torch.randn(3).bfloat16(),
        "long": torch.tensor([[1, 2]]),
        "flag": torch.tensor(True),
        "none": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(torch.randn(2, 2)),
    }
    plain = {"a": [1, -2, 2**40, 0.5, None, True, "ä"], ("k", 1): ((), {"s"}), 3: OrderedDict(x=1)}
    torch.save({"plain": plain, "state_dict": OrderedDict(tensors)}, path)
    archive = Archive(path)
    again = archive.content["plain"]
    assert entries(again.pop(3)) == {"x": 1}
    assert again == {k: v for k, v in plain.items() if k != 3}
    refs = entries(archive.content["state_dict"])
    assert all(isinstance(ref, TensorRef) for ref in refs.values())
    for name, tensor in archive.tensors(refs).items():
        assert tensor.dtype == tensors[name].dtype
        assert torch.equal(tensor, tensors[name]), name


def test_objects_become_stubs_and_their_packages_are_not_imported(path: Path):
    autoencoder = published_files.vae()
    published_files.save_vae(path, autoencoder)
    found = entries(Archive(path).content["hyper_parameters"])
    assert found["encoder"].name == "src.vae_module.encoders.transformer.TransformerEncoder"
    assert [s.state["num_heads"] for s in stubs(found["encoder"], "MultiheadAttention")] == [4, 4]
    assert found["optimizer"].name == "functools.partial"
    assert found["matcher"].state["ltol"] == 0.2
    assert entries(Archive(path).content)["epoch"] == 3
    assert not {"src", "omegaconf", "lightning"} & set(sys.modules)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),
        ("posix", "system"),
        ("subprocess", "Popen"),
        ("builtins", "eval"),
        ("builtins", "exec"),
        ("builtins", "getattr"),
        ("builtins", "__import__"),
        ("__builtin__", "eval"),
        ("builtins", "bytearray"),
        ("importlib", "import_module"),
        ("pickle", "loads"),
        ("_pickle", "Unpickler"),
        ("operator", "attrgetter"),
        ("types", "FunctionType"),
        ("typing", "Union"),
        ("numpy", "load"),
        ("torchvision", "Model"),
        ("chemeleon_cli.errors", "UserError"),
        ("", "x"),
    ],
)
def test_a_global_outside_the_list_is_refused_by_name(path: Path, module: str, name: str):
    for content in (named(module, name), Calls(named(module, name), "echo"), {"deep": [{"in": named(module, name)}]}):
        with pytest.raises(UserError, match="refused") as error:
            read(path, content)
        assert f"{module}.{name}" in error.value.message


def test_os_system_in_reduce_is_not_run(path: Path):
    marker = path.with_name("marker")
    torch.save({"state_dict": {}, "evil": Calls(os.system, f"touch {marker}")}, path)
    with pytest.raises(UserError, match=r"names (posix|nt)\.system"):
        Archive(path)
    assert not marker.exists()
    with pytest.raises(UserError, match=r"names (posix|nt)\.system"):
        read(path, functools.partial(os.system, f"touch {marker}"))
    assert not marker.exists()


@pytest.mark.parametrize(
    "function",
    ["torch.hub load", "torch load", "torch.storage _load_from_bytes", "torch.serialization os.system", "src.run main"],
)
def test_functions_of_allowed_packages_are_not_called(path: Path, function: str):
    marker = path.with_name("marker")
    nested = pickle.dumps(Calls(os.system, f"touch {marker}"))
    with pytest.raises(UserError, match="refused: it calls " + function.replace(" ", r"\.")):
        read(path, Calls(Named(function), nested), 4)
    partial = read(path, Calls(named("functools", "partial"), Named(function), nested), 4)
    assert isinstance(partial, Stub) and partial.args == (Global(function.replace(" ", ".")), nested)
    assert not marker.exists()


def test_classes_of_allowed_packages_are_inert(path: Path):
    before = set(sys.modules)
    made = Calls(named("torch.utils.data.datapipes.nonexistent", "Evil"), "x")
    assert read(path, made).args == ("x",)
    assert read(path, defaultdict(list, a=[1])).items == {"a": [1]}
    builtins = [dict, set, list, tuple, int, float, str, bool]
    for protocol in (2, 4):  # protocol 2 calls int long and str unicode
        assert read(path, [Any, *builtins], protocol) == [Global("typing.Any"), *(Global(b.__name__) for b in builtins)]
    assert set(sys.modules) - before == set()


def test_a_second_pickle_in_the_file_is_refused(path: Path):
    marker = path.with_name("marker")
    with pytest.raises(UserError, match="followed by something else"):
        Archive(written(path, program({}) + pickle.dumps(Calls(os.system, f"touch {marker}"))))
    assert not marker.exists()


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"\x80\x02(S'x'\nios\nsystem\n.", "opcode STRING"),
        (b"\x80\x02(U\x01xios\nsystem\n.", "opcode"),
        (b"\x80\x02\x82\x01.", "opcode EXT1"),
        (b"\x80\x02K\x01}b.", "sets the state of a int"),
        (b"\x80\x02]K\x01K\x02s.", "sets items of a list"),
        (b"\x80\x02}K\x01a.", "appends to a dict"),
        (b"\x80\x02K\x01)R.", "calls a int"),
        (b"\x80\x02h\x05.", "broken"),
        (b"\x80\x02.", "does not end in one object"),
        (b"\x80\x02K\x01K\x02.", "does not end in one object"),
        (b"\x80\x02]", "broken"),
        (b"", "broken"),
        (b"\x80\x02}]K\x01s.", "a list of objects as a key"),
        (b"\x80\x02cbuiltins\nint\n]\x85R.", "calls int"),
        (b"\x80\x02X\x01\x00\x00\x00xQ.", "no storage"),
    ],
)
def test_what_no_torch_file_has_is_refused(path: Path, data: bytes, why: str):
    with pytest.raises(UserError, match="refused") as error:
        Archive(written(path, data))
    assert why in error.value.message


def test_hashes_and_text_that_take_for_ever_are_not_computed(path: Path):
    doubled = b"\x80\x02" + b")" + b"q\x00h\x00\x86" * 60  # (((), ()), ...): 2^60 leaves in 60 objects
    with pytest.raises(UserError, match="as a key"):
        Archive(written(path, b"\x80\x02}" + doubled[2:] + b"K\x01s."))
    with pytest.raises(UserError, match="calls str"):
        Archive(written(path, b"\x80\x02cbuiltins\nstr\n" + doubled[2:] + b"\x85R."))
    assert isinstance(Archive(written(path, doubled + b"r\xff\xff\xff\xff.")).content, tuple)  # memo 2^32 - 1


def tensor(storage: tuple[Any, ...], *shape: Any) -> Any:
    class Persistent(Pickler):
        def persistent_id(self, obj: Any) -> Any:
            return storage if obj is storage else None

    buffer = io.BytesIO()
    call = Calls(named("torch._utils", "_rebuild_tensor_v2"), storage, *shape, False, OrderedDict())
    Persistent(buffer, 2).dump(call)
    return buffer.getvalue()


FLOATS = named("torch", "FloatStorage")


@pytest.mark.parametrize(
    ("storage", "shape", "why"),
    [
        (("storage", FLOATS, "0", "cpu", 5), (0, (4,), (1,)), "has 16 bytes, and its pickle says 5"),
        (("storage", FLOATS, "1", "cpu", 4), (0, (4,), (1,)), "lacks"),
        (("storage", FLOATS, "../data.pkl", "cpu", 4), (0, (4,), (1,)), "lacks"),
        (("storage", FLOATS, "0", "cpu", "4"), (0, (4,), (1,)), "its pickle says 4"),
        (("storage", named("torch", "QUInt8Storage"), "0", "cpu", 4), (0, (4,), (1,)), "unknown kind"),
        (("storage", FLOATS, "0", "cpu", 4), (0, (5,), (1,)), "does not fit"),
        (("storage", FLOATS, "0", "cpu", 4), (1, (4,), (1,)), "does not fit"),
        (("storage", FLOATS, "0", "cpu", 4), (0, (2, 2), (4, 1)), "does not fit"),
        (("storage", FLOATS, "0", "cpu", 4), (0, (10**9,), (0,)), "does not fit"),
        (("storage", FLOATS, "0", "cpu", 4), (0, (4,), (-1,)), "whose offset"),
        (("storage", FLOATS, "0", "cpu", 4), (-1, (4,), (1,)), "whose offset"),
        (("storage", FLOATS, "0", "cpu", 4), (0, (4,), (1, 1)), "whose offset"),
        (("storage", FLOATS, "0", "cpu", 4), (0, [4], (1,)), "without storage"),
    ],
)
def test_tensors_are_checked_against_the_archive(path: Path, storage: tuple, shape: tuple, why: str):
    with pytest.raises(UserError, match="refused") as error:
        Archive(written(path, tensor(storage, *shape), _0=bytes(16)))
    assert why in error.value.message


def test_a_tensor_within_its_storage_is_read(path: Path):
    data = torch.arange(4.0).numpy().tobytes()
    archive = Archive(written(path, tensor(("storage", FLOATS, "0", "cpu", 4), 1, (2,), (2,)), _0=data))
    assert archive.tensors({"x": archive.content})["x"].tolist() == [1.0, 3.0]


def test_zip_bombs_are_refused(path: Path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", program({}))
        archive.writestr("archive/data/0", bytes(10**7))
    with pytest.raises(UserError, match="compressed"):
        Archive(path)
    with zipfile.ZipFile(path, "w") as archive:  # many entries that are one and the same
        archive.writestr("archive/data.pkl", program({}))
        archive.writestr("archive/data/0", bytes(10**6))
        for i in range(1, 50):
            info = zipfile.ZipInfo(f"archive/data/{i}")
            one = archive.getinfo("archive/data/0")
            info.file_size = info.compress_size = one.file_size
            info.CRC, info.header_offset = one.CRC, one.header_offset
            archive.filelist.append(info)
    with pytest.raises(UserError, match="more bytes than the file has"):
        Archive(path)


def test_a_long_program_or_many_entries_are_refused(path: Path, monkeypatch: pytest.MonkeyPatch):
    written(path, program(list(range(1000))))
    monkeypatch.setattr(unpickle, "MAX_PROGRAM", 1000)
    with pytest.raises(UserError, match="its pickle has"):
        Archive(path)
    monkeypatch.setattr(unpickle, "MAX_ENTRIES", 1)
    with pytest.raises(UserError, match="2 entries"):
        Archive(path)


@pytest.mark.parametrize("name", ["archive/../../x", "archive//x", "archive/a\\b", "other/data.pkl", "archive/", "x"])
def test_names_that_torch_never_writes_are_refused(path: Path, name: str):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", program({}))
        archive.writestr(name, b"")
    with pytest.raises(UserError, match="refused"):
        Archive(path)


def test_big_endian_numbers_are_refused(path: Path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", program({}))
        archive.writestr("archive/byteorder", b"big")
    with pytest.raises(UserError, match="little-endian"):
        Archive(path)


def test_a_cut_file_and_other_files_are_said(path: Path):
    torch.save({"x": torch.randn(50)}, path)
    whole = path.read_bytes()
    for length in range(0, len(whole), 97):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match="cannot be read as a checkpoint"):
            Archive(path)
    for content in (b"not a zip", pickle.dumps({"state_dict": {}})):
        path.write_bytes(content)
        with pytest.raises(UserError, match="cannot be read as a checkpoint"):
            Archive(path)
    with pytest.raises(UserError, match="cannot be read as a checkpoint"):
        Archive(path.with_name("nothing"))
    damaged = bytearray(whole)
    damaged[whole.index(torch.load(io.BytesIO(whole), weights_only=True)["x"].numpy().tobytes())] ^= 1
    path.write_bytes(damaged)
    archive = Archive(path)
    with pytest.raises(UserError, match="CRC"):
        archive.tensors({"x": archive.content["x"]})


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_damage_to_the_pickle_does_more_than_refuse(path: Path, data: st.DataObject):
    content = {"a": (1, [2.5, "x"]), "o": OrderedDict(z=None), "p": functools.partial(OrderedDict, 3), "s": {1, 2}}
    written(path, damaged(data, program(content)))
    with contextlib.suppress(UserError):
        Archive(path)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_damage_to_the_file_does_more_than_refuse(path: Path, data: st.DataObject):
    torch.save({"x": torch.arange(3.0)}, path)
    path.write_bytes(damaged(data, path.read_bytes()))
    with contextlib.suppress(UserError):
        archive = Archive(path)
        archive.tensors({k: ref for k, ref in entries(archive.content).items() if isinstance(ref, TensorRef)})


def damaged(data: st.DataObject, content: bytes) -> bytes:
    out = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(out) - 1))
        out[at : at + 1] = data.draw(st.binary(min_size=0, max_size=2))
    return bytes(out)
