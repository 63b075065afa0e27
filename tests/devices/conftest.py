"""The virtual device stands on a part of torch that older ones lack."""

from __future__ import annotations

import pytest
from torch.utils import backend_registration


@pytest.fixture(scope="session", autouse=True)
def a_device_in_python() -> None:
    if not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"):
        pytest.skip("this torch has no devices that are written in Python")
