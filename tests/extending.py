"""The examples of docs/extending.md, applied to a copy of the package."""

import re
import shutil
from pathlib import Path

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```(python|diff)\n# (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def section(title: str) -> str:
    """The text of a section of docs/extending.md."""
    text = (ROOT / "docs" / "extending.md").read_text()
    _, _, rest = text.partition(f"\n## {title}\n")
    assert rest, f"there is no section '{title}'"
    return rest.partition("\n## ")[0]


def copy_package(folder: Path) -> Path:
    """A copy of the package and its recipes in a folder, without the starter's models and data."""
    kept_out = shutil.ignore_patterns("__pycache__", "*.safetensors", "*.gz")
    shutil.copytree(ROOT / "chemeleon_cli", folder / "chemeleon_cli", ignore=kept_out)
    shutil.copytree(ROOT / "recipes", folder / "recipes")
    return folder


def apply(title: str, folder: Path) -> None:
    """Write the new files of a section and make its changes, in a copy of the package."""
    blocks = BLOCK.findall(section(title))
    assert blocks, f"there is no example in the section '{title}'"
    for kind, name, body in blocks:
        path = folder / name
        if kind == "python":
            assert not path.exists(), f"{name} is there already"
            path.write_text(body)
            continue
        lines = body.splitlines(keepends=True)
        assert all(line[0] in " +-" for line in lines), body
        old = "".join(line[1:] for line in lines if line[0] in " -")
        new = "".join(line[1:] for line in lines if line[0] in " +")
        text = path.read_text()
        assert text.count(old) == 1, f"{name} has {text.count(old)} times\n{old}"
        path.write_text(text.replace(old, new))
