import pytest

from tiedconv._files import check_writable, write_whole


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path):
    (tmp_path / "a.json").write_text("old")
    write_whole(tmp_path / "a.json", "new")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["new"]


def test_folders_are_made_and_nothing_is_left_or_lost(tmp_path):
    check_writable("json", tmp_path / "a" / "b" / "new.json", who="bench")
    assert list((tmp_path / "a" / "b").iterdir()) == []
    (tmp_path / "old.json").write_text("old")
    check_writable("json", tmp_path / "old.json", who="bench")
    assert (tmp_path / "old.json").read_text() == "old"


def test_what_cannot_be_written_is_named(tmp_path):
    with pytest.raises(ValueError, match=f"bench: cannot write --plot {tmp_path}: it is a folder. Give another path"):
        check_writable("plot", tmp_path, who="bench")
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"bench: cannot write --json .*/file/x\.json: "):
        check_writable("json", tmp_path / "file" / "x.json", who="bench")
