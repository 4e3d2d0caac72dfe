"""How bright a super-resolved window may be beside its input: the bounds that numpy and the kernels read.

A network that works hardly moves the mean of |output|; one that overflowed gives NaN, Inf, black or white. The offsets leave
room for dark windows, where noise counts.
"""

from __future__ import annotations

LOW_SHARE, LOW_OFFSET = 0.5, 0.05
HIGH_SHARE, HIGH_OFFSET = 1.5, 0.25
"""Healthy is LOW_SHARE * brightness - LOW_OFFSET <= health <= HIGH_SHARE * brightness + HIGH_OFFSET, in [0,1]."""
