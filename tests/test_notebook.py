"""The notebook in docs/ runs from its first cell to its last."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
EXECUTE = """
import sys, nbformat, nbclient
notebook = nbformat.read(sys.argv[1], as_version=4)
nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
for cell in notebook.cells:
    for output in cell.get("outputs", ()):
        print(output.get("text") or output.get("data", {}).get("text/plain"))
"""


def test_the_notebook_runs(tmp_path):
    path = ROOT / "docs" / "interface.ipynb"
    done = subprocess.run(
        [sys.executable, "-c", EXECUTE, path],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "case swapped" in done.stdout
    assert "(1, 16, 16, 16, 1)" in done.stdout
    assert (tmp_path / "mask.nii.gz").exists()
    assert '"outputs": [],' in path.read_text()  # kept without: they are recreated
