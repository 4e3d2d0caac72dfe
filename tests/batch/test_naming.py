from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sr_deploy.batch.jobs import Job, Plan
from sr_deploy.batch.naming import Naming, _without_clashes, plan_jobs
from sr_deploy.errors import UsageError

NAMING = Naming("net", "x4")


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make empty files in the working folder; planning never looks inside."""
    monkeypatch.chdir(tmp_path)

    def files(*names: str) -> None:
        for name in names:
            path = Path(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()

    return files


def pairs(plan: Plan) -> dict[str, str]:
    return {str(job.source): str(job.target) for job in plan.jobs}


def plan(*inputs: str, output: str | None = None, naming: Naming = NAMING) -> Plan:
    return plan_jobs([Path(name) for name in inputs], Path(output) if output else None, naming)


@pytest.mark.parametrize(
    ("inputs", "output", "expected"),
    [
        (("a.png",), None, "a_net_x4.png"),
        (("a.png",), "out", "out/a.png"),
        (("a.png",), "out/b.webp", "out/b.webp"),
        (("a.png",), ".", "a_net_x4.png"),
        (("in/c.JPG",), None, "in/c_net_x4.JPG"),
        (("in/c.JPG",), "out", "out/c.JPG"),
        (("in/d.gif",), "out", "out/d.png"),
    ],
)
def test_one_file(make: Callable[..., None], inputs: tuple[str, ...], output: str | None, expected: str) -> None:
    make("a.png", "in/c.JPG", "in/d.gif")
    assert list(pairs(plan(*inputs, output=output)).values()) == [expected]


def test_pictures_that_lost_much_are_restored(make: Callable[..., None]) -> None:
    make("in/sub/clean.png", "in/film.mkv", "in/cut.jpg", "in/old_net_x4.jpg", "in/old_other_x4.jpg")
    for name, quality in (("fine.jpg", 98), ("coarse.jpg", 50), ("old.jpg", 30)):
        Image.new("RGB", (16, 16)).save(f"in/{name}", quality=quality)
    Image.new("RGB", (16, 16)).save("in/named_wrong.png", "JPEG", quality=60)
    naming = Naming("net", "x4", restorer="other_x4")
    found = plan("in", naming=naming)
    assert {job.source.name: (str(job.target), job.restore) for job in found.jobs} == {
        "clean.png": ("in_x4/sub/clean.png", False),
        "coarse.jpg": ("in_x4/coarse.jpg", True),
        "cut.jpg": ("in_x4/cut.jpg", False),
        "film.mkv": ("in_x4/film.mkv", False),
        "fine.jpg": ("in_x4/fine.jpg", False),
        "named_wrong.png": ("in_x4/named_wrong.png", True),
        "old.jpg": ("in_x4/old.jpg", True),
    }
    told = {str(path): note for path, note in found.notes}
    assert told["in/coarse.jpg"] == "it, and 2 more, lost much to JPEG, and other-x4 restores that; -m net would not"
    assert told["in"] == "2 outputs of earlier runs left out"
    beside = pairs(plan("in/coarse.jpg", "in/fine.jpg", naming=naming))
    assert beside == {"in/coarse.jpg": "in/coarse_other_x4.jpg", "in/fine.jpg": "in/fine_net_x4.jpg"}
    assert not any(job.restore for job in plan("in").jobs)


def test_a_folder_is_mirrored_beside_itself(make: Callable[..., None]) -> None:
    make("in/b.png", "in/a.jpg", "in/sub/deep/c.tif", "in/notes.txt", "in/.hidden.png", "in/.git/d.png", "in/a.jpg.part")
    assert pairs(plan("in")) == {
        "in/a.jpg": "in_net_x4/a.jpg",
        "in/b.png": "in_net_x4/b.png",
        "in/sub/deep/c.tif": "in_net_x4/sub/deep/c.tif",
    }


def test_the_working_folder_is_mirrored_beside_itself(make: Callable[..., None], tmp_path: Path) -> None:
    make("a.png")
    assert pairs(plan(".")) == {"a.png": f"{tmp_path}_net_x4/a.png"}


def test_several_folders_keep_their_names(make: Callable[..., None]) -> None:
    make("one/a.png", "two/a.png", "three.png")
    assert pairs(plan("one", "two", "three.png", output="out")) == {
        "one/a.png": "out/one/a.png",
        "two/a.png": "out/two/a.png",
        "three.png": "out/three.png",
    }


def test_the_output_folder_is_not_read_again(make: Callable[..., None]) -> None:
    make("in/a.png", "in/out/a.png", "in/out/sub/b.png")
    assert pairs(plan("in", output="in/out")) == {"in/a.png": "in/out/a.png"}


def test_a_mirror_of_one_input_inside_another_is_not_read_again(make: Callable[..., None]) -> None:
    make("in/sub/a.png", "in/sub_net_x4/a.png")
    assert pairs(plan("in/sub", "in")) == {"in/sub/a.png": "in/sub_net_x4/a.png"}


@pytest.mark.parametrize("output", ["in", "./in/", "in/../in"])
def test_outputs_among_the_inputs_are_told_apart(make: Callable[..., None], output: str) -> None:
    make("in/a.png", "in/a_net_x4.png", "in/a_net_1920x1080.jpg", "in/other_net_x4.png", "in/sub/b.png")
    found = plan("in", output=output)
    assert {source: os.path.normpath(target) for source, target in pairs(found).items()} == {
        "in/a.png": "in/a_net_x4.png",
        "in/other_net_x4.png": "in/other_net_x4_net_x4.png",
        "in/sub/b.png": "in/sub/b_net_x4.png",
    }
    assert found.notes == ((Path("in"), "2 outputs of earlier runs left out"),)


def test_a_suffix_of_the_users_own(make: Callable[..., None]) -> None:
    make("in/a.png", "in/a-big.png")
    naming = Naming("net", "x4", suffix="-big")
    assert pairs(plan("in", output="out", naming=naming)) == {"in/a.png": "out/a-big.png"}
    assert pairs(plan("in/a.png", naming=naming)) == {"in/a.png": "in/a-big.png"}


def test_a_model_that_has_its_factor_in_its_name(make: Callable[..., None]) -> None:
    naming = Naming("net_x4", "x4")
    make("in/a.png", "in/a_net_x4.png", "in/a_net_x4_x2.png")
    assert pairs(plan("in", output="in", naming=naming)) == {"in/a.png": "in/a_net_x4.png"}
    assert pairs(plan("in/a.png", naming=Naming("net_x4", "x2"))) == {"in/a.png": "in/a_net_x4_x2.png"}


def test_clashing_names(make: Callable[..., None]) -> None:
    make("in/a.png", "in/a.jpg", "in/b.gif", "in/b.bmp", "in/c.webp")
    found = plan("in", output="out", naming=Naming("net", "x4", extension="png"))
    assert pairs(found) == {
        "in/a.jpg": "out/a.jpg.png",
        "in/a.png": "out/a.png",
        "in/b.bmp": "out/b.bmp.png",
        "in/b.gif": "out/b.gif.png",
        "in/c.webp": "out/c.png",
    }
    notes = {str(job.source): job.note for job in found.jobs if job.note}
    assert notes["in/a.jpg"] == "named a.jpg.png, because in/a.png becomes a.png too"
    assert set(notes) == {"in/a.jpg", "in/b.bmp", "in/b.gif"}


def test_names_that_differ_in_case_only(make: Callable[..., None]) -> None:
    make("in/A.png", "in/a.PNG", "in/a.png")
    assert pairs(plan("in", output="out")) == {
        "in/A.png": "out/A.png",
        "in/a.PNG": "out/a.PNG.PNG",
        "in/a.png": "out/a.png-2.png",
    }


names = st.from_regex(r"[ab]{1,2}(\.png)?\.(png|jpg|gif|PNG)", fullmatch=True)


@given(sources=st.lists(names, unique=True, max_size=12))
def test_no_two_targets_are_the_same_on_any_disk(sources: list[str]) -> None:
    jobs = [Job(Path("in", name), Path("out", name).with_suffix(".png")) for name in sources]
    resolved = _without_clashes(jobs, lambda _: "")
    assert [job.source for job in resolved] == [job.source for job in jobs]
    assert len({str(job.target).casefold() for job in resolved}) == len(jobs)
    assert all(bool(after.note) == (after.target != before.target) for before, after in zip(jobs, resolved, strict=True))


def test_a_file_named_twice_is_done_once(make: Callable[..., None]) -> None:
    make("in/a.png")
    assert pairs(plan("in/a.png", "./in/a.png", "in", output="out")) == {"in/a.png": "out/a.png"}


@pytest.mark.parametrize("link", ["hard", "symbolic", "folder"])
def test_an_input_is_never_overwritten_through_a_link(make: Callable[..., None], link: str) -> None:
    make("in/a.png", "out/b.png")
    if link == "hard":
        os.link("in/a.png", "out/a.png")
    elif link == "symbolic":
        Path("out/a.png").symlink_to(Path("in/a.png").resolve())
    else:
        Path("out2").symlink_to("in")
    found = plan("in", output="out2" if link == "folder" else "out")
    if link == "folder":
        assert pairs(found) == {"in/a.png": "out2/a_net_x4.png"}
        return
    assert not found.jobs
    assert (
        str(found.failures[0]) == "in/a.png: its output out/a.png would overwrite the input in/a.png; change --suffix, -f or -o"
    )


def test_no_suffix_beside_the_input_is_refused(make: Callable[..., None]) -> None:
    make("a.png", "b.gif")
    found = plan("a.png", "b.gif", naming=Naming("net", "x4", suffix=""))
    assert pairs(found) == {"b.gif": "b.png"}
    assert "would overwrite the input a.png" in found.failures[0].message


def test_one_input_is_not_overwritten_by_another(make: Callable[..., None]) -> None:
    make("a.png", "b.png")
    assert "overwrite the input b.png" not in str(plan("a.png", output="b.png").failures)
    found = plan("a.png", "sub/../b.png", output=None, naming=Naming("net", "x4", suffix=""))
    assert not found.jobs


def test_a_folder_in_the_place_of_an_output(make: Callable[..., None]) -> None:
    make("in/a.png", "out/a.png/b.txt")
    assert "is a folder" in plan("in", output="out").failures[0].message


def test_links_that_run_in_circles_end(make: Callable[..., None]) -> None:
    make("in/sub/a.png", "elsewhere/b.png")
    Path("in/sub/up").symlink_to(Path("in").resolve())
    Path("in/more").symlink_to(Path("elsewhere").resolve())
    assert sorted(pairs(plan("in", output="out")).values()) == ["out/more/b.png", "out/sub/a.png"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gone.png", "gone.png: no such file or folder"),
        ("gone.mp4", "gone.mp4: no such file or folder"),
        ("text.txt", "text.txt: neither an image nor a video; sr-deploy reads: .avif, .bmp"),
        ("pipe.png", "pipe.png: it is a pipe; expected an image"),
        ("/dev/null", "/dev/null: it is a device"),
        ("socket.png", "socket.png: it is a socket"),
    ],
)
def test_named_files_that_are_no_images_are_told(make: Callable[..., None], name: str, message: str) -> None:
    make("text.txt", "a.png")
    make_odd()
    found = plan(name, "a.png", output="out")
    assert str(found.failures[0]).startswith(message)
    assert pairs(found) == {"a.png": "out/a.png"}


def make_odd() -> None:
    os.mkfifo("pipe.png")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.png")


def test_what_is_no_file_in_a_folder_is_left_out_and_told(make: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    make("in/a.png", "in/b.gif")
    with monkeypatch.context() as inside:
        inside.chdir("in")
        make_odd()
    Path("in/link.webp").symlink_to("pipe.png")
    Path("in/null.png").symlink_to("/dev/null")
    found = plan("in", output="out")
    assert sorted(pairs(found)) == ["in/a.png", "in/b.gif"]
    assert sorted((str(path), note) for path, note in found.notes) == [
        ("in/link.webp", "left out: it is a pipe, no picture"),
        ("in/null.png", "left out: it is a device, no picture"),
        ("in/pipe.png", "left out: it is a pipe, no picture"),
        ("in/socket.png", "left out: it is a socket, no picture"),
    ]


@pytest.mark.parametrize("name", ["pipe.png", "socket.png"])
def test_what_is_no_file_is_no_output(make: Callable[..., None], name: str) -> None:
    make("a.png", f"in/{name}")
    make_odd()
    for found in (plan("a.png", output=name), plan("in", output=".")):
        assert not found.jobs
        assert f"its output {name} is a {name[:-4]}; change" in str(found.failures[0])


def test_an_unreadable_folder_is_told(make: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    make("in/a.png", "in/locked/b.png")
    scandir = os.scandir

    def refuse(path: object) -> object:
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)  # type: ignore[call-overload]

    monkeypatch.setattr(os, "scandir", refuse)
    found = plan("in", output="out")
    assert pairs(found) == {"in/a.png": "out/a.png"}
    assert str(found.failures[0]) == "in/locked: cannot be listed (Permission denied)"


def test_an_empty_folder_is_told(make: Callable[..., None]) -> None:
    make("in/readme.txt")
    found = plan("in", output="out")
    assert not found.jobs and not found.failures
    assert found.notes[0][1].startswith("holds no images and no videos; sr-deploy reads")


@pytest.mark.parametrize(
    ("inputs", "output", "naming", "message"),
    [
        (("a.png", "b.png"), "out.png", NAMING, "names one file, but the inputs are several"),
        (("in",), "out.png", NAMING, "names one file, but the inputs are several"),
        (("a.png",), "out.mp4", NAMING, "neither a folder that exists nor an image that can be written"),
        (("a.png",), "out.png", Naming("net", "x4", extension="webp"), "contradict each other"),
        (("/",), None, NAMING, "say where the outputs go with -o"),
    ],
)
def test_outputs_that_do_not_suit_the_inputs(
    make: Callable[..., None], inputs: tuple[str, ...], output: str, naming: Naming, message: str
) -> None:
    make("a.png", "b.png", "in/c.png")
    with pytest.raises(UsageError, match=message):
        plan(*inputs, output=output, naming=naming)


def test_names_that_cannot_be() -> None:
    with pytest.raises(UsageError, match="has no slashes"):
        Naming("net", "x4", suffix="/../x")
    with pytest.raises(UsageError, match=r"format '\.gif': cannot be written"):
        Naming("net", "x4", extension="gif")
    assert Naming("net", "x4", extension=".PNG").extension == ".png"


def test_names_in_any_script(make: Callable[..., None]) -> None:
    make("in/é 漢字 [x] 'q'.png", "in/100%.jpg")
    assert sorted(pairs(plan("in")).values()) == ["in_net_x4/100%.jpg", "in_net_x4/é 漢字 [x] 'q'.png"]


def test_a_folder_may_be_called_anything_when_the_inputs_are_several(make: Callable[..., None]) -> None:
    make("a.png", "in/c.png")
    assert pairs(plan("in", output="results.v2")) == {"in/c.png": "results.v2/c.png"}
    assert pairs(plan("a.png", "in", output="net.pkl")) == {"a.png": "net.pkl/a.png", "in/c.png": "net.pkl/c.png"}


def gif(path: str, frames: int) -> None:
    pictures = [Image.new("L", (4, 4), index * 60) for index in range(frames)]
    pictures[0].save(path, save_all=True, append_images=pictures[1:])


@pytest.mark.parametrize(
    ("name", "extension", "expected"),
    [
        ("film.mkv", None, "film_net_x4.mkv"),
        ("film.MP4", None, "film_net_x4.MP4"),
        ("film.avi", None, "film_net_x4.mkv"),
        ("film.avi", "mp4", "film_net_x4.mp4"),
        ("film.webm", "png", "film_net_x4.webm"),
        ("a.png", "mp4", "a_net_x4.png"),
        ("moving.gif", None, "moving_net_x4.mkv"),
        ("still.gif", None, "still_net_x4.png"),
    ],
)
def test_videos_are_named_like_pictures(make: Callable[..., None], name: str, extension: str | None, expected: str) -> None:
    make("film.mkv", "film.MP4", "film.avi", "film.webm", "a.png")
    gif("moving.gif", 3)
    gif("still.gif", 1)
    (job,) = plan(name, naming=Naming("net", "x4", extension=extension)).jobs
    assert (str(job.target), job.video) == (expected, Path(expected).suffix != ".png")


def test_folders_hold_pictures_and_videos(make: Callable[..., None]) -> None:
    make("in/a.png", "in/film.mkv", "in/sub/film.ts", "in/film_net_x4.mkv", "in/other.mkv.part/000000.mkv")
    assert pairs(plan("in")) == {
        "in/a.png": "in_net_x4/a.png",
        "in/film.mkv": "in_net_x4/film.mkv",
        "in/sub/film.ts": "in_net_x4/sub/film.mkv",
    }


@pytest.mark.parametrize(("name", "output"), [("film.mp4", "out.png"), ("a.png", "out.mp4")])
def test_a_picture_becomes_no_video_and_a_video_no_picture(make: Callable[..., None], name: str, output: str) -> None:
    make("film.mp4", "a.png")
    with pytest.raises(UsageError, match=f"-o {output}: neither a folder that exists nor a"):
        plan(name, output=output)
    assert pairs(plan("film.mp4", output="new.mov")) == {"film.mp4": "new.mov"}


@pytest.mark.parametrize(
    ("name", "output", "expected"),
    [
        ("-", "out.mkv", "out.mkv"),
        ("-", "-", "-"),
        ("film.mkv", "-", "-"),
        ("film.mkv", "new/%04d.png", "new/%04d.png"),
        ("frames/%d.png", "out.mp4", "out.mp4"),
        ("frames/%d.png", None, "frames/%d_net_x4.mkv"),
    ],
)
def test_pipes_and_numbered_pictures(make: Callable[..., None], name: str, output: str | None, expected: str) -> None:
    make("film.mkv", "frames/1.png")
    (job,) = plan(name, output=output).jobs
    assert (str(job.source), str(job.target), job.video) == (name, expected, True)


def test_pipes_take_one_video(make: Callable[..., None]) -> None:
    make("film.mkv", "other.mkv", "a.png", "in/b.png")
    for inputs in (("film.mkv", "other.mkv"), ("a.png",), ("in",)):
        with pytest.raises(UsageError, match="takes the frames of one video"):
            plan(*inputs, output="-")
    with pytest.raises(UsageError, match="standard input has no name"):
        plan("-")


def test_a_file_that_exists_is_no_pattern(make: Callable[..., None]) -> None:
    make("a%02d.png")
    (job,) = plan("a%02d.png").jobs
    assert (str(job.target), job.video) == ("a%02d_net_x4.png", False)
