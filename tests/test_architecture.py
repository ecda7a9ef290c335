"""The arrows between the rooms point one way."""

import subprocess
import sys
from pathlib import Path

import grimp
import networkx as nx


def test_imports_keep_the_contracts() -> None:
    program = Path(sys.executable).with_name("lint-imports")
    result = subprocess.run(
        [program, "--no-cache"], cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout


def test_no_module_imports_itself_by_way_of_others() -> None:
    """Imports for type checkers count: two modules that need each other's types are one module in two files."""
    imports = grimp.build_graph("chemeleon_cli", exclude_type_checking_imports=False)
    graph = nx.DiGraph((m, other) for m in imports.modules for other in imports.find_modules_directly_imported_by(m))
    assert [sorted(circle) for circle in nx.strongly_connected_components(graph) if len(circle) > 1] == []
