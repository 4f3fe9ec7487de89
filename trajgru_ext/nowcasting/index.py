"""An index of the files of an archive: what frames each has, found once and kept."""

import hashlib
import json
import os
import re
import signal
import sqlite3
from array import array
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from trajgru_ext.nowcasting.frames import FramesError, Reading
from trajgru_ext.nowcasting.grids import Grid
from trajgru_ext.nowcasting.radar import ZR
from trajgru_ext.nowcasting.readers import is_readable, opened, signature_of, time_of

# Below this many files, to start processes takes longer than to read the headers.
ALONE = 2000
WAIT = 600.0  # seconds for another process
SAVE_EVERY = 1000  # files; an index that is interrupted goes on from there
VERSION = 1


@dataclass(frozen=True)
class Kind:
    """What frames of many files have in common."""

    shape: tuple[int, int, int, int]  # N, T, H, W
    quantity: str | None
    grid: Grid | None
    zr: ZR | None

    def to_text(self) -> str:
        """As JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def of_text(cls, text: str) -> "Kind":
        """From JSON."""
        made = json.loads(text)
        n, t, h, w = made["shape"]
        grid = Grid(**made["grid"]) if made["grid"] else None
        zr = ZR(**made["zr"]) if made["zr"] else None
        return cls((n, t, h, w), made["quantity"], grid, zr)


@dataclass(frozen=True)
class Entry:
    """A file of the archive."""

    path: Path
    kind: Kind
    times: NDArray[np.datetime64] | None


class Files:
    """The files of an archive, some two hundred bytes each.

    Args:
        kinds: by number.
        rows: path, number of the kind, and times as bytes or None, of each file.

    """

    def __init__(
        self, kinds: dict[int, Kind], rows: Sequence[tuple[str, int, bytes | None]]
    ) -> None:
        self.kinds = kinds
        self._paths = [path for path, _, _ in rows]
        self._numbers = array("q", (number for _, number, _ in rows))
        times = [blob for _, _, blob in rows]
        self._timed = np.array([blob is not None for blob in times], bool)
        self._times = np.frombuffer(b"".join(filter(None, times)), "datetime64[s]")
        counts = [0, *(len(blob or b"") // self._times.itemsize for blob in times)]
        self._ends = np.cumsum(counts)

    def __len__(self) -> int:
        return len(self._paths)

    def __iter__(self) -> Iterator[Entry]:
        return (self[number] for number in range(len(self)))

    def __getitem__(self, number: int) -> Entry:
        begin, end = self._ends[number : number + 2].tolist()
        times = self._times[begin:end] if self._timed[number] else None
        kind = self.kinds[self._numbers[number]]
        return Entry(Path(self._paths[number]), kind, times)


def find_files(root: Path, reading: Reading) -> list[tuple[Path, int, int]]:
    """All files with frames under a folder, in natural order, with size and time.

    Raises:
        FramesError: there are none.

    """
    if not root.exists():
        raise FramesError(f"{root}: no such file or folder")
    found = []

    def look(path: Path) -> None:
        with os.scandir(path) as entries:
            for entry in entries:
                inside = Path(entry.path)
                if entry.is_dir() and inside.suffix != ".zarr":
                    look(inside)
                elif not entry.name.startswith(".") and is_readable(inside, reading):
                    found.append((inside, *state_of(inside)))

    if root.is_dir() and root.suffix != ".zarr":
        look(root)
    elif is_readable(root, reading):
        found.append((root, *state_of(root)))
    if not found:
        from trajgru_ext.nowcasting.readers import READERS  # noqa: PLC0415

        wanted = ", ".join(READERS)
        raise FramesError(f"{root}: wanted a file or a folder of {wanted}")
    return sorted(found, key=lambda one: natural_order(str(one[0])))


def state_of(path: Path) -> tuple[int, int]:
    """Size and time of change of a file; of a Zarr store, of what describes it."""
    states = [path.stat()]
    if path.is_dir():
        states += [one.stat() for one in path.glob("*/*") if _describes(one)]
        states += [one.stat() for one in path.glob("*") if _describes(one)]
    sizes = sum(state.st_size for state in states)
    return sizes, max(state.st_mtime_ns for state in states)


def _describes(path: Path) -> bool:
    return path.suffix == ".json" or path.name.startswith(".z")


def natural_order(name: str) -> list[tuple[int, str]]:
    """Sort key under which frame 2 comes before frame 10."""
    parts = re.split(r"([0-9]+)", name)
    return [(int(p), "") if p.isdecimal() else (-1, p) for p in parts]


def default_index(root: Path, reading: Reading) -> Path:
    """Where the index of an archive is kept when nobody says otherwise."""
    home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    options = json.dumps(asdict(reading), default=str, sort_keys=True)
    name = hashlib.sha256(f"{root.resolve()} {options}".encode()).hexdigest()[:16]
    return home / "trajgru_ext" / f"frames-{name}.sqlite"


class Index:
    """The index in a file of SQLite.

    Args:
        path: the file, made where there is none; None keeps it in memory.
        reading: how files are read; an index made with other options is made anew.

    """

    def __init__(self, path: Path | None, reading: Reading) -> None:
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.reading = path, reading
        try:
            # Another process may be making the same index.
            name = ":memory:" if path is None else str(path)
            self.database = sqlite3.connect(name, timeout=WAIT)
            self._prepare()
        except sqlite3.DatabaseError as error:
            raise self._unusable(error) from error

    def _unusable(self, error: sqlite3.DatabaseError) -> FramesError:
        return FramesError(f"{self.path}: cannot be used as an index ({error})")

    def _prepare(self) -> None:
        do = self.database.execute
        do("CREATE TABLE IF NOT EXISTS made (options TEXT)")
        options = json.dumps([VERSION, asdict(self.reading)], default=str)
        if do("SELECT options FROM made").fetchall() != [(options,)]:
            for table in ("made", "kinds", "files"):
                do(f"DROP TABLE IF EXISTS {table}")
            do("CREATE TABLE made (options TEXT)")
            do("INSERT INTO made VALUES (?)", (options,))
            do("CREATE TABLE kinds (id INTEGER PRIMARY KEY, kind TEXT UNIQUE)")
            do(
                "CREATE TABLE files (path TEXT PRIMARY KEY, size INTEGER, "
                "modified INTEGER, kind INTEGER, times BLOB)"
            )
            self.database.commit()

    def update(self, root: Path, *, progress: bool = True) -> Files:
        """Read the headers of new and changed files; forget those that are gone.

        Returns:
            All files under the root, in natural order.

        """
        try:
            return self._update(find_files(root, self.reading), progress)
        except sqlite3.DatabaseError as error:
            raise self._unusable(error) from error

    def _update(self, files: Sequence[tuple[Path, int, int]], progress: bool) -> Files:
        known = {
            path: (size, modified)
            for path, size, modified in self.database.execute(
                "SELECT path, size, modified FROM files"
            )
        }
        state = {str(path): (size, modified) for path, size, modified in files}
        gone = [(path,) for path in known.keys() - state.keys()]
        self.database.executemany("DELETE FROM files WHERE path = ?", gone)
        new = [path for path, now in state.items() if known.get(path) != now]
        made = _described([Path(path) for path in new], self.reading)
        bar = tqdm(
            made,
            desc="indexing",
            unit="file",
            total=len(new),
            disable=not progress or len(new) < SAVE_EVERY // 10,
        )
        kinds: dict[str, int] = {}
        for count, (path, kind, times) in enumerate(bar, 1):
            if kind not in kinds:
                do = self.database.execute
                do("INSERT OR IGNORE INTO kinds (kind) VALUES (?)", (kind,))
                (kinds[kind],) = do(
                    "SELECT id FROM kinds WHERE kind = ?", (kind,)
                ).fetchone()
            row = path, *state[path], kinds[kind], times
            self.database.execute(
                "INSERT OR REPLACE INTO files VALUES (?,?,?,?,?)", row
            )
            if count % SAVE_EVERY == 0:
                self.database.commit()
        self.database.commit()
        return self._entries(state)

    def _entries(self, paths: Iterable[str]) -> Files:
        rows = {
            path: (kind, times)
            for path, kind, times in self.database.execute(
                "SELECT path, kind, times FROM files"
            )
        }
        ordered = [(path, *rows[path]) for path in paths]
        used = {kind for _, kind, _ in ordered}
        kinds = {
            number: Kind.of_text(text)
            for number, text in self.database.execute("SELECT id, kind FROM kinds")
            if number in used
        }
        return Files(kinds, ordered)


Described = tuple[str, str, bytes | None]  # path, kind as JSON, times as bytes
_kinds: dict[tuple[Reading, str], Kind] = {}  # by signature; of this process


def _described(files: list[Path], reading: Reading) -> Iterator[Described]:
    if len(files) < ALONE:
        yield from (_describe(path, reading) for path in files)
        return
    # Not forked: torch's threads would not live on in a copy of the process.
    context = get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), context, _leave_interruptions, ()) as pool:
        readings = [reading] * len(files)
        yield from pool.map(_describe, files, readings, chunksize=100)


def _leave_interruptions() -> None:
    """Of a process of the pool: Ctrl-C reaches it too, but its parent stops it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _describe(path: Path, reading: Reading) -> Described:
    """What is in a file; of files of one signature, only the first is opened whole."""
    signature = signature_of(path, reading)
    key = reading, signature or ""
    times: NDArray[np.datetime64] | None
    if signature is not None and key in _kinds:
        time = time_of(path, reading)
        times = None if time is None else np.array([time])
    else:
        with opened(path, reading) as contents:
            times = contents.times
            about = contents.shape, contents.quantity, contents.grid, contents.zr
        _kinds[key] = Kind(*about)
    text = _kinds[key].to_text()
    packed = None if times is None else times.astype("datetime64[s]").tobytes()
    return str(path), text, packed
