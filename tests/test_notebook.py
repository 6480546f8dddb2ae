"""examples/first_look.ipynb: what it imports exists, and, slowly, it runs as in Jupyter."""

from __future__ import annotations

import ast
import json

import pytest
from cli_runs import REPOSITORY

NOTEBOOK = REPOSITORY / "examples" / "first_look.ipynb"
CELLS = json.loads(NOTEBOOK.read_text("utf-8"))["cells"]
CODE = ["".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "code"]


def test_it_compiles_and_imports_what_exists():
    for source in CODE:
        compile(source, str(NOTEBOOK), "exec")
    imports = [node for node in ast.parse(CODE[0]).body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert len(imports) > 4
    exec(compile(ast.Module(imports, []), str(NOTEBOOK), "exec"), {})


def test_it_is_kept_with_the_outputs_of_a_run_that_can_be_read():
    """Small, in order, without errors, and without hundreds of states of a progress bar one after the other."""
    assert NOTEBOOK.stat().st_size < 300_000
    code = [cell for cell in CELLS if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert not any(output["output_type"] == "error" for output in outputs)
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2
    text = "".join("".join(output.get("text", "")) for output in outputs)
    assert text.count("frame/s") <= 3
    assert "reset actor, critic at frame" in text
    assert "plasticity-rl plot" not in text, "a run that was made in Python has no config.yaml, which that reads"


@pytest.mark.slow
def test_it_runs_as_in_jupyter(tmp_path, monkeypatch):
    """Both fits from states a second time too: every start has a folder of its own."""
    client, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    for name, value in {"STATE_FRAMES": "1600", "PIXEL_FRAMES": "1600", "FOLDER": str(tmp_path)}.items():
        monkeypatch.setenv(f"FIRST_LOOK_{name}", value)
    notebook = nbformat.read(NOTEBOOK, 4)
    fits = [cell for cell in notebook.cells if "train_from_states(" in cell.source]
    notebook.cells += [cell.copy() for cell in fits]
    client.NotebookClient(notebook, timeout=500, coalesce_streams=True).execute()
    assert len(list(tmp_path.glob("*/finished.yaml"))) == 5
