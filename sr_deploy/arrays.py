"""The one name for arrays in the host's memory."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
"""Of any dtype and shape: what a function takes and gives, its docstring says."""
