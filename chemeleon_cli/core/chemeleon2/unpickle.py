"""A torch checkpoint read without executing it.

A pickle is a program, and `pickle.load` runs it. Here it is walked instead: every opcode is interpreted on
plain values, nothing is imported and nothing is called. An object of a class becomes a `Stub` that remembers
what the file says of it; a tensor becomes a `TensorRef`, checked against the archive and read only when it is
asked for.
"""

from __future__ import annotations

import math
import pickletools
import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from chemeleon_cli.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

ROOTS = ("src", "torch", "lightning", "omegaconf", "functools", "pymatgen", "collections")
"""Packages whose classes may be named; what is made of them is a `Stub`."""
BUILTINS: dict[str, Callable[..., Any]] = {t.__name__: t for t in (dict, set, list, tuple, int, float, str, bool)}
PROTOCOL_2 = {"long": "int", "unicode": "str"}
"""What protocol 2 calls some of them, in `__builtin__`."""
STUB_FUNCTIONS = ("functools.partial", "collections.defaultdict", "collections.deque", "torch.device")
"""Classes whose names are written small."""
STORAGES = {
    "DoubleStorage": ("float64", 8),
    "FloatStorage": ("float32", 4),
    "HalfStorage": ("float16", 2),
    "BFloat16Storage": ("bfloat16", 2),
    "LongStorage": ("int64", 8),
    "IntStorage": ("int32", 4),
    "ShortStorage": ("int16", 2),
    "CharStorage": ("int8", 1),
    "ByteStorage": ("uint8", 1),
    "BoolStorage": ("bool", 1),
}
MAX_ENTRIES = 100_000
MAX_PROGRAM = 64 * 2**20
"""Bytes of the pickle itself, which holds no numbers of tensors."""
UNREADABLE = (zipfile.BadZipFile, OSError, EOFError, RuntimeError, ValueError, OverflowError, struct.error)
"""What zipfile raises for a file that is broken in one way or another."""
SCALARS = (str, bytes, int, float, bool, type(None))
PUSHED = {
    *("NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
}
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}


@dataclass(frozen=True)
class Global:
    """The name of a class or function; the thing itself is never imported."""

    name: str


@dataclass(eq=False)
class Stub:
    """What a file says of an object: its class, the arguments it was made with, its state and its items."""

    name: str
    args: tuple[Any, ...] = field(repr=False)
    state: Any = field(default=None, repr=False)
    items: dict[Any, Any] = field(default_factory=dict, repr=False)
    elements: list[Any] = field(default_factory=list, repr=False)


@dataclass(frozen=True)
class _Storage:
    """A block of numbers of the archive: its entry below `data/`, torch's name of their kind, how many."""

    key: str
    dtype: str
    numel: int


@dataclass(frozen=True)
class TensorRef:
    """A tensor of the archive that has not been read.

    Attributes:
        key: entry below `data/`.
        dtype: torch's name of it.
        offset: of its first number in the storage.
        shape: of the tensor.
        stride: of the tensor, in numbers.
    """

    key: str
    dtype: str
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class Archive:
    """A torch zip file.

    Args:
        path: of the file.

    Attributes:
        content: what its pickle says, with `Stub`, `Global` and `TensorRef` in place of objects.

    Raises:
        UserError: it is no such file, is cut or inconsistent, or names something that may not be named.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with zipfile.ZipFile(path) as archive:
                self._entries, self._top = _entries(archive, path)
                if self._entries.get("byteorder") and self._read(archive, "byteorder") != b"little":
                    raise _refused(path, "its numbers are not little-endian")
                if self._entries["data.pkl"].file_size > MAX_PROGRAM:
                    raise _refused(path, f"its pickle has {self._entries['data.pkl'].file_size} bytes")
                program = self._read(archive, "data.pkl")
        except UNREADABLE as error:
            hint = "copy or download it again; a checkpoint is a zip file that torch.save or Lightning wrote"
            raise UserError(f"{path}: cannot be read as a checkpoint: {error}", hint) from error
        self.content = _Walk(program, self).run()

    def tensors(self, refs: dict[str, TensorRef]) -> dict[str, Tensor]:
        """Read tensors; several of one storage share its memory.

        Raises:
            UserError: an entry cannot be read whole.
        """
        import torch

        storages: dict[str, Tensor] = {}
        try:
            with zipfile.ZipFile(self.path) as archive:
                for ref in refs.values():
                    if ref.key not in storages:
                        data = bytearray(self._read(archive, f"data/{ref.key}"))
                        dtype = getattr(torch, ref.dtype)
                        storages[ref.key] = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
        except UNREADABLE as error:
            raise UserError(f"{self.path}: cannot be read: {error}", "copy or download it again") from error
        return {n: storages[r.key].as_strided(r.shape, r.stride, r.offset) for n, r in refs.items()}

    def count(self, key: str, dtype: str, size: int, numel: Any) -> None:
        """Check that a storage's entry is there and has as many numbers as the pickle says."""
        info = self._entries.get(f"data/{key}")
        if info is None:
            raise _refused(self.path, f"its tensors need an entry data/{key}, which it lacks")
        if not isinstance(numel, int) or info.file_size != numel * size:
            raise _refused(self.path, f"data/{key} has {info.file_size} bytes, and its pickle says {numel} {dtype}")

    def _read(self, archive: zipfile.ZipFile, name: str) -> bytes:
        info = self._entries[name]
        data = archive.read(info)  # checks the CRC
        if len(data) != info.file_size:
            raise EOFError(f"{name} has {len(data)} of {info.file_size} bytes")
        return data


def _entries(archive: zipfile.ZipFile, path: Path) -> tuple[dict[str, zipfile.ZipInfo], str]:
    """Entries by their name below the one top folder, and that folder.

    torch stores without compression, so a file that declares more than its own size is a bomb.
    """
    infos = archive.infolist()
    if len(infos) > MAX_ENTRIES:
        raise _refused(path, f"it has {len(infos)} entries")
    found: dict[str, zipfile.ZipInfo] = {}
    tops = {info.filename.partition("/")[0] for info in infos}
    for info in infos:
        name = info.filename.partition("/")[2]
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size or info.flag_bits & 1:
            raise _refused(path, f"its entry {info.filename!r} is compressed or encrypted, as torch never does")
        if not name or name in found or "\\" in name or {"", ".", ".."} & set(name.split("/")):
            raise _refused(path, f"its entry {info.filename!r} is named as torch never does")
        found[name] = info
    if sum(info.file_size for info in infos) > path.stat().st_size:
        raise _refused(path, "its entries declare more bytes than the file has")
    if len(tops) != 1 or "data.pkl" not in found:
        raise _refused(path, "it is a zip file, but not one of torch.save (no data.pkl)")
    return found, tops.pop()


def _refused(path: Path, why: str) -> UserError:
    return UserError(f"{path}: refused: {why}", "take checkpoints only from where you trust the author")


class _Walk:
    """One walk over a pickle's opcodes; see the module."""

    def __init__(self, program: bytes, archive: Archive) -> None:
        self.program, self.archive = program, archive
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        last = -1
        try:
            for opcode, argument, position in pickletools.genops(self.program):
                last = position or 0
                self._do(opcode.name, argument)
        except (ValueError, TypeError, OverflowError, IndexError, KeyError, struct.error) as error:
            self._refuse(f"its pickle is broken after byte {last}: {error}")
        if last + 1 != len(self.program):
            self._refuse("its pickle is followed by something else")
        if len(self.stack) != 1 or self.marks:
            self._refuse("its pickle is broken: it does not end in one object")
        return self.stack[0]

    def _refuse(self, why: str) -> NoReturn:
        raise _refused(self.archive.path, why)

    def _do(self, name: str, argument: Any) -> None:
        stack, memo = self.stack, self.memo
        if name in PUSHED:
            stack.append(CONSTANTS.get(name, argument))
        elif name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if name == "MEMOIZE" else argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name in ("EMPTY_DICT", "EMPTY_LIST", "EMPTY_SET", "EMPTY_TUPLE"):
            stack.append({"DICT": dict, "LIST": list, "SET": set, "TUPLE": tuple}[name[6:]]())
        elif name == "MARK":
            self.marks.append(stack)
            self.stack = []
        elif name in ("TUPLE", "LIST", "FROZENSET"):
            kind = {"TUPLE": tuple, "LIST": list, "FROZENSET": lambda items: frozenset(map(self._key, items))}[name]
            items = self._marked()
            self.stack.append(kind(items))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            items = [stack.pop() for _ in range(int(name[-1]))]
            stack.append(tuple(reversed(items)))
        elif name in ("APPEND", "APPENDS", "ADDITEMS"):
            items = [stack.pop()] if name == "APPEND" else self._marked()
            self._add(self.stack[-1], items)
        elif name in ("SETITEM", "SETITEMS", "DICT"):
            items = [stack.pop(), stack.pop()][::-1] if name == "SETITEM" else self._marked()
            if name == "DICT":
                self.stack.append({})
            self._set(self.stack[-1], items)
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            if name == "GLOBAL":
                module, _, attribute = argument.partition(" ")
            else:
                attribute, module = stack.pop(), stack.pop()
            stack.append(self._global(module, attribute))
        elif name in ("REDUCE", "NEWOBJ", "NEWOBJ_EX"):
            named = stack.pop() if name == "NEWOBJ_EX" else {}
            args, function = stack.pop(), stack.pop()
            stack.append(self._made(function, args, named))
        elif name == "BUILD":
            state = stack.pop()
            if isinstance(stack[-1], Stub):
                stack[-1].state = state
            elif not isinstance(stack[-1], TensorRef):
                self._refuse(f"it sets the state of a {type(stack[-1]).__name__}")
        elif name == "BINPERSID":
            stack.append(self._storage(stack.pop()))
        elif name not in ("PROTO", "FRAME", "STOP"):
            self._refuse(f"its pickle has the opcode {name}, which torch never writes")

    def _marked(self) -> list[Any]:
        items, self.stack = self.stack, self.marks.pop()
        return items

    def _key(self, key: Any) -> Any:
        """A key of a dict or a set: nothing whose hash could take long."""
        flat = key if isinstance(key, tuple) else (key,)
        if not all(isinstance(part, (*SCALARS, Global)) for part in flat):
            self._refuse(f"it has a {type(key).__name__} of objects as a key")
        return key

    def _add(self, target: Any, items: list[Any]) -> None:
        if isinstance(target, set):
            target.update(map(self._key, items))
        elif isinstance(target, list | Stub):
            (target if isinstance(target, list) else target.elements).extend(items)
        else:
            self._refuse(f"it appends to a {type(target).__name__}")

    def _set(self, target: Any, items: list[Any]) -> None:
        if not isinstance(target, dict | Stub) or len(items) % 2:
            self._refuse(f"it sets items of a {type(target).__name__}")
        pairs = zip(map(self._key, items[::2]), items[1::2], strict=True)
        (target if isinstance(target, dict) else target.items).update(pairs)

    def _global(self, module: Any, attribute: Any) -> Global:
        if not isinstance(module, str) or not isinstance(attribute, str):
            self._refuse("it names something by other than words")  # and words are not made of what may be huge
        name = f"{module}.{attribute}"
        builtin = PROTOCOL_2.get(attribute, attribute) if module == "__builtin__" else attribute
        if module in ("builtins", "__builtin__") and builtin in BUILTINS:
            return Global(builtin)
        if name != "typing.Any" and name.partition(".")[0] not in ROOTS:
            self._refuse(f"it names {name}, which no Chemeleon2 checkpoint needs")
        return Global(name)

    def _made(self, function: Any, args: Any, named: Any) -> Any:
        """What the file says comes of calling `function`, without calling it."""
        if not isinstance(function, Global) or not isinstance(args, tuple) or not isinstance(named, dict):
            self._refuse(f"it calls a {type(function).__name__}")
        name, last = function.name, function.name.rpartition(".")[2]
        if name in BUILTINS:
            return self._plain(name, args)
        if name == "torch._utils._rebuild_tensor_v2":
            return self._tensor(*args[:4])
        if name in ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state"):
            return args[0]
        if name not in STUB_FUNCTIONS and not last.lstrip("_")[:1].isupper():
            self._refuse(f"it calls {name}, which is not a class")
        return Stub(name, args, items={self._key(k): v for k, v in named.items()})

    def _plain(self, name: str, args: tuple[Any, ...]) -> Any:
        """A builtin type of nothing or one plain value."""
        if name in ("int", "float", "str", "bool"):
            fits = all(isinstance(arg, SCALARS) for arg in args)
        else:
            fits = all(isinstance(arg, list | tuple | set | dict) for arg in args)
        if len(args) > 1 or not fits:
            self._refuse(f"it calls {name} with something else than a plain value")
        if name == "set":
            return set(map(self._key, args[0] if args else ()))
        if name == "dict" and args and not isinstance(args[0], dict):
            self._refuse("it makes a dict of something else than a dict")
        return BUILTINS[name](*args)

    def _storage(self, name: Any) -> _Storage:
        """The storage that the pickle points to, which is there and of the right size."""
        if not isinstance(name, tuple) or len(name) != 5 or name[0] != "storage":
            self._refuse("it points outside itself to something that is no storage")
        kind, key, numel = name[1], name[2], name[4]
        kind = kind.name.rpartition(".")[2] if isinstance(kind, Global) else ""
        if kind not in STORAGES or not isinstance(key, str):
            self._refuse(f"it has a storage of the unknown kind {kind!r}")
        dtype, size = STORAGES[kind]
        self.archive.count(key, dtype, size, numel)
        return _Storage(key, dtype, numel)

    def _tensor(self, storage: Any = None, offset: Any = None, shape: Any = None, stride: Any = None) -> TensorRef:
        """A tensor that lies within its storage and is no larger."""
        if not isinstance(storage, _Storage) or not isinstance(shape, tuple) or not isinstance(stride, tuple):
            self._refuse("it has a tensor without storage, shape or stride")
        whole = (offset, *shape, *stride)
        if len(shape) != len(stride) or not all(type(n) is int and n >= 0 for n in whole):
            self._refuse(f"it has a tensor in data/{storage.key} whose offset, shape or stride is none")
        end = offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True)) + 1
        if (0 not in shape and end > storage.numel) or math.prod(shape) > storage.numel:
            self._refuse(f"it has a tensor of shape {shape} that does not fit into data/{storage.key}")
        return TensorRef(storage.key, storage.dtype, offset, shape, stride)


def entries(value: Any) -> dict[Any, Any]:
    """What a dict, an OmegaConf section or a dict-like stub holds, scalars unwrapped; nothing for all else."""
    if isinstance(value, Stub):
        state = value.state if isinstance(value.state, dict) else {}
        value = state.get("_content", value.items)
    if not isinstance(value, dict):
        return {}
    return {key: _unwrapped(item) for key, item in value.items()}


def _unwrapped(value: Any) -> Any:
    """A scalar out of its OmegaConf node."""
    if isinstance(value, Stub) and isinstance(value.state, dict) and "_val" in value.state:
        return value.state["_val"]
    return value


def stubs(module: Any, class_name: str) -> Iterator[Stub]:
    """Every stub of a class, with its state, inside a torch module's stub, in the order of the file."""
    left, seen = [module], set[int]()
    while left:
        value = left.pop()
        if not isinstance(value, Stub) or not isinstance(value.state, dict) or id(value) in seen:
            continue
        seen.add(id(value))
        if value.name.rpartition(".")[2] == class_name:
            yield value
        left += reversed(entries(value.state.get("_modules")).values())
