"""What the index of an MP4 tells of its packets, against all of them read, and ffprobe."""

from __future__ import annotations

from array import array
from pathlib import Path

import pytest
from av.container import InputContainer
from av.video.stream import VideoStream

from sr_deploy.video import index, survey
from sr_deploy.video.input import Input
from sr_deploy.video.sample_tables import sample_tables
from sr_deploy.video.survey import PacketSurvey
from tests.video import clips as reader

FRAMES = 1300
SOUND = ("-f", "lavfi", "-i", "sine=440:duration=52")


def _first(container: InputContainer) -> VideoStream:
    return container.streams.video[0]


def _told(path: Path) -> tuple[PacketSurvey, list[int]]:
    times = array("q")
    return survey.survey_file(Input(path), _first, times), sorted(times)


def _read(path: Path) -> tuple[PacketSurvey, list[int]]:
    times = array("q")
    with Input(path).open() as container, path.open("rb") as file:
        return survey.survey(container, _first(container), times, file), sorted(times)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many packets of pictures each reading of a file looked at."""
    counts: list[int] = []
    original = survey._Reader.read

    def counting(self: survey._Reader) -> None:
        try:
            original(self)
        finally:
            counts.append(self.captions.seen)

    monkeypatch.setattr(survey._Reader, "read", counting)
    return counts


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures out of order, with sound."""
    path = tmp_path_factory.mktemp("index") / "film.mp4"
    reader.ffmpeg(
        *reader.pattern(count=FRAMES), *SOUND, *reader.X264, "-bf", "2", "-g", "100", "-c:a", "aac", "-shortest", path
    )
    return path


@pytest.mark.parametrize(
    "options",
    [
        ("-c", "copy"),
        ("-c", "copy", "-movflags", "+faststart", "-map", "0", "-map", "0:v"),
        ("-c", "copy", "-ss", "1.9"),
        ("-c", "copy", "-an", "-t", "45"),
        ("-c", "copy", "-an", "-f", "mov"),
        ("-c", "copy", "-movflags", "+frag_keyframe+empty_moov"),
        ("-vf", "settb=1/1000," + reader.IRREGULAR, "-fps_mode", "vfr", *reader.X264, "-preset", "ultrafast", "-c:a", "copy"),
        ("-c:v", "libx265", "-preset", "ultrafast", "-x265-params", "log-level=0:pools=1:bframes=3:b-adapt=0", "-an"),
    ],
)
def test_the_index_tells_what_all_packets_do(film: Path, tmp_path: Path, options: tuple[str, ...], reads: list[int]) -> None:
    path = tmp_path / "other.mp4"
    reader.ffmpeg("-i", film, *options, path)
    (told, told_times), (read, read_times) = _told(path), _read(path)
    assert told_times == read_times and len(told_times) > 1000
    assert told == read
    assert len(reads) == 2 and reads[1] >= len(told_times)


def test_few_packets_are_read(film: Path, monkeypatch: pytest.MonkeyPatch, reads: list[int]) -> None:
    monkeypatch.setattr(index, "ALL_LOOKED_AT", 50)
    monkeypatch.setattr(index, "_PLACES", 4)
    monkeypatch.setattr(index, "_COMPARED", 10)
    assert _told(film) == _read(film)
    assert reads == [50 + 3 * 10 + FRAMES // 100, FRAMES]


@pytest.mark.parametrize("place", [0.1, 0.5, 0.99])
def test_an_index_that_lies_is_not_believed(film: Path, tmp_path: Path, place: float) -> None:
    data = bytearray(film.read_bytes())
    begin = data.index(b"ctts")
    length = int.from_bytes(data[begin - 4 : begin], "big") - 16
    entry = begin + 12 + int(length * place) // 8 * 8
    data[entry + 7] ^= 0x40
    path = tmp_path / "lies.mp4"
    path.write_bytes(data)
    assert _told(path) == _read(path)


def test_packets_that_differ_are_a_contradiction(film: Path, monkeypatch: pytest.MonkeyPatch, reads: list[int]) -> None:
    """The file itself may be read wrongly: here all pictures have a delay too much."""
    original = sample_tables

    def wrong(file: object) -> object:
        tables = original(file)  # type: ignore[arg-type]
        tables[1].delays[FRAMES // 2 :] += 512
        return tables

    monkeypatch.setattr(survey, "sample_tables", wrong)
    assert _told(film) == _read(film)
    assert reads[1:] == [FRAMES, FRAMES]


def test_captions_are_found_in_later_keyframes(film: Path, tmp_path: Path) -> None:
    data = bytearray(film.read_bytes())
    packets = reader.ffprobe(film, "-select_streams", "v", "-show_packets")["packets"]
    place = next(int(packet["pos"]) for packet in packets[1100:] if "K" in packet["flags"])
    data[place + 30 : place + 37] = b"\xb5\x00\x31GA94"
    path = tmp_path / "captions.mp4"
    path.write_bytes(data)
    assert _told(path)[0].captions and not _told(film)[0].captions


def test_tables_are_those_that_ffprobe_reads(film: Path) -> None:
    packets = reader.ffprobe(film, "-show_packets")["packets"]
    with film.open("rb") as file:
        tables = sample_tables(file)
    for track, table in tables.items():
        own = [packet for packet in packets if packet["stream_index"] == track - 1]
        assert table.count == len(own)
        assert table.end == max(int(packet["pos"]) + int(packet["size"]) for packet in own)
        late = [int(packet["pts"]) - int(packet["dts"]) for packet in own]
        assert [delay - int(table.delays[0]) for delay in table.delays.tolist()] == [each - late[0] for each in late]


@pytest.mark.parametrize("name", [b"stsz", b"stco", b"stsc", b"ctts", b"stbl", b"tkhd", b"moov"])
@pytest.mark.parametrize("place", [-4, 4, 8, 12, 15])
def test_damaged_tables_are_none_or_those_of_whole_ones(film: Path, tmp_path: Path, name: bytes, place: int) -> None:
    data = bytearray(film.read_bytes())
    data[data.index(name) + place] ^= 0xA5
    path = tmp_path / "damaged.mp4"
    path.write_bytes(data)
    with path.open("rb") as file:
        tables = sample_tables(file)
    assert all(table.count == len(table.delays) for table in tables.values())
