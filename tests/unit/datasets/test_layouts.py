"""The layouts in which people keep images: all give the same data."""

import csv
import json
import re
import shutil
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image
from pyarrow import Table, parquet
from stored_images import read

from striate.datasets import layouts
from striate.datasets.registry import DataError

PARTS, CLASSES = {"train": 6, "val": 2, "test": 3}, ("bee", "ant", "cow")


def picture(part, name, number):
    """An image that belongs to one place of the data set alone."""
    random = np.random.RandomState([[*PARTS].index(part), CLASSES.index(name), number])
    return Image.fromarray(random.randint(0, 256, (10, 10, 3), np.uint8))


def rows():
    return [
        (part, name, number)
        for part, count in PARTS.items()
        for name in CLASSES
        for number in range(count)
    ]


def folders(root):
    for part, name, number in rows():
        (root / part / name).mkdir(parents=True, exist_ok=True)
        picture(part, name, number).save(root / part / name / f"{number}.png")


def flat(root):
    """All files side by side; returns a row for each: file, class and part."""
    root.mkdir(parents=True, exist_ok=True)
    table = []
    for part, name, number in rows():
        file = f"{part}-{name}-{number}.png"
        picture(part, name, number).save(root / file)
        table.append({"file_name": file, "label": name, "split": part})
    return table


def write_csv(path, table, delimiter=","):
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(table[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(table)


def as_folders(root):
    folders(root)
    return root


def as_other_names(root):
    folders(root)
    (root / "val").rename(root / "Validation")
    (root / "test").rename(root / "testing")
    return root


def as_csv(root):
    write_csv(root / "labels.csv", flat(root))
    return root


def as_tsv_in_another_order(root):
    table = [{"Image": row["file_name"], "Class": row["label"], "Set": row["split"]}
             for row in reversed(flat(root))]  # fmt: skip
    write_csv(root / "labels.tsv", table[::-1], "\t")
    return root


def as_csv_of_each_part(root):
    table = flat(root)
    for part in PARTS:
        own = [{"path": row["file_name"], "label": row["label"]} for row in table
               if row["split"] == part]  # fmt: skip
        write_csv(root / f"{part}.csv", own)
    return root


def as_parquet(root):
    parquet.write_table(Table.from_pylist(flat(root)), root / "metadata.parquet")
    return root


def as_hugging_face(root):
    for part in PARTS:
        own = [row for row in flat(root / part) if row["split"] == part]
        for row in flat(root / part):
            if row["split"] != part:
                (root / part / row["file_name"]).unlink()
        lines = [json.dumps({"file_name": row["file_name"], "label": row["label"]}) for row in own]
        (root / part / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return root


def as_zip(root):
    folders(root / "unpacked/wrapped")
    shutil.make_archive(str(root / "images"), "zip", root / "unpacked")
    return root / "images.zip"


def as_tar(root):
    folders(root / "unpacked")
    with tarfile.open(root / "images.tar.gz", "w:gz") as packed:
        packed.add(root / "unpacked", ".")
    return root / "images.tar.gz"


@pytest.mark.parametrize(
    "layout",
    [as_folders, as_other_names, as_csv, as_tsv_in_another_order, as_csv_of_each_part, as_parquet,
     as_hugging_face, as_zip, as_tar],
)  # fmt: skip
def test_every_layout_gives_the_same_images_and_labels(tmp_path, layout):
    root = tmp_path / "images"
    root.mkdir()
    found = read(layout(root))
    assert found.classes == ("ant", "bee", "cow")
    for part, count in PARTS.items():
        images, labels = getattr(found, part)
        expected = [
            (np.asarray(picture(part, name, number)).transpose(2, 0, 1), index)
            for index, name in enumerate(found.classes)
            for number in range(count)
        ]
        assert labels.tolist() == [index for _, index in expected]
        assert (images == np.stack([image for image, _ in expected])).all()
        assert len(found.files[part]) == 3 * count
    assert found.skipped == {}
    assert found.duplicates == found.conflicts == ()


def test_a_folder_of_classes_alone_is_split(tmp_path):
    folders(tmp_path / "all")
    found = read(tmp_path / "all/train", test_size=0.5)
    assert found.classes == ("ant", "bee", "cow")
    assert found.counts == {"train": 9, "test": 9}
    assert not hasattr(found, "val")


def test_classes_have_the_order_of_a_list(tmp_path):
    folders(tmp_path)
    (tmp_path / "classes.txt").write_text("cow\nant\nbee\n")
    found = read(tmp_path)
    assert found.classes == ("cow", "ant", "bee")
    assert (found.test.images[0] == np.asarray(picture("test", "cow", 0)).transpose(2, 0, 1)).all()


def test_whole_numbers_are_labels_in_their_order_and_lines_of_the_list(tmp_path):
    table = [
        row | {"label": {"ant": 10, "bee": 2, "cow": 0}[row["label"]]} for row in flat(tmp_path)
    ]
    write_csv(tmp_path / "labels.csv", table)
    assert read(tmp_path).classes == ("0", "2", "10")
    (tmp_path / "classes.txt").write_text("".join(f"kind {n}\n" for n in range(11)))
    assert read(tmp_path).classes == ("kind 0", "kind 2", "kind 10")


def both_vals(root):
    folders(root)
    shutil.copytree(root / "val", root / "valid")


def no_train(root):
    folders(root)
    shutil.rmtree(root / "train")


def odd_order(root):
    folders(root)
    (root / "classes.txt").write_text("ant\nbee\ndog\n")


def outside(root):
    table = flat(root)
    write_csv(root / "labels.csv", [*table, table[0] | {"file_name": "../other.png"}])


def odd_part(root):
    table = flat(root)
    write_csv(root / "labels.csv", [table[0] | {"split": "extra"}, *table])


def no_labels(root):
    write_csv(root / "labels.csv", [{"file": row["file_name"]} for row in flat(root)])


def empty_label(root):
    table = flat(root)
    write_csv(root / "labels.csv", [table[0] | {"label": ""}, *table[1:]])


def gone(root):
    table = flat(root)
    write_csv(root / "labels.csv", table)
    (root / table[4]["file_name"]).unlink()


def not_json(root):
    flat(root)
    (root / "metadata.jsonl").write_text("{no json")


def not_json_later(root):
    rows = "".join(f"{json.dumps(row)}\n" for row in flat(root)[:3])
    (root / "metadata.jsonl").write_text(f"{rows}{{no json")


def latin_1(root):
    table = flat(root)
    write_csv(root / "labels.csv", [row | {"label": f"{row['label']}-é"} for row in table])
    text = (root / "labels.csv").read_text()
    (root / "labels.csv").write_bytes(text.encode("latin-1"))


def named_twice(root):
    table = flat(root)
    write_csv(root / "labels.csv", [*table, table[0] | {"label": "cow"}])


def a_class_without_test_images(root):
    table = [row for row in flat(root) if (row["label"], row["split"]) != ("bee", "test")]
    write_csv(root / "labels.csv", table)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (both_vals, "are the same part; keep one of them"),
        (no_train, "has test, val and no train"),
        (odd_order, "classes.txt must name each class once, a line each: cow, dog"),
        (outside, "other.png, which does not lie in "),
        (odd_part, "labels.csv, line 2: the part is extra; it must be train, val or test"),
        (no_labels, "labels.csv must have a column label or class or target or category; it has"),
        (empty_label, "labels.csv, line 2: there is no label"),
        (gone, "train-bee-4.png cannot be read: No such file or directory"),
        (not_json, "metadata.jsonl cannot be read: "),
        (not_json_later, "metadata.jsonl cannot be read after line 3: "),
        (latin_1, "labels.csv is not written in UTF-8; save it so"),
        (named_twice, "-bee-0.png again, as "),
        (a_class_without_test_images, "the part test has no image of bee"),
    ],
)
def test_what_does_not_fit_is_explained(tmp_path, spoil, said):
    spoil(tmp_path)
    with pytest.raises(DataError, match=re.escape(said)):
        read(tmp_path)


def test_images_that_a_table_does_not_name_are_counted(tmp_path):
    as_csv(tmp_path)
    Image.new("RGB", (8, 8)).save(tmp_path / "extra.png")
    assert layouts.find(tmp_path).skipped == {"not named by a table": 1}


def test_blanks_behind_commas_belong_to_no_name(tmp_path):
    as_csv(tmp_path)
    table = tmp_path / "labels.csv"
    classes = layouts.find(tmp_path).classes
    table.write_text(table.read_text().replace(",", ", "))
    assert layouts.find(tmp_path).classes == classes


def test_a_column_of_images_is_no_column_of_paths(tmp_path):
    rows = [{"image": {"bytes": b"PNG", "path": "a.png"}, "label": label} for label in (0, 1)]
    parquet.write_table(Table.from_pylist(rows), tmp_path / "train.parquet")
    with pytest.raises(DataError, match=r"train\.parquet: the column image holds images; it must"):
        layouts.find(tmp_path)


def test_a_table_alone_is_no_path(tmp_path):
    write_csv(tmp_path / "labels.csv", flat(tmp_path))
    with pytest.raises(DataError, match=re.escape(f"-S data.path={tmp_path}, so that DVC sees")):
        layouts.find(tmp_path / "labels.csv")


def test_an_archive_cannot_write_outside_and_a_damaged_one_is_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as packed:
        packed.writestr("../escaped.png", b"x")
    with (
        pytest.raises(DataError, match=re.escape("a member '../escaped.png', outside of itself")),
        layouts.opened(tmp_path / "bad.zip", tmp_path / "scratch"),
    ):
        pass
    assert not (tmp_path / "escaped.png").exists()
    (tmp_path / "torn.tar").write_bytes(b"no archive")
    with (
        pytest.raises(DataError, match=re.escape("torn.tar cannot be unpacked: ")),
        layouts.opened(tmp_path / "torn.tar", tmp_path / "scratch"),
    ):
        pass
    assert not (tmp_path / "scratch/unpacked").exists()
