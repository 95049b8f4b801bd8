"""What every GPU test of accuracy shares."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from attncc.reference.accuracy import Pool


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    """Cases too small to have a mean of their own; judged together at the end."""
    found = Pool()
    yield found
    assert found.ok or found.elements < 4096, f"mean over small cases {found.mean:.3f} of eager's"
