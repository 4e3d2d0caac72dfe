"""Which files become which: inputs and an output as users name them -> one source and one target per picture or video.

Where the outputs go:
  a file                      beside it, STEM_MODEL_xN.EXT
  a folder                    FOLDER_MODEL_xN/ beside it, its tree mirrored; FOLDER_xN/ where no network was named
  anything, -o FOLDER         into FOLDER, stems kept; several folders keep their own names inside
  one file, -o FILE.EXT       FILE.EXT
  an address of a video, -o FILE.EXT or FOLDER    FILE.EXT, or into FOLDER by the last part of its path
  one video, -o - or -o frame_%06d.png    raw video on standard output, or one picture per frame
Wherever a target would lie in its source's own folder, it gets MODEL_xN into its name. No input is ever overwritten.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from sr_deploy.batch.jobs import Failure, Job, Plan
from sr_deploy.errors import UsageError
from sr_deploy.files import Address, odd_kind
from sr_deploy.pictures.image import (
    CONTAINERS,
    PICTURES_THAT_MOVE,
    PIPE,
    READABLE_SUFFIXES,
    WRITABLE_SUFFIXES,
    file_lost_much,
    is_animated,
    names_stream,
)

WRITABLE_VIDEOS = frozenset(CONTAINERS)
READABLE_VIDEOS = WRITABLE_VIDEOS | {
    *(".264", ".265", ".3gp", ".apng", ".asf", ".avi", ".divx", ".dv", ".f4v", ".flv", ".h264", ".h265", ".hevc", ".ivf"),
    *(".m1v", ".m2t", ".m2ts", ".m2v", ".mpeg", ".mpg", ".mts", ".mxf", ".nut", ".ogv", ".ts", ".vob", ".wmv", ".y4m"),
}
PREVIEW = "_preview_"
"""Goes before the number of a part of a video, behind the stem of the whole."""
READS = f"sr-deploy reads: {', '.join(sorted(READABLE_SUFFIXES))}; videos: {', '.join(sorted(READABLE_VIDEOS))}"
WRITES = f"sr-deploy writes: {', '.join(sorted(WRITABLE_SUFFIXES))}; videos: {', '.join(sorted(WRITABLE_VIDEOS))}"


@dataclass(frozen=True)
class Naming:
    """How outputs are called. `suffix` replaces the default one, `extension` that of the pictures or of the videos.

    restorer: the network in place of `model` for pictures that lost much to their compression.
    """

    model: str
    label: str
    suffix: str | None = None
    extension: str | None = None
    restorer: str | None = None

    def __post_init__(self) -> None:
        if self.suffix is not None and re.search(r"[/\\\0]", self.suffix):
            raise UsageError(f"suffix '{self.suffix}': goes into a file name, so it has no slashes; folders go into -o")
        if self.extension is not None:
            object.__setattr__(self, "extension", "." + self.extension.lower().lstrip("."))
            if self.extension not in WRITABLE_SUFFIXES | WRITABLE_VIDEOS:
                raise UsageError(f"format '{self.extension}': cannot be written; {WRITES}")

    def mark(self, *, restored: bool = False) -> str:
        """What tells an output from its input in the same folder."""
        if self.suffix is not None:
            return self.suffix
        model = ((self.restorer if restored else None) or self.model).replace("/", "-")
        return f"_{model}" if model.endswith(f"_{self.label}") else f"_{model}_{self.label}"

    @property
    def folder_mark(self) -> str:
        """What tells a folder of outputs, maybe of both networks, from that of the inputs."""
        return f"_{self.label}" if self.suffix is None and self.restorer else self.mark()

    def extension_for(self, source: Path | Address, *, video: bool = False) -> str:
        writable = WRITABLE_VIDEOS if video else WRITABLE_SUFFIXES
        if self.extension in writable:
            return self.extension
        return source.suffix if source.suffix.lower() in writable else ".mkv" if video else ".png"

    def is_output(self, path: Path, stems: set[str]) -> bool:
        """Whether `path` is what an earlier run made of a neighbor; `stems` are those of its folder."""
        size = r"(?:x[\d.]+|\d+x\d+|(?:long|short)\d+)"
        models = [model.replace("/", "-") for model in (self.model, self.restorer) if model]
        either = "|".join(re.escape(re.sub(f"_{size}$", "", model)) for model in models)
        mark = f"_(?:{either})(?:_{size}){{1,2}}" if self.suffix is None else re.escape(self.suffix)
        match = re.fullmatch(rf"(.+?){mark}(?:{PREVIEW}\d)?", path.stem)
        return bool(match and (match[1] in stems or Path(match[1]).stem in stems))


def plan_jobs(inputs: Sequence[str | Path], output: Path | None, naming: Naming) -> Plan:
    """The jobs for files and folders, in the order of `inputs`, within a folder by path.

    In folders everything hidden, everything that is neither image nor video by its suffix, the output folder, the outputs of
    earlier runs and folders of unfinished videos are left out. Animated pictures are videos.

    Raises: UsageError when `output` does not suit the inputs.
    """
    return _Planner([Address.of(str(one)) or Path(one) for one in inputs], output, naming).plan()


@dataclass
class _Planner:
    inputs: Sequence[Path | Address]
    output: Path | None
    naming: Naming
    failures: list[Failure] = field(default_factory=list)
    notes: list[tuple[Path | Address, str]] = field(default_factory=list)
    _realpath: Callable[[Path], str] = field(default_factory=lambda: cache(os.path.realpath))

    def plan(self) -> Plan:
        folders = [path for path in self.inputs if isinstance(path, Path) and path.is_dir()]
        single = len(self.inputs) == 1 and not folders
        to_file = self.output is not None and self._is_file_name(self.output, single=single)
        if to_file and not single:
            raise UsageError(f"-o {self.output}: names one file, but the inputs are several; give a folder")
        bases = {path: self._base(path, several=len(folders) > 1) for path in folders}
        outputs = {os.path.realpath(base) for base in bases.values()}
        if self.output is not None:
            outputs.add(os.path.realpath(self.output))

        wanted: dict[str, Job] = {}
        for path in self.inputs:
            if isinstance(path, Path) and path in bases:
                jobs = [
                    self._job(source, bases[path] / source.parent.relative_to(path)) for source in self._scan(path, outputs)
                ]
            elif self._is_readable(path):
                jobs = [self._named(path) if to_file else self._job(path, self.output or Path(str(path)).parent)]
            else:
                jobs = []
            for job in jobs:
                wanted.setdefault(_real(job.source), job)
        planned = tuple(self._without_overwriting(_without_clashes(list(wanted.values()), self._tail)))
        self._tell_what_is_restored([job.source for job in planned if job.restore])
        return Plan(planned, tuple(self.failures), tuple(self.notes))

    def _tell_what_is_restored(self, sources: Sequence[Path | Address]) -> None:
        if sources:
            what = "it" if len(sources) == 1 else f"it, and {len(sources) - 1} more,"
            network, usual = (str(name).replace("_", "-") for name in (self.naming.restorer, self.naming.model))
            why = f"{what} lost much to JPEG, and {network} restores that; -m {usual} would not"
            self.notes.append((sources[0], why))

    def _is_file_name(self, output: Path, *, single: bool) -> bool:
        if names_stream(output):
            if not single or not holds_video(self.inputs[0]):
                raise UsageError(f"-o {output}: takes the frames of one video; give one video, or another output")
            return True
        suffix = output.suffix.lower()
        writable = WRITABLE_SUFFIXES | WRITABLE_VIDEOS
        if not suffix or output.is_dir() or (suffix not in writable and not single):
            return False
        if single:
            writable = WRITABLE_VIDEOS if holds_video(self.inputs[0]) else WRITABLE_SUFFIXES
        if suffix not in writable:
            kind = "a video" if writable is WRITABLE_VIDEOS else "an image"
            raise UsageError(f"-o {output}: neither a folder that exists nor {kind} that can be written; {WRITES}")
        if self.naming.extension not in (None, suffix) and {self.naming.extension, suffix} != {".jpg", ".jpeg"}:
            raise UsageError(f"-o {output} and -f {self.naming.extension}: contradict each other; give one of them")
        return True

    def _base(self, folder: Path, *, several: bool) -> Path:
        """The folder that mirrors `folder`."""
        named = folder if folder.name not in ("", "..") else folder.resolve()
        if not named.name:
            raise UsageError(f"{folder}: has no folder beside it; say where the outputs go with -o")
        if self.output is not None:
            return self.output / named.name if several else self.output
        mark = self.naming.folder_mark
        return named.with_name(named.name + mark) if mark else named

    def _scan(self, folder: Path, outputs: set[str]) -> Iterator[Path]:
        seen = set()
        found = ignored = 0
        for where, names, files in os.walk(folder, followlinks=True, onerror=self._on_unreadable):
            at = Path(where)
            seen.add(os.path.realpath(at))
            left_out = seen | outputs
            names[:] = sorted(name for name in names if not _is_hidden(name) and os.path.realpath(at / name) not in left_out)
            readable = READABLE_SUFFIXES | READABLE_VIDEOS
            images = [at / name for name in sorted(files) if not name.startswith(".") and _suffix(name) in readable]
            stems = {image.stem for image in images}
            for image in images:
                if kind := odd_kind(image):
                    self.notes.append((image, f"left out: it is {kind}, no picture"))
                    continue
                if self.naming.mark() and self.naming.is_output(image, stems):
                    ignored += 1
                    continue
                found += 1
                yield image
        if ignored:
            self.notes.append((folder, f"{ignored} outputs of earlier runs left out"))
        if not found:
            self.notes.append((folder, f"holds no images and no videos; {READS}"))

    def _on_unreadable(self, error: OSError) -> None:
        self.failures.append(Failure(Path(error.filename), f"cannot be listed ({error.strerror})"))

    def _is_readable(self, path: Path | Address) -> bool:
        if isinstance(path, Address) or names_stream(path):
            if self.output is None and (isinstance(path, Address) or path == PIPE):
                raise UsageError(f"{path}: an address or standard input has no name for an output beside it; give one with -o")
            return True
        if not path.exists():
            self.failures.append(Failure(path, "no such file or folder"))
        elif kind := odd_kind(path):
            self.failures.append(Failure(path, f"it is {kind}; expected an image, a video or a folder"))
        elif path.suffix and path.suffix.lower() not in READABLE_SUFFIXES | READABLE_VIDEOS and not _begins_as_video(path):
            self.failures.append(Failure(path, f"neither an image nor a video; {READS}"))
        else:
            return True
        return False

    def _named(self, source: Path | Address) -> Job:
        """The one job whose target the user named."""
        assert self.output is not None
        return self._placed(source, self.output)

    def _job(self, source: Path | Address, folder: Path) -> Job:
        job = self._placed(source, folder / source.name)
        extension = self.naming.extension_for(source, video=job.video)
        return replace(job, target=folder / f"{source.stem}{self._tail(job)}{extension}")

    def _placed(self, source: Path | Address, target: Path) -> Job:
        video = holds_video(source)
        restore = self.naming.restorer is not None and not video and isinstance(source, Path) and file_lost_much(source)
        return Job(source, target, video=video, restore=restore)

    def _tail(self, job: Job) -> str:
        """What goes behind the stem, in the folder of the target."""
        beside = isinstance(job.source, Path) and self._realpath(job.source.parent) == self._realpath(job.target.parent)
        return self.naming.mark(restored=job.restore) if beside else self.naming.suffix or ""

    def _without_overwriting(self, jobs: list[Job]) -> Iterator[Job]:
        inputs = {_identity(job.source): job.source for job in jobs if isinstance(job.source, Path)}
        for job in jobs:
            found = _identity(job.target)
            if found is None:
                yield job
            elif found in inputs:
                message = f"its output {job.target} would overwrite the input {inputs[found]}; change --suffix, -f or -o"
                self.failures.append(Failure(job.source, message))
            elif kind := odd_kind(job.target):
                self.failures.append(Failure(job.source, f"its output {job.target} is {kind}; change --suffix, -f or -o"))
            else:
                yield job


def holds_video(path: Path | Address) -> bool:
    """Whether an input is a video: a file by its suffix, and where pictures may move, by its content; an address always."""
    if isinstance(path, Address) or names_stream(path):
        return True
    suffix = path.suffix.lower()
    if suffix not in PICTURES_THAT_MOVE:
        return suffix in READABLE_VIDEOS or (suffix not in READABLE_SUFFIXES and _begins_as_video(path))
    return is_animated(path)


def _begins_as_video(path: Path) -> bool:
    from sr_deploy.filetypes import begins_as_video

    return begins_as_video(path)


def _is_hidden(name: str) -> bool:
    """Whether a folder is none of the user's pictures; FILM.mkv.part holds the segments of a video that is not finished."""
    return name.startswith(".") or Path(name).suffix == ".part"


def _without_clashes(jobs: list[Job], tail_of: Callable[[Job], str]) -> list[Job]:
    """Give targets that differ, also where file names ignore case.

    The picture that has the name of the target anyway keeps it; the others get their own full names: a.jpg -> a.jpg.png.
    """
    claims: dict[str, list[Job]] = defaultdict(list)
    for job in jobs:
        claims[_key(job.target)].append(job)
    taken = set(claims)
    winners = {key: next((job for job in group if _keeps(job)), None) for key, group in claims.items() if len(group) > 1}

    resolved = []
    for job in jobs:
        key = _key(job.target)
        if key not in winners or winners[key] is job:
            resolved.append(job)
            continue
        tail = tail_of(job) + job.target.suffix
        target, number = job.target.with_name(f"{job.source.name}{tail}"), 1
        while _key(target) in taken:
            number += 1
            target = job.target.with_name(f"{job.source.name}-{number}{tail}")
        taken.add(_key(target))
        others = ", ".join(str(other.source) for other in claims[key] if other is not job)
        resolved.append(
            replace(job, target=target, note=f"named {target.name}, because {others} becomes {job.target.name} too")
        )
    return resolved


def _keeps(job: Job) -> bool:
    return _suffix(job.source.name) == _suffix(job.target.name)


def _key(path: Path) -> str:
    return unicodedata.normalize("NFC", _real(path)).casefold()


def _real(path: Path | Address) -> str:
    """The one spelling of a path whose last part may be a link of its own right, or not exist."""
    if isinstance(path, Address):
        return path.url
    return os.path.join(os.path.realpath(path.parent), path.name)  # noqa: PTH118  (this is about strings)


def _suffix(name: str) -> str:
    return Path(name).suffix.lower()


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
