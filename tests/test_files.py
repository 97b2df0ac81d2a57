import os

import pytest

from tiedconv._files import check_writable, printable, write_whole


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path):
    (tmp_path / "a.json").write_text("old")
    write_whole(tmp_path / "a.json", "new")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["new"]


def test_folders_are_made_and_nothing_is_left_or_lost(tmp_path):
    check_writable("json", tmp_path / "a" / "b" / "new.json")
    assert list((tmp_path / "a" / "b").iterdir()) == []
    (tmp_path / "old.json").write_text("old")
    check_writable("json", tmp_path / "old.json")
    assert (tmp_path / "old.json").read_text() == "old"


def test_what_cannot_be_written_is_named(tmp_path):
    with pytest.raises(ValueError, match=f"^cannot write --plot {tmp_path}: it is a folder. Give another path"):
        check_writable("plot", tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"^cannot write --json .*/file/x\.json: "):
        check_writable("json", tmp_path / "file" / "x.json")


def test_content_is_on_the_disk_before_it_has_the_name(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    seen = []
    monkeypatch.setattr(os, "fsync", lambda number: seen.append((os.fstat(number).st_size, path.exists())))
    write_whole(path, "new")
    assert seen == [(3, False)]


def test_line_ends_are_kept(tmp_path):
    write_whole(tmp_path / "a.csv", "a\r\nb\n")
    assert (tmp_path / "a.csv").read_bytes() == b"a\r\nb\n"


def test_names_that_are_no_utf8_can_be_printed_and_others_stay():
    assert printable("日本 \u00e9 $<b>") == "日本 \u00e9 $<b>"
    assert printable(os.fsdecode(b"caf\xe9.png")) == r"caf\udce9.png"
    assert printable("\ud83d") == r"\ud83d"  # as JSON can hold it
