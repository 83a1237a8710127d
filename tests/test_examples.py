"""The notebook does what it says, on a machine that has never seen it."""

import ast
import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "examples" / "quickstart.ipynb"


def test_notebook_is_one() -> None:
    book = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(book)
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    for cell in code:
        ast.parse(cell.source)
        assert not any(output.output_type == "error" for output in cell.outputs)
    # outputs are of one execution from top to bottom, or there are none
    assert [cell.execution_count for cell in code] in (
        [None] * len(code),
        list(range(1, len(code) + 1)),
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # what Jupyter warns of is its own affair
def test_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, places)))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    book = nbformat.read(NOTEBOOK, as_version=4)
    client = NotebookClient(
        book, timeout=1800, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    if keep := os.environ.get("AMC_KEEP_NOTEBOOK"):  # the outputs that are in the repository
        nbformat.write(book, keep)

    code = [cell for cell in book.cells if cell.cell_type == "code"]
    printed = "".join(out.get("text", "") for cell in code for out in cell.outputs)
    macs = next(line for line in printed.splitlines() if line.startswith("MACs"))
    before, after = (int(word.replace(",", "")) for word in macs.split()[1:3])
    assert 0.4 * before < after <= 0.5 * before
    accuracy = next(line for line in printed.splitlines() if line.startswith("test accuracy"))
    was, now = (float(word.rstrip("%")) for word in accuracy.split()[2:4])
    assert was > 90 and now > was - 5
    assert any("image/png" in out.get("data", {}) for cell in code for out in cell.outputs)
    assert code[-1].outputs[-1]["data"]["text/plain"] == "True"
    assert not [p for p in tmp_path.iterdir() if p.name != "ipython"]  # nothing is left behind
