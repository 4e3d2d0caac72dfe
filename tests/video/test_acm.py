"""Sound of Windows' codecs in Matroska, against what ffmpeg reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from sr_deploy.errors import UsageError
from sr_deploy.film.options import VideoOptions
from sr_deploy.film.run import upscale_video
from tests.film.test_run import Nearest
from tests.video import clips as reader

FAST = VideoOptions(preset="ultrafast")


def check(source: Path, target: Path) -> None:
    """The copied sound is the source's, bit for bit, and decodes to the same samples."""
    upscale_video(source, target, Nearest(), options=FAST)
    assert reader.stream_hashes(target, "0:a") == reader.stream_hashes(source, "0:a")
    facts = ("codec_name", "sample_rate", "channels")
    for before, after in zip(
        *(reader.ffprobe(p, "-show_streams", "-select_streams", "a")["streams"] for p in (source, target)), strict=True
    ):
        assert [before[fact] for fact in facts] == [after[fact] for fact in facts]
    decoded = [reader.ffmpeg("-i", path, "-map", "0:a:0", "-f", "s16le", "-") for path in (source, target)]
    assert decoded[0] == decoded[1]


@pytest.mark.parametrize("name", ["old.wmv", "aud_adpcm_ms.avi"])
def test_old_files_keep_their_sound(shared: Path, tmp_path: Path, name: str) -> None:
    check(shared / "faults" / name, tmp_path / "large.mkv")


@pytest.mark.parametrize(("suffix", "codec"), [(".avi", "adpcm_ima_wav"), (".wmv", "wmav1"), (".avi", "adpcm_yamaha")])
def test_sound_under_another_name_is_copied(tmp_path: Path, suffix: str, codec: str) -> None:
    source = tmp_path / f"small{suffix}"
    tone = reader.tone(seconds=1)
    reader.ffmpeg(*reader.pattern(count=25), *tone, "-c:v", "mpeg4", "-c:a", codec, "-ac", "2", source)
    check(source, tmp_path / "large.mkv")


def test_other_containers_still_refuse_it(shared: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot hold audio 1 \(wmav2\)"):
        upscale_video(shared / "faults" / "old.wmv", tmp_path / "large.mp4", Nearest(), options=FAST)
