from __future__ import annotations

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sr_deploy import Upscaler
from sr_deploy.errors import EngineError, OutOfMemoryError, UsageError
from sr_deploy.upscaling import sentinel as windows
from sr_deploy.upscaling.reuse import FrameReuse
from tests.graphs import image_graph, save

PICTURE = np.random.default_rng(11).integers(40, 200, (90, 120, 3), dtype=np.uint8)
TILE = 32


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {
        "exact": save(image_graph(scale=2, depth=4), folder, "exact.onnx"),
        "approximate": save(image_graph(scale=2, depth=2, pooled=True), folder, "approximate.onnx"),
        "luma": save(image_graph(scale=2, channels=1), folder, "luma.onnx"),
    }


@pytest.fixture(scope="module")
def exact(models: dict[str, Path]) -> Iterator[Upscaler]:
    with Upscaler(models["exact"], tile=TILE) as upscaler:
        yield upscaler


def changed(frame: np.ndarray, *box: slice) -> np.ndarray:
    """The frame with other values in a box."""
    result = frame.copy()
    result[box] ^= 21
    return result


def check(upscaler: Upscaler, frames: list[np.ndarray]) -> FrameReuse:
    """Every result equals the one without reuse, also when the stream is over."""
    reuse, plain = FrameReuse(upscaler), FrameReuse(upscaler, enabled=False)
    results = [reuse(frame.copy()) for frame in frames]
    for frame, result in zip(frames, results, strict=True):
        np.testing.assert_array_equal(result, plain(frame))
    return reuse


boxes = st.tuples(st.integers(0, 89), st.integers(0, 119), st.integers(1, 40), st.integers(1, 40))


@given(st.lists(st.lists(boxes, max_size=2), min_size=1, max_size=3))
def test_exactly_those_tiles_are_computed_whose_window_changed(exact: Upscaler, steps: list[list[tuple[int, ...]]]) -> None:
    frames = [PICTURE]
    for rectangles in steps:
        frame = frames[-1]
        for top, left, height, width in rectangles:
            frame = changed(frame, slice(top, top + height), slice(left, left + width))
        frames.append(frame)
    stats = check(exact, frames).stats
    tiling = exact._plan_finely(90, 120)
    tall, wide = tiling.window
    expected = len(tiling)
    for before, after in itertools.pairwise(frames):
        differs = (before != after).any(axis=2)
        expected += sum(
            differs[row.start : row.start + tall, column.start : column.start + wide].any() for row, column in tiling
        )
    assert len(tiling) == 12
    assert stats.tiles_computed == expected
    assert stats.tiles_computed + stats.tiles_reused == len(frames) * len(tiling)
    assert stats.frames_reused == sum(np.array_equal(*pair) for pair in itertools.pairwise(frames))


def test_the_tiles_of_a_moving_picture_are_large_and_come_from_the_content_alone(models: dict[str, Path]) -> None:
    """Noise moves, then stands still but for a spot: with and without reuse, the same tiles are computed or kept."""
    noise = [np.random.default_rng(seed).integers(0, 256, (220, 300, 3), dtype=np.uint8) for seed in range(4)]
    still = [changed(noise[-1], slice(5 * index, 5 * index + 3), slice(9, 12)) for index in range(3)]
    with Upscaler(models["exact"]) as upscaler:
        large, small = len(upscaler._plan(220, 300)), len(upscaler._plan_finely(220, 300))
        assert (large, small) == (1, 6)
        reuse = FrameReuse(upscaler)
        computed = [0]
        for frame in [*noise, noise[-1], *still]:
            reuse(frame)
            computed.append(reuse.stats.tiles_computed)
        check(upscaler, [*noise, noise[-1], *still])
    assert np.diff(computed).tolist() == [small, small, large, large, 0, small, 1, 1]


def test_restarting_forgets_everything(exact: Upscaler) -> None:
    reuse = FrameReuse(exact)
    first = reuse(PICTURE)
    reuse.restart()
    assert reuse(PICTURE) is not first
    assert reuse.stats.frames_reused == 0


def test_equal_frames_share_a_result_that_nobody_can_change(exact: Upscaler) -> None:
    reuse = FrameReuse(exact)
    frame = PICTURE.copy()
    first = reuse(frame)
    assert reuse(PICTURE) is first
    with pytest.raises(ValueError, match="read-only"):
        first[0, 0, 0] = 1
    kept = first.copy()
    frame[:] = 0
    assert not np.array_equal(reuse(frame), kept)
    np.testing.assert_array_equal(first, kept)
    assert reuse.stats.frames_reused == 1


@pytest.mark.parametrize("name", ["exact", "approximate", "luma"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_network_depth_and_form_is_bit_equal(models: dict[str, Path], name: str, dtype: type, channels: int) -> None:
    picture = PICTURE[..., :channels].astype(dtype) * dtype(np.iinfo(dtype).max // 255)
    spot = changed(picture, slice(3, 5), slice(3, 5))
    with Upscaler(models[name], tile=TILE) as upscaler:
        stats = check(upscaler, [picture, picture, spot, spot, picture]).stats
        tiles = len(upscaler._plan_finely(90, 120))
        assert stats.frames_reused == 2
        assert stats.tiles_computed == (3 * tiles if name == "approximate" else tiles + 2)


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (33, 2), (91, 119), (64, 64)])
def test_any_size_also_in_the_middle_of_a_stream(exact: Upscaler, size: tuple[int, int]) -> None:
    small = PICTURE[: size[0], : size[1]] if size != (91, 119) else np.pad(PICTURE, ((0, 1), (0, 0), (0, 0)))[:, :119]
    stats = check(exact, [PICTURE, small, small, changed(small, slice(0, 1), slice(0, 1)), PICTURE]).stats
    assert stats.frames_reused == 1


def test_a_change_of_depth_starts_over(exact: Upscaler) -> None:
    assert check(exact, [PICTURE, PICTURE.astype(np.uint16), PICTURE]).stats.tiles_reused == 0


def test_sizes_that_the_network_does_not_take_are_padded(exact: Upscaler) -> None:
    frames = [PICTURE[:83, :117], changed(PICTURE[:83, :117], slice(80, 83), slice(110, 117))]
    bundle = replace(exact.bundle, card=replace(exact.card, size_multiple=16))
    with Upscaler(bundle, tile=TILE) as upscaler:
        assert upscaler._plan(83, 117).rows.size == 96
        stats = check(upscaler, [*frames, frames[0]]).stats
    assert 0 < stats.tiles_reused < stats.tiles_computed + stats.tiles_reused


def test_views_that_are_not_contiguous(exact: Upscaler) -> None:
    frames = [PICTURE, changed(PICTURE, slice(3, 5), slice(3, 5))]
    check(exact, [frame[::-1, ::-1] for frame in frames])


def test_after_a_failure_the_next_frame_is_right(exact: Upscaler, monkeypatch: pytest.MonkeyPatch) -> None:
    reuse, plain = FrameReuse(exact), FrameReuse(exact, enabled=False)
    other = changed(PICTURE, slice(0, 60), slice(0, 60))
    reuse(PICTURE)
    original, calls = windows.WindowRunner.run, itertools.count()

    def run(self: windows.WindowRunner, window: np.ndarray, *, top: int, left: int) -> object:
        if next(calls) == 2:
            raise EngineError("the engine broke")
        return original(self, window, top=top, left=left)

    monkeypatch.setattr(windows.WindowRunner, "run", run)
    with pytest.raises(EngineError, match="broke"):
        reuse(other)
    for frame in (other, PICTURE, other):
        np.testing.assert_array_equal(reuse(frame), plain(frame))


def test_out_of_memory_makes_the_tiles_smaller_for_good(models: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    original = windows.WindowRunner.run
    areas: list[int] = []

    def run(self: windows.WindowRunner, window: np.ndarray, *, top: int, left: int) -> object:
        areas.append(window.shape[0] * window.shape[1])
        if areas[-1] > 4000:
            raise OutOfMemoryError("out of memory")
        return original(self, window, top=top, left=left)

    with Upscaler(models["exact"], precision="fp32") as upscaler:
        expected = upscaler(PICTURE)
        monkeypatch.setattr(windows.WindowRunner, "run", run)
        reuse = FrameReuse(upscaler)
        np.testing.assert_array_equal(reuse(PICTURE), expected)
        areas.clear()
        np.testing.assert_array_equal(
            reuse(changed(PICTURE, slice(9, 10), slice(9, 10))), upscaler(changed(PICTURE, slice(9, 10), slice(9, 10)))
        )
        assert areas[0] <= 4000
        monkeypatch.setattr(windows.WindowRunner, "run", Mock(side_effect=OutOfMemoryError("out of memory")))
        with pytest.raises(OutOfMemoryError):
            FrameReuse(upscaler)(PICTURE)


def test_only_computed_tiles_are_counted_by_the_sentinel(models: dict[str, Path]) -> None:
    with Upscaler(models["exact"], tile=TILE) as upscaler:
        reuse = FrameReuse(upscaler)
        for frame in (PICTURE, PICTURE, changed(PICTURE, slice(0, 1), slice(0, 1))):
            reuse(frame)
        assert upscaler.stats.tiles == reuse.stats.tiles_computed == 13
        assert reuse.stats.saved > 0 < reuse.stats.comparing


@pytest.mark.parametrize(
    "frame",
    [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8), np.zeros((4, 4, 3), np.float32)],
)
def test_other_forms_are_refused(exact: Upscaler, frame: np.ndarray) -> None:
    with pytest.raises(UsageError, match="expected uint8 or uint16 of shape"):
        FrameReuse(exact)(frame)


@pytest.mark.parametrize(
    "clip", ["onepiece_demo.mp4", "counter_static_1080p.mp4", "carphone_talking_head.mp4", "webcam_no_duration.mkv"]
)
@pytest.mark.parametrize("name", ["exact", "approximate"])
def test_real_clips_are_bit_equal(shared: Path, models: dict[str, Path], clip: str, name: str) -> None:
    with av.open(str(shared / "videos" / clip)) as container:
        frames = [frame.to_ndarray(format="rgb24")[:240, :320] for frame in itertools.islice(container.decode(video=0), 8)]
    with Upscaler(models[name], tile=64) as upscaler:
        stats = check(upscaler, [np.ascontiguousarray(frame) for frame in frames]).stats
    assert stats.frames == 8


def test_several_threads_share_a_stream_where_whole_frames_are_reused(models: dict[str, Path]) -> None:
    frames = [np.roll(PICTURE, index // 3, axis=1) for index in range(12)]
    with Upscaler(models["approximate"]) as upscaler, ThreadPoolExecutor(4) as pool:
        expected = [FrameReuse(upscaler, enabled=False)(frame) for frame in frames]
        reuse = FrameReuse(upscaler)
        for result, wanted in zip(pool.map(reuse, frames), expected, strict=True):
            np.testing.assert_array_equal(result, wanted)
    assert reuse.stats.frames == len(frames)
