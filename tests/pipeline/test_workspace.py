"""A run directory is complete or resumable, and never mixes two runs."""

from pathlib import Path

import pytest

from pipeline.errors import InputError
from pipeline.workspace import RECORD, WORK, Folders, Workspace, read_json, write_json


def manifest(key: str = "a", **settings: object) -> dict[str, object]:
    return {"key": key, "base": key, "settings": {"k": 6, **settings}, "inputs": [], "code": "1"}


def finish(workspace: Workspace, name: str = "labels.tif", *, failed: int = 0, content: str = "x") -> None:
    outputs = workspace.folders.outputs
    (outputs / name).write_text(content)
    write_json(outputs / RECORD, {"key": "a", "settings": {"k": 6}, "code": "1", "blocks": {"failed": failed}})


def test_publishing_moves_all_and_leaves_no_work(tmp_path: Path) -> None:
    with Workspace(tmp_path / "run", manifest()) as workspace:
        finish(workspace)
        workspace.publish()
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["labels.tif", RECORD]
    with Workspace(tmp_path / "run", manifest()) as again:
        assert again.is_published


def test_work_is_kept_by_option(tmp_path: Path) -> None:
    with Workspace(tmp_path, manifest()) as workspace:
        workspace.folders.mark("train", "0000_0000", {"pixels": 1})
        finish(workspace)
        workspace.publish(keep_work=True)
    assert Folders(tmp_path).done("train", "0000_0000") == {"pixels": 1}


def test_unfinished_work_is_found_again_and_dropped_by_fresh(tmp_path: Path) -> None:
    for fresh, expected in ((False, {"pixels": 5}), (True, None)):
        with Workspace(tmp_path, manifest()) as workspace:
            workspace.folders.mark("train", "b", {"pixels": 5})
        with Workspace(tmp_path, manifest(), fresh=fresh) as workspace:
            assert workspace.folders.done("train", "b") == expected


def test_a_crash_between_two_moves_is_mended_by_the_next_run(tmp_path: Path) -> None:
    with Workspace(tmp_path, manifest()) as workspace:
        finish(workspace)
        write_json(workspace.folders.work / "publishing.json", {"names": ["labels.tif"]})
        (workspace.folders.outputs / "labels.tif").rename(tmp_path / "labels.tif")
    assert not (tmp_path / RECORD).exists()
    with Workspace(tmp_path, manifest()) as workspace:
        assert workspace.is_published
    assert (tmp_path / "labels.tif").read_text() == "x"
    assert read_json(tmp_path / RECORD) is not None


def test_other_settings_are_refused_and_the_old_result_stays(tmp_path: Path) -> None:
    with Workspace(tmp_path, manifest()) as workspace:
        finish(workspace, content="old")
        workspace.publish()
    with pytest.raises(InputError, match=r"holds a run with other settings.*k 6 there, 7 here.*--fresh to replace"):
        Workspace(tmp_path, {**manifest("b"), "settings": {"k": 7}})
    assert not (tmp_path / WORK).exists()
    with Workspace(tmp_path, {**manifest("b"), "settings": {"k": 7}}, fresh=True) as workspace:
        assert not workspace.is_published
        assert (tmp_path / "labels.tif").read_text() == "old"
        finish(workspace, content="new")
        workspace.publish()
    assert (tmp_path / "labels.tif").read_text() == "new"


def test_other_inputs_and_other_programs_are_told_apart(tmp_path: Path) -> None:
    Workspace(tmp_path, manifest()).close()
    with pytest.raises(InputError, match="other input files, or changed ones"):
        Workspace(tmp_path, manifest("b"))
    with pytest.raises(InputError, match="ktextures 1 there, 2 here"):
        Workspace(tmp_path, {**manifest("b"), "code": "2"})


def test_a_run_with_failed_blocks_is_taken_up_again_with_its_models(tmp_path: Path) -> None:
    with Workspace(tmp_path, manifest()) as workspace:
        (workspace.folders.model("0000_0001")).mkdir(parents=True)
        (workspace.folders.model("0000_0001") / "model.json").write_text("{}")
        finish(workspace, failed=1)
        workspace.publish(keep_work=True)
    with Workspace(tmp_path, manifest()) as workspace:
        assert not workspace.is_published
        assert (workspace.folders.model("0000_0001") / "model.json").exists()
        assert (tmp_path / "models" / "0000_0001" / "model.json").exists()


def test_a_second_run_is_refused_while_the_first_is_at_work(tmp_path: Path) -> None:
    with Workspace(tmp_path, manifest()), pytest.raises(InputError, match="another run is at work there"):
        Workspace(tmp_path, manifest())


def test_foreign_directories_and_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    for fresh in (False, True):
        with pytest.raises(InputError, match="is not empty and holds no run"):
            Workspace(tmp_path, manifest(), fresh=fresh)
    with pytest.raises(InputError, match="is a file; give a directory"):
        Workspace(tmp_path / "thesis.txt", manifest())
    with pytest.raises(InputError, match="cannot be written"):
        Workspace(tmp_path / "thesis.txt" / "below", manifest())
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_broken_record_is_named(tmp_path: Path) -> None:
    (tmp_path / RECORD).write_text("{")
    with pytest.raises(InputError, match=r"run\.json: is not JSON"):
        Workspace(tmp_path, manifest())
    (tmp_path / RECORD).write_text("[]")
    with pytest.raises(InputError, match="must hold a JSON object; got list"):
        Workspace(tmp_path, manifest())
    Workspace(tmp_path, manifest(), fresh=True).close()
