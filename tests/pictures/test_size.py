from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sr_deploy.errors import ImageError, UsageError
from sr_deploy.pictures.size import LARGEST_PICTURE, SCREENS, TargetSize


@pytest.mark.parametrize(
    ("spec", "size", "expected"),
    [
        ("4k", (540, 960), (2160, 3840)),
        ("4K", (960, 540), (3840, 2160)),
        ("1080p", (480, 640), (1080, 1440)),
        ("1440p", (100, 100), (1440, 1440)),
        ("720p", (2160, 3840), (720, 1280)),
        ("8k", (1, 1), (4320, 4320)),
        ("1920x1080", (640, 480), (1080, 810)),
        ("1920×1080", (480, 640), (1080, 1440)),
        ("100x1000", (7, 13), (54, 100)),
        ("long=3840", (540, 960), (2160, 3840)),
        ("long=3840", (960, 540), (3840, 2160)),
        ("short=1080", (960, 540), (1920, 1080)),
        ("short=1080", (540, 960), (1080, 1920)),
        ("2", (7, 13), (14, 26)),
        ("2.5", (7, 13), (18, 32)),
        ("x1.5", (10, 10), (15, 15)),
        (".5", (1, 1), (1, 1)),
        ("4k", (1, 5000), (1, 3840)),
        ("4k", (5000, 1), (3840, 1)),
        ("10x10", (4800, 3), (10, 1)),
    ],
)
def test_sizes_that_people_ask_for(spec: str, size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert TargetSize.parse(spec).resolve(*size, 4) == expected


def test_the_default_is_the_factor_of_the_network() -> None:
    assert TargetSize().resolve(7, 13, 3) == (21, 39)


@pytest.mark.parametrize(
    "spec",
    ["", "big", "0", "0x100", "100x0", "long=0", "long", "-2", "1e9", "nan", "inf", "1080", "4kk", "1920*1080", "wide=3"],
)
def test_nonsense_is_explained(spec: str) -> None:
    with pytest.raises(UsageError, match=r"expected a factor such as 2\.5, WIDTHxHEIGHT"):
        TargetSize.parse(spec)


@pytest.mark.parametrize("side", ["1048577x5", "long=999999999", "9999999999x1"])
def test_a_side_too_long_is_refused(side: str) -> None:
    with pytest.raises(UsageError):
        TargetSize.parse(side)


def test_a_picture_too_large_is_an_error_of_that_picture() -> None:
    with pytest.raises(ImageError, match="3x4800 would become 1080x1728000"):
        TargetSize.parse("short=1080").resolve(4800, 3, 4)


def test_labels_tell_sizes_apart() -> None:
    labels = [TargetSize.parse(spec).label for spec in ("2", "2.5", "4k", "1080p", "3840x2161", "long=3840", "short=3840")]
    assert labels == ["x2", "x2.5", "3840x2160", "1920x1080", "3840x2161", "long3840", "short3840"]
    assert TargetSize().label == ""


sides = st.integers(1, 60_000)


@given(height=sides, width=sides, box=st.tuples(st.integers(1, 9000), st.integers(1, 9000)))
def test_a_box_is_touched_and_never_left(height: int, width: int, box: tuple[int, int]) -> None:
    got = TargetSize("box", box).resolve(height, width, 4)
    assert 1 <= got[0] <= box[1] and 1 <= got[1] <= box[0]
    assert got[0] == box[1] or got[1] == box[0]
    exact = min(box[0] / width, box[1] / height)
    assert abs(got[0] - max(1, height * exact)) <= 0.51 and abs(got[1] - max(1, width * exact)) <= 0.51


@given(height=sides, width=sides, screen=st.sampled_from(sorted(SCREENS)))
def test_a_screen_turns_with_the_picture(height: int, width: int, screen: str) -> None:
    size = TargetSize.parse(screen)
    assert size.resolve(height, width, 4) == size.resolve(width, height, 4)[::-1]


@given(height=sides, width=sides, wanted=st.integers(1, 9000), kind=st.sampled_from(["long", "short"]))
def test_a_side_is_met(height: int, width: int, wanted: int, kind: str) -> None:
    try:
        got = TargetSize.parse(f"{kind}={wanted}").resolve(height, width, 4)
    except ImageError:
        assert kind == "short" and max(height, width) * wanted / min(height, width) * wanted > LARGEST_PICTURE * 0.99
        return
    assert min(got) >= 1
    assert (max if kind == "long" else min)(got) == wanted


@given(spec=st.text(max_size=12))
def test_any_text_is_a_size_or_a_usage_error(spec: str) -> None:
    try:
        size = TargetSize.parse(spec)
    except UsageError:
        return
    assert min(size.resolve(10, 10, 4)) >= 1
