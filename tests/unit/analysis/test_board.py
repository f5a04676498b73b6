"""Everybody's experiments on one page."""

import re
import subprocess
import time

import classroom
import pytest
from pages import Page
from repositories import start

from striate.analysis import board
from striate.tracking import groups, pushed, records, times
from striate.tracking.pushed import Commit


@pytest.fixture
def made(tmp_path):
    return classroom.repository(tmp_path)


def refs(clone):
    fetched = clone.folder / ".git/FETCH_HEAD"
    listed = clone.run("git", "for-each-ref", "refs/heads", "refs/remotes", "refs/exps")
    return listed, fetched.read_text() if fetched.exists() else None


def rows(clone, path="reports/board.html"):
    """The texts of the cells of each row."""
    page = (clone.folder / path).read_text()
    return [
        [re.sub("<[^>]+>", " ", cell).strip() for cell in re.findall("<td.*?</td>", row)]
        for row in re.findall("<tr.*?</tr>", page, re.S)
        if "<td" in row
    ]


@pytest.mark.slow
def test_what_two_people_pushed_is_on_one_page_without_their_files(made):
    one, two = made.person("one"), made.person("two")
    for seed, val in enumerate((0.95, 0.96, 0.97)):
        name = "one-deeper" + f"-seed{seed}" * bool(seed)
        classroom.experiment(one, name, "Person & 1", seed=seed, val=val, model__layers=3)
    classroom.experiment(two, "two-deeper", "Person 2", seed=3, val=0.98, model__layers=3)
    classroom.experiment(two, "two-wide", "Person 2", val=0.99, accuracy=0.5, model__width=8)
    for clone in (one, two):
        clone.run("dvc", "exp", "push", "origin", "--all", "--no-cache")
    viewer = made.person("viewer")
    before = refs(viewer)
    said = viewer.striate("board")
    assert said == "6 experiments of origin: reports/board.html\n"
    assert refs(viewer) == before
    assert viewer.run("dvc", "exp", "list", "--name-only", "-A") == ""
    assert viewer.run("git", "status", "--porcelain") == ""
    assert rows(viewer) == [
        ["two-wide", "model.width=8", "1", "99.00%", "50.00%", "14,634", "–", "Person 2"],
        ["main", "nothing", "1", "97.22%", "97.50%", "14,634", "–", "test"],
        ["one-deeper +3", "model.layers=3", "4", "96.50% ± 1.29%", "90.00% ± 0.00%", "14,634",
         "–", "Person &amp; 1, Person 2"],
    ]  # fmt: skip
    one.run("dvc", "exp", "remove", "--git-remote", "origin", "two-wide")
    assert viewer.striate("board", "--to", "b.html").startswith("5 experiments of origin")


def test_the_page_needs_nothing_else_and_its_table_can_be_sorted_by_keys(made):
    clone = made.teacher
    classroom.experiment(clone, '<b>"b', "x", model__layers=3)
    clone.striate("board", "--local")
    page = Page((clone.folder / "reports/board.html").read_text())
    assert page.addresses == ["data:,"]
    assert ('<b>"b' in page.words, page.tags.count("b")) == (True, 1)
    assert page.tags.count("button") == 7  # not the test accuracy
    assert "this clone" in "".join(page.words)


def test_what_cannot_be_read_is_left_out_and_named(made):
    clone = made.teacher
    lock = (clone.folder / "dvc.lock").read_text()
    classroom.experiment(clone, "broken", "x", lock="no lock")
    text = re.sub(r"(?m)^(\s+)seed: 0$", r"\1seed: none", lock)
    classroom.experiment(clone, "odd", "x", lock=text)
    classroom.experiment(clone, "whole", "x", seed=3)
    said = clone.striate("board", "--local")
    assert "note: left out: broken: its dvc.lock cannot be used" in said
    assert "note: left out: odd: " in said
    assert "2 experiments of this clone: reports/board.html" in said


@pytest.mark.parametrize(
    ("command", "arguments", "said"),
    [
        (("git", "remote", "remove", "origin"), (), "there is no Git remote 'origin'; `git remote"),
        ((), ("--remote", "other"), "there is no Git remote 'other'; known here: origin; "),
        (("git", "remote", "set-url", "origin", "/none"), (), "git ls-remote failed: fatal: '/non"),
        ((), (), "nobody has pushed an experiment to origin yet; `dvc exp push origin --all`"),
        ((), ("--to", "docs"), "--to is docs, a folder"),
        ((), ("--to", "README.md"), "--to is README.md; it must be the name of a page"),
        ((), ("--local", "--remote", "other"), "--local reads no remote; leave out --remote or"),
    ],
)
def test_one_line_says_why_there_is_no_board(made, command, arguments, said):
    if command:
        made.teacher.run(*command)
    answer = made.teacher.striate("board", *arguments, status=2)
    assert answer.startswith(f"error: {said}")
    assert answer.count("\n") == 1


def record(name, *, val=None, data="d", seed=0, hashes=None, **params):
    keys = {key.replace("__", "."): value for key, value in params.items()}
    return records.Record(
        [records.Name(name, name)], {records.DATA: data, "x": name},
        {"seed": seed, "data.name": "digits"} | keys,
        {"parameters": 1234} | ({} if val is None else {"val_accuracy": val}),
        {"accuracy": 0.5}, None, hashes or {}, [],
    )  # fmt: skip


def table(found, main=None, **timings):
    made = {one.names[0].name: Commit("who", 0) for one in found}
    timed = {one.key: timings.get(one.names[0].name, (None, "")) for one in found}
    grouped = groups.group(found)
    return board.tables(grouped, times.by_group(grouped, timed), main, made)


def texts(row):
    return [" ".join([cell.text, *cell.codes]).strip() for cell in row.cells]


def test_a_time_that_no_calendar_holds_and_notes_without_a_choice():
    found = [record("a"), record("b", layers=2)]
    made = {"a": Commit("who", 999_999_999_999), "b": Commit("who", 1_700_000_000)}
    page = board.page("here", found, None, made, {})
    assert "the newest of 2023-11-14 22:13 UTC" in page
    assert "One seed each compares networks, not settings: <code>striate repeat NAME</code>" in page
    assert page.count("Choose by validation accuracy") == 1
    assert "the newest of unknown date" in board.page("here", found[:1], None, made, {})
    validated = [record("a", val=0.9), record("b", val=0.8, layers=2)]
    page = board.page("here", validated, None, made, {})
    assert page.count("Choose by validation accuracy") == 1


@pytest.mark.parametrize(
    ("written", "read"), [("999999999999 +0000", 999_999_999_999), ("-5 +0000", 0), ("", 0)]
)
def test_the_time_of_a_commit_is_read_whatever_was_written(tmp_path, written, read):
    start(tmp_path)

    def git(*arguments, **settings):
        return subprocess.check_output(
            ["git", "-C", tmp_path, *arguments], text=True, **settings
        ).strip()

    text = f"tree {git('write-tree')}\nauthor A <a> 1 +0000\ncommitter A <a> {written}\n\nx\n"
    commit = git("hash-object", "-t", "commit", "--literally", "-w", "--stdin", input=text)
    assert pushed.commits(tmp_path, [commit]) == {commit: Commit("A", read)}


def test_each_data_set_has_a_table_that_of_main_first():
    main = record("main", val=0.5)
    found = [record("b", val=0.9, data="e", data__name="mnist"), record("c", data="e"), main]
    first, second = table(found, main)
    assert (first.title, [row.is_main for row in first.rows]) == ("digits", [True])
    assert (second.title, [texts(row)[0] for row in second.rows]) == ("mnist", ["b", "c"])
    twice = table([main, record("d", data="other")], main)
    assert [one.title for one in twice] == ["digits (d)", "digits (other)"]


def test_other_code_is_a_difference_and_the_seed_is_none():
    main = record("main", hashes={"src/striate/models": "a", "src/striate/data": "b"}, lr=1)
    same = record("same", seed=1, hashes=main.hashes, lr=1)
    other = record("other", lr=2, hashes=main.hashes | {"src/striate/models": "c"})
    rows = table([main, same, other], main)[0].rows
    assert [texts(row)[1] for row in rows] == ["nothing", "lr=2 code of models"]
    assert texts(table([same])[0].rows[0])[1] == "–"


def test_seconds_are_the_median_on_the_machine_that_timed_most():
    found = [record("a", seed=0), record("b", seed=1), record("c", lr=2)]
    rows = table(found, a=(4.0, "two"), b=(6.0, "two"), c=(2.0, "two"))[0].rows
    assert [(cell.text, cell.order, cell.title) for cell in (row.cells[6] for row in rows)] == [
        ("5", "5.0", "two"), ("2", "2.0", "two"),
    ]  # fmt: skip


def test_a_thousand_experiments_take_seconds():
    found = [record(f"e{n}", val=n / 1000, seed=n % 5, lr=n // 5) for n in range(1000)]
    begin = time.perf_counter()
    page = board.page("origin", found, found[0], {r.names[0].name: Commit("x", 0) for r in found},
                      {})  # fmt: skip
    assert time.perf_counter() - begin < 10
    assert page.count("<tr") == 201
