import sys

import pytest
import torch

from ketune.circuits import draw, ry_ring, to_pennylane, to_qiskit


@pytest.mark.parametrize(
    ("library", "function"),
    [("qiskit", to_qiskit), ("pennylane", to_pennylane), ("qiskit", draw)],
)
def test_a_missing_library_is_named_with_the_command_that_installs_it(library, function, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ImportError, match=rf'{library} is not installed; run: pip install "ketune\[devices\]"'):
        function(ry_ring(2))


def test_wrong_angles_and_styles_are_refused():
    pytest.importorskip("qiskit")
    with pytest.raises(ValueError, match=r"shape \(3,\).*takes \(2,\)"):
        to_qiskit(ry_ring(2), torch.zeros(3))
    with pytest.raises(ValueError, match=r"'svg'.*'text', 'mpl', 'latex'"):
        draw(ry_ring(2), style="svg")
