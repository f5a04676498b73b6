"""Where the images of a folder, a table or an archive are, and which labels they have."""

from __future__ import annotations

import csv
import json
import os
import shutil
import tarfile
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from striate.datasets import image_reading
from striate.datasets.registry import DataError
from striate.errors import one_line

TRAIN, VAL, TEST = "train", "val", "test"
# What folders and tables call the parts.
PARTS = {
    "train": TRAIN, "training": TRAIN, "val": VAL, "valid": VAL, "validation": VAL, "dev": VAL,
    "test": TEST, "testing": TEST,
}  # fmt: skip
TABLES = (".csv", ".tsv", ".jsonl", ".parquet")
TABLE_NAMES = ("metadata", "labels")  # the first is that of Hugging Face's imagefolder
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
# Columns of tables, in lower case, the first that is there.
FILE_COLUMNS = ("file_name", "path", "file", "filename", "image", "image_path")
LABEL_COLUMNS = ("label", "class", "target", "category")
PART_COLUMNS = ("split", "part", "set", "subset")
CLASSES = "classes.txt"  # the names of the classes, one a line, in the order of the labels
MAX_LISTED = 10  # names in a message


class Row(NamedTuple):
    """A row of a table.

    Attributes:
        table: where it stands.
        line: the number of its line, or in Parquet of the row.
        values: by column, in lower case.
    """

    table: Path
    line: int
    values: dict[str, Any]

    @property
    def where(self) -> str:
        """The table and the line, for messages."""
        return f"{self.table}, line {self.line:,}"


class Layout(NamedTuple):
    """Images and their classes, part by part.

    Attributes:
        root: that file names are relative to.
        classes: their names, in the order of the labels.
        files: by part, "train" and where they exist "val" and "test", class by class.
        labels: by part, int64 (N,).
        skipped: number of files that are not images, by kind.
    """

    root: Path
    classes: tuple[str, ...]
    files: dict[str, list[Path]]
    labels: dict[str, np.ndarray]
    skipped: Counter[str]


@contextmanager
def opened(path: Path, scratch: Path) -> Iterator[Layout]:
    """The layout of `data.path`; that of an archive is unpacked meanwhile.

    Args:
        path: a folder, a table or an archive.
        scratch: an empty folder may be made there and removed again.

    Raises:
        DataError: it is none of these, or does not fit; the message says what would.
    """
    if path.is_file() and path.name.lower().endswith(ARCHIVES):
        unpacked = scratch / "unpacked"
        try:
            yield find(_only_folder(_unpack(path, unpacked)))
        finally:
            shutil.rmtree(unpacked, ignore_errors=True)
    else:
        yield find(path)


def find(path: Path) -> Layout:
    """The layout of a folder.

    It has `train/CLASS/**`, and may have `val/` and `test/` like it; or a table in each of them, as
    Hugging Face's imagefolder; or a table `labels.csv`, or `train.csv` and others, in the folder
    itself; or a folder for each class and no `train`. A table has a column of paths and one of
    labels, and may have one of parts.

    Raises:
        DataError: it does not fit; the message says what would.
        OSError: a folder cannot be read.
    """
    if path.is_file() and path.suffix.lower() in TABLES:
        raise DataError(
            f"data.path is {path}; name the folder that holds it and the images,"
            f" -S data.path={path.parent}, so that DVC sees changes of both"
        )
    if not path.is_dir():
        raise DataError(
            f"data.path is {path}, which is not a folder; set it to the folder of your own images,"
            f" such as -S data.path=images, or to an archive of one ({', '.join(ARCHIVES)})"
        )
    folders = _part_folders(path)
    tables = _tables(path, folders)
    found = _of_tables(path, tables) if tables else _of_folders(path, folders or {TRAIN: path})
    for files in found.files.values():
        _refuse_unprintable(files)
    return found


def _refuse_unprintable(files: Sequence[Path]) -> None:
    """Refuse names that no list of files can hold."""
    for file in files:
        name = str(file)
        if "\n" in name or "\r" in name or (not name.isascii() and not _is_text(name)):
            raise DataError(f"{image_reading.printable(file)}: rename it, in one line of UTF-8")


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _tables(path: Path, folders: Mapping[str, Path]) -> dict[str, Path]:
    """The tables by part, "" for one that names the parts itself; none where folders say it."""
    found: dict[str, Path] = {}
    for table in sorted(path.iterdir()):
        stem, ending = table.stem.lower(), table.suffix.lower()
        if ending in TABLES and table.is_file() and (stem in PARTS or stem in TABLE_NAMES):
            part = PARTS.get(stem, "")
            if part in found:
                raise DataError(f"{found[part]} and {table} describe the same images; keep one")
            found[part] = table
    if found:
        if "" in found and len(found) > 1:
            raise DataError(
                f"{found['']} and tables of single parts are both in {path}; keep one kind"
            )
        return found
    for part, folder in folders.items():
        if metadata := _metadata(folder):
            found[part] = metadata
    if found and (missing := [str(f) for part, f in folders.items() if part not in found]):
        raise DataError(f"{missing[0]} has no metadata file, and another part has one")
    return found


def _metadata(folder: Path) -> Path | None:
    every = (folder / f"metadata{ending}" for ending in TABLES)
    return next((table for table in every if table.is_file()), None)


def _part_folders(path: Path) -> dict[str, Path]:
    """The folders of the parts; none if the classes lie in `path` itself."""
    found: dict[str, Path] = {}
    for entry in sorted(path.iterdir()):
        part = PARTS.get(entry.name.lower())
        if part is None:
            continue
        if part in found:
            raise DataError(f"{found[part]} and {entry} are the same part; keep one of them")
        found[part] = entry
    if found and TRAIN not in found:
        raise DataError(f"{path} has {', '.join(f.name for f in found.values())} and no train")
    return {part: found[part] for part in (TRAIN, VAL, TEST) if part in found}


def _of_folders(path: Path, folders: Mapping[str, Path]) -> Layout:
    skipped: Counter[str] = Counter()
    named = {
        part: _list_classes(folder, skipped, folder == path) for part, folder in folders.items()
    }
    if folders != {TRAIN: path}:
        names = [folder.name for folder in folders.values()]
        if outside := len(image_reading.list_images(path, without=names).files):
            skipped[f"outside {' and '.join(names)}"] = outside
    _refuse_lookalikes(folders, named)
    classes = _order(path, folders, named)
    return Layout(
        path,
        classes,
        {part: [file for name in classes for file in found[name]] for part, found in named.items()},
        {
            part: np.repeat(np.arange(len(classes)), [len(found[name]) for name in classes])
            for part, found in named.items()
        },
        skipped,
    )


def _order(
    path: Path, folders: Mapping[str, Path], named: Mapping[str, Mapping[str, list[Path]]]
) -> tuple[str, ...]:
    """The classes in the order of `classes.txt`, or else sorted; refuse parts that differ."""
    train = set(named[TRAIN])
    if len(train) < 2:
        raise DataError(f"{folders[TRAIN]} must have a folder of images for each of two classes")
    for part, found in named.items():
        if odd := sorted({*found} ^ train):
            raise DataError(
                f"{folders[TRAIN]} and {folders[part]} must have the same classes; in one only:"
                f" {', '.join(odd[:MAX_LISTED])}"
            )
    return _told_order(path, train)


def _told_order(path: Path, names: set[str]) -> tuple[str, ...]:
    told = path / CLASSES
    if not told.is_file():
        return tuple(sorted(names))
    order = _lines(told)
    if {*order} != names or len(order) != len(names):
        odd = ", ".join(sorted({*order} ^ names)[:MAX_LISTED]) or "a name stands twice"
        raise DataError(f"{told} must name each class once, a line each: {odd}")
    return tuple(order)


def _lines(path: Path) -> list[str]:
    """The lines of a file that are not empty."""
    return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def _of_tables(path: Path, tables: Mapping[str, Path]) -> Layout:
    """The layout that tables describe: one for all parts ("") or one for each part."""
    rows = []
    seen: dict[Path, str] = {}
    for part, table in tables.items():
        for row in _read_table(table):
            file = _file(row, table.parent, path)
            if file in seen:
                raise DataError(f"{row.where} names {file} again, as {seen[file]} does; keep one")
            seen[file] = row.where
            rows.append((part or _part(row), file, _value(row, LABEL_COLUMNS)))
    if not rows:
        raise DataError(f"{next(iter(tables.values()))} names no images")
    parts = {part: [row[1:] for row in rows if row[0] == part] for part in (TRAIN, VAL, TEST)}
    parts = {part: found for part, found in parts.items() if found}
    if TRAIN not in parts:
        raise DataError(f"{next(iter(tables.values()))} names no image of the part train")
    classes, number = _numbered([label for *_, label in rows], path)
    files, labels = {}, {}
    for part, found in parts.items():
        ordered = sorted(found, key=lambda row: number[row[1]])
        files[part] = [file for file, _ in ordered]
        labels[part] = np.array([number[label] for _, label in ordered])
        if odd := sorted({*classes} - {classes[index] for index in labels[part]}):
            raise DataError(f"the part {part} has no image of {', '.join(odd[:MAX_LISTED])}")
    skipped: Counter[str] = Counter()
    there = {os.path.normpath(file) for file in image_reading.list_images(path).files}
    if unnamed := len(there - {os.path.normpath(file) for file in seen}):
        skipped["not named by a table"] = unnamed
    return Layout(path, classes, files, labels, skipped)


def _numbered(labels: Sequence[str], path: Path) -> tuple[tuple[str, ...], dict[str, int]]:
    """The classes of a table's labels, and the number of each label.

    Whole numbers keep their order, and are the lines of `classes.txt` where there is one.
    """
    names = {*labels}
    if len(names) < 2:
        raise DataError(f"all images have the label {labels[0]}; there must be two classes")
    told = path / CLASSES
    if not all(name.isdecimal() for name in names):
        classes = ordered = _told_order(path, names)
    else:
        classes = ordered = tuple(sorted(names, key=int))
        if told.is_file():
            lines = _lines(told)
            if int(ordered[-1]) >= len(lines):
                raise DataError(f"{told} has {len(lines)} lines, and a label is {ordered[-1]}")
            classes = tuple(lines[int(name)] for name in ordered)
    return classes, {name: index for index, name in enumerate(ordered)}


def _read_table(table: Path) -> Iterator[Row]:
    """The rows of a table."""
    number = 0
    try:
        for number, row in _numbered_rows(table):
            values = {str(key).lower(): value for key, value in row.items()}
            yield Row(table, number, values)
    except UnicodeDecodeError:
        raise DataError(f"{table} is not written in UTF-8; save it so") from None
    except (OSError, ValueError, AttributeError, csv.Error) as error:  # Arrow's are ValueErrors
        after = f" after line {number:,}" if number else ""
        raise DataError(f"{table} cannot be read{after}: {one_line(error)}") from None


def _numbered_rows(table: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a table with their lines; those of Parquet are counted from 1."""
    ending = table.suffix.lower()
    if ending == ".parquet":
        from pyarrow import parquet

        yield from enumerate(parquet.read_table(table).to_pylist(), 1)
        return
    with table.open(newline="", encoding="utf-8-sig") as stream:
        if ending == ".jsonl":
            for number, line in enumerate(stream, 1):
                if line.strip():
                    yield number, json.loads(line)
        else:
            delimiter = "\t" if ending == ".tsv" else ","
            reader = csv.DictReader(stream, delimiter=delimiter, skipinitialspace=True)
            for row in reader:
                yield reader.line_num, row


def _value(row: Row, columns: Sequence[str]) -> str:
    name = next((name for name in columns if name in row.values), None)
    if name is None:
        wanted, known = " or ".join(columns), ", ".join(row.values)
        raise DataError(f"{row.table} must have a column {wanted}; it has {known}")
    value = row.values[name]
    if isinstance(value, dict | bytes):
        raise DataError(f"{row.table}: the column {name} holds images; it must hold paths of files")
    if value is None or str(value).strip() == "":
        raise DataError(f"{row.where}: there is no {name}")
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _file(row: Row, folder: Path, root: Path) -> Path:
    file = folder / _value(row, FILE_COLUMNS)
    # Else DVC would not see its changes.
    if not Path(os.path.normpath(file)).is_relative_to(os.path.normpath(root)):
        raise DataError(f"{row.where} names {file}, which does not lie in {root}")
    return file


def _part(row: Row) -> str:
    if not {*PART_COLUMNS} & {*row.values}:
        return TRAIN
    told = _value(row, PART_COLUMNS)
    if told.lower() not in PARTS:
        raise DataError(f"{row.where}: the part is {told}; it must be train, val or test")
    return PARTS[told.lower()]


def _list_classes(folder: Path, skipped: Counter[str], is_root: bool) -> dict[str, list[Path]]:
    """Map each class to its image files, sorted by path; count other files in `skipped`."""
    if not folder.is_dir():
        raise DataError(
            f"{folder} is not a folder; data.path must contain a folder train with a folder of"
            " images for each class, and may contain folders val and test of the same kind"
        )
    listing = image_reading.list_images(folder)
    for link in [folder] if folder.is_symlink() and not is_root else listing.links:
        raise DataError(
            f"{link} is a link to {'a folder' if link.exists() else 'nothing'}, and DVC does not"
            " see changes behind it; put the folder itself there (a copy, or `mount --bind`):"
            " only data.path itself and single files may be links"
        )
    found: dict[str, list[Path]] = {
        entry.name: []
        for entry in sorted(folder.iterdir())
        if entry.is_dir() and not image_reading.is_hidden(entry.name)
    }
    for file in listing.files:
        name, *below = file.relative_to(folder).parts
        if below:
            found[name].append(file)
        else:
            skipped["not in a class folder"] += 1
    skipped.update(listing.skipped)
    empty = ", ".join(name for name, files in found.items() if not files)
    if empty:
        note = f" ({image_reading.describe_skipped(skipped)})" if skipped else ""
        raise DataError(f"{folder} has folders without images: {empty}{note}; fill or remove them")
    return found


def _refuse_lookalikes(
    folders: Mapping[str, Path], named: Mapping[str, Mapping[str, list[Path]]]
) -> None:
    """Refuse class names that differ only in Unicode normal form or white space."""
    seen: dict[str, Path] = {}
    for part, classes in named.items():
        for name in classes:
            normalized = " ".join(unicodedata.normalize("NFC", name).split())
            first = seen.setdefault(normalized, folders[part] / name)
            if first.name != name:
                raise DataError(
                    f"{first} and {folders[part] / name} look the same, but are spelt"
                    f" {first.name!a} and {name!a}; give the class one name"
                )


def _unpack(archive: Path, folder: Path) -> Path:
    """Unpack an archive; its members may not lie outside of it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        if archive.suffix.lower() == ".zip":
            with zipfile.ZipFile(archive) as packed:
                # `extractall` strips `..`, and the next folder of such a path would be a class.
                for name in packed.namelist():
                    if ".." in Path(name.replace("\\", "/")).parts:
                        raise DataError(f"{archive} has a member {name!r:.80}, outside of itself")
                packed.extractall(folder)  # noqa: S202  it strips drives and roots
        else:
            with tarfile.open(archive) as packed_tar:
                packed_tar.extractall(folder, filter="data")
    except (OSError, EOFError, zipfile.BadZipFile, tarfile.TarError, RuntimeError) as error:
        raise DataError(f"{archive} cannot be unpacked: {one_line(error)}") from None
    return folder


def _only_folder(folder: Path) -> Path:
    """The folder that all of an archive lies in, where there is one."""
    entries = [one for one in folder.iterdir() if not image_reading.is_hidden(one.name)]
    is_wrapped = len(entries) == 1 and entries[0].is_dir() and entries[0].name.lower() not in PARTS
    return _only_folder(entries[0]) if is_wrapped else folder
