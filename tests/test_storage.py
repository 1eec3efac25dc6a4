"""Files are whole or not there, whatever goes wrong while they are written."""

import os

import pytest

from tests.small_runs import leftovers
from workbench.errors import WorkbenchError
from workbench.storage import beside, discard_parts, is_part, remove, write_json, write_text


class Cut(Exception):
    """Something goes wrong in the middle."""


def fill(folder, text: str) -> None:
    folder.mkdir()
    (folder / "a").write_text(text)
    (folder / "deep").mkdir()
    (folder / "deep" / "b").write_text(text)


def test_files_and_folders_are_written_and_replaced(tmp_path):
    for text in ("old", "new"):
        write_text(tmp_path / "new" / "file", text)
        assert (tmp_path / "new" / "file").read_text() == text
        with beside(tmp_path / "folder") as part:
            assert is_part(part) and part.parent == tmp_path and not part.exists()
            fill(part, text)
        assert (tmp_path / "folder" / "deep" / "b").read_text() == text
    write_json(tmp_path / "values.json", {"ä": [1.5, None]})
    assert (tmp_path / "values.json").read_text(encoding="utf-8") == '{\n  "ä": [\n    1.5,\n    null\n  ]\n}\n'
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["folder", "new", "values.json"]


@pytest.mark.parametrize("error", [Cut, KeyboardInterrupt])
def test_an_exception_leaves_what_was_there(tmp_path, error):
    for _ in range(2):
        with pytest.raises(error), beside(tmp_path / "folder") as part:
            fill(part, "half")
            raise error
        assert not leftovers(tmp_path)
        if (tmp_path / "folder").exists():
            assert (tmp_path / "folder" / "a").read_text() == "whole"
        else:
            assert not list(tmp_path.iterdir())
            fill(tmp_path / "folder", "whole")


def test_a_folder_is_never_there_in_part(tmp_path, monkeypatch):
    """At every change of a name, what stands under the name is the old folder, the new one or nothing."""
    seen = []

    def state() -> str:
        folder = tmp_path / "folder"
        texts = {(folder / name).read_text() for name in ("a", "deep/b")} if folder.exists() else {"nothing"}
        assert len(texts) == 1
        return texts.pop()

    replace, rmdir, unlink = os.replace, os.rmdir, os.unlink

    def spying(call):
        def spy(*args, **kwargs):
            seen.append(state())
            call(*args, **kwargs)
            seen.append(state())

        return spy

    fill(tmp_path / "folder", "old")
    for name, call in (("replace", replace), ("rmdir", rmdir), ("unlink", unlink)):
        monkeypatch.setattr(os, name, spying(call))
    with beside(tmp_path / "folder") as part:
        fill(part, "new")
    assert seen[0] == "old" and seen[-1] == "new" and len(seen) > 4


def test_a_failed_replacement_puts_the_old_folder_back(tmp_path, monkeypatch):
    fill(tmp_path / "folder", "old")
    replace, calls = os.replace, []

    def failing(source, target):
        calls.append(source)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(WorkbenchError, match=r"cannot write .*folder: No space left on device"), beside(tmp_path / "folder") as part:
        fill(part, "new")
    assert (tmp_path / "folder" / "a").read_text() == "old" and not leftovers(tmp_path)


def test_everything_is_on_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    flushed, fsync = [], os.fsync

    def spy(descriptor):
        flushed.append(os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", spy)
    (tmp_path / "other").write_text("not ours to flush")
    with beside(tmp_path / "folder") as part:
        fill(part, "x")
    assert sorted(flushed[:-2]) == ["a", "b", "deep"] and flushed[-2:] == [part.name, tmp_path.name]


def test_a_disk_that_refuses_is_one_line(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(WorkbenchError, match=r"^cannot write .*/file/below: Not a directory$"):
        write_text(tmp_path / "file" / "below", "x")
    fill(tmp_path / "folder", "x")
    with pytest.raises(WorkbenchError, match=r"^cannot write .*/folder: Is a directory$"):
        write_text(tmp_path / "folder", "no file takes the place of a folder")
    assert (tmp_path / "folder" / "a").read_text() == "x" == (tmp_path / "file").read_text() and not leftovers(tmp_path)


def test_parts_are_discarded_and_nothing_else(tmp_path):
    fill(tmp_path / ".folder.1.part", "x")
    (tmp_path / ".file.2.part").write_text("x")
    for name in ("a.part", ".hidden", "partial"):
        (tmp_path / name).write_text("x")
    discard_parts(tmp_path)
    discard_parts(tmp_path / "not there")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".hidden", "a.part", "partial"]


def test_remove_follows_no_link(tmp_path):
    fill(tmp_path / "kept", "x")
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    remove(tmp_path / "link")
    remove(tmp_path / "not there")
    assert [entry.name for entry in tmp_path.iterdir()] == ["kept"] and (tmp_path / "kept" / "a").exists()
