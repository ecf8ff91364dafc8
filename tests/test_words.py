"""Seeds and text helpers that everything else relies on."""

from __future__ import annotations

import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from meld.progress import Silent, track
from meld.seeds import derive, generator
from meld.text import codes, fold, normalise, overlap, pattern, words


def test_seeds_depend_on_their_parts_alone() -> None:
    assert derive(0, "init", "d.em") == derive(0, "init", "d.em")
    parts = [(0, "a"), (1, "a"), (0, "b"), ("0a",), (0, "a", ""), ("a", 0)]
    assert len({derive(*p) for p in parts}) == len(parts)
    assert all(0 <= derive(*p) < 2**63 for p in parts)
    assert generator(1, "x").integers(1000, size=5).tolist() == generator(1, "x").integers(1000, size=5).tolist()
    # Not Python's hash, which every process salts anew.
    code = "import sys; sys.path[:0] = sys.argv[1:]; from meld.seeds import derive; print(derive(0, 'init', 'd.em'))"
    found = subprocess.run([sys.executable, "-c", code, *sys.path], capture_output=True, text=True, check=True)
    assert int(found.stdout) == derive(0, "init", "d.em")


@given(st.text())
def test_normal_forms_are_stable(value: str) -> None:
    assert normalise(f"  {value}\n") == normalise(value)
    assert normalise(normalise(value)) == normalise(value)
    assert overlap(value, value) == float(bool(words(value)))
    assert all(code == fold(code) for code in codes(value))
    pattern(value)


def test_text_by_hand() -> None:
    assert normalise("  New\t York\n") == "new york"
    assert fold("Café-12.0 OZ") == "cafe120oz"
    assert codes("Sony KDL-32/B tv, 12 a1 (XYZ)") == {"kdl32b"}
    assert pattern("AB-123 c") == "a-9 a"
    assert overlap("a b", "b c") == 1 / 3
    assert overlap("", "") == 0


def test_track_reports_every_item() -> None:
    seen = []

    class Display(Silent):
        def advance(self, amount: int = 1) -> None:
            seen.append(amount)

    assert list(track([1, 2, 3], Display(), "x")) == [1, 2, 3]
    assert seen == [1, 1, 1]
