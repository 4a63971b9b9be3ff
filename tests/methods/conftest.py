"""What most tests of methods look at."""

from __future__ import annotations

import pytest
from torch import Tensor

from tests.methods.joint import BATCH, pictures


@pytest.fixture(scope="session")
def images() -> Tensor:
    """A batch of pictures, a little larger than the views that most small methods take."""
    return pictures(BATCH, 28)
