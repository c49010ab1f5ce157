"""Settings are checked once, at the door, in one line."""

from pathlib import Path

import pytest

from pipeline.errors import InputError
from pipeline.settings import Settings


def test_the_digest_names_the_result_and_not_how_it_is_made() -> None:
    plain = Settings()
    assert Settings(workers=7, engine="serial", keep_work=True).digest() == plain.digest()
    changed = [Settings(k=7), Settings(seed=1), Settings(mode="global"), Settings(options={"steps": 3})]
    assert len({each.digest() for each in [plain, *changed]}) == 5


def test_a_file_is_read_and_overridden(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("k: 9\nmode: global\noptions: {steps: 20}\n")
    settings = Settings.read(file, {"k": 4})
    assert (settings.k, settings.mode, settings.options) == (4, "global", {"steps": 20})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("k: 129", "setting 'k': .*less than or equal to 128; got 129"),
        ("k: 1", "setting 'k': .*greater than or equal to 2; got 1"),
        ("kk: 3", "unknown setting 'kk'; known are align, anchor, aoi"),
        ("block_px: 1000", "block_px must be a multiple of chunk_px=512; got 1000"),
        ("{block_px: 64, overlap_px: 40}", "overlap_px must be at most half of block_px=64; got 40"),
        ("{mode: global, global_classes: 4}", "global_classes belongs to mode 'local'"),
        ("scheduler: tcp://10.0.0.1:8786", "must be tls://HOST:PORT, or tcp:// on this machine's loopback"),
        ("- 1", "must be a mapping of 'name: value'; got list"),
        ("a: [", "cannot be read as YAML settings"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        Settings.read(file)
    assert "\n" not in str(caught.value)


def test_the_number_of_classes_fits_the_labels() -> None:
    with pytest.raises(InputError, match="at most 255, as uint8 labels hold; got 256; give --label-dtype uint16"):
        Settings.parse({"global_classes": 256})
    assert Settings.parse({"global_classes": 256, "label_dtype": "uint16"}).label_dtype == "uint16"
    with pytest.raises(InputError, match="label_dtype"):
        Settings.parse({"label_dtype": "int16"})


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.yaml: cannot be read"):
        Settings.read(tmp_path / "absent.yaml")


def test_a_scheduler_of_this_machine_or_by_tls_is_accepted() -> None:
    for address in ("tls://far.example:8786", "tcp://127.0.0.1:8786", "tcp://localhost:1"):
        assert Settings(scheduler=address).scheduler == address


def test_small_blocks_have_small_chunks() -> None:
    assert Settings(block_px=128).fitted_chunk_px == 128
    assert Settings().fitted_chunk_px == 512
