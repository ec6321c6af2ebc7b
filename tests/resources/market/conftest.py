"""What the tests of market sources share."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

# Test modules import their helper beside them; importmode=importlib does not look there.
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def real_data() -> Callable[[str], Path]:
    def folder(name: str) -> Path:
        root = os.environ.get("FX_TEST_DATA")
        if not root or not (Path(root) / name).is_dir():
            pytest.skip(f"FX_TEST_DATA names no folder with {name}")
        return Path(root) / name

    return folder
