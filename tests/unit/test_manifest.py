"""The manifest and the workflow's config: what is read, and that every mistake is one line that names it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nsr.errors import ConfigError
from nsr.manifest import SceneRow, read_manifest, read_workflow_config, resolve_scene, source_files

HEADER = "dataset\tscene\tsource\tformat\tmasks\tground_truth\tgt_cameras\tprotocol\tregion\toverrides"


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a source of every kind and two methods."""
    for name in ("photos/b.jpg", "photos/a.PNG", "photos/notes.txt", "photos/.hidden.jpg", "photos/truth.ply"):
        write(tmp_path / name)
    for name in ("masks/a.png", "neus/image/0.jpg", "neus/cameras_sphere.npz", "neus/gt.ply", "neus/.cache/x.npz"):
        write(tmp_path / name)
    write(tmp_path / "config/methods/nsr.yaml", "train:\n  steps: 10\n  seed: 1\n")
    write(tmp_path / "config/methods/other.yaml", "")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path: Path, text: str = "x") -> None:
    """Write a file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def row(**cells: str) -> str:
    """A line of the manifest, right but for `cells`."""
    columns = HEADER.split("\t")
    values = {"dataset": "d", "scene": "s", "source": "photos", "format": "photos", **cells}
    return "\t".join(values.get(column, "") for column in columns)


def read(*lines: str, header: str = HEADER) -> tuple[SceneRow, ...]:
    """Rows of a manifest of these lines."""
    path = Path("scenes.tsv")
    path.write_text("\n".join((header, *lines)) + "\n")
    return read_manifest(path)


def refusal(*lines: str, header: str = HEADER) -> str:
    """The message with which a manifest is refused."""
    with pytest.raises(ConfigError) as error:
        read(*lines, header=header)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_reads_rows_comments_and_short_lines() -> None:
    rows = read("# a comment", "d\ts\tphotos\tphotos", "", row(scene="t", masks="masks", overrides="train.steps=5"))
    assert [item.name for item in rows] == ["d/s", "d/t"]
    assert rows[0] == SceneRow("d", "s", "photos", "photos")
    assert rows[1].masks == "masks"


def test_columns_in_any_order() -> None:
    (only,) = read("photos\tphotos\ts\td", header="format\tsource\tscene\tdataset")
    assert only.name == "d/s"


@pytest.mark.parametrize("region", ["auto", "points", "0.5,-1,2e3,0.1"])
def test_regions(region: str) -> None:
    assert read(row(region=region))[0].region == region


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        ({"scene": "a/b"}, ("line 2", "scene 'a/b'")),
        ({"dataset": ".hidden"}, ("dataset '.hidden'",)),
        ({"dataset": ""}, ("dataset ''",)),
        ({"scene": "a\N{COMBINING ACUTE ACCENT}"}, ("is no name",)),
        ({"format": "photo"}, ("unknown format 'photo'", "did you mean 'photos'")),
        ({"source": "nowhere"}, ("source 'nowhere' does not exist",)),
        ({"source": ""}, ("no source",)),
        ({"source": "photos/a.PNG"}, ("not a folder",)),
        ({"source": "a" * 300}, ("does not exist",)),
        ({"masks": "nomasks"}, ("masks 'nomasks' does not exist",)),
        ({"ground_truth": "no.ply"}, ("ground_truth 'no.ply'",)),
        ({"gt_cameras": "no.npz"}, ("gt_cameras 'no.npz'",)),
        ({"protocol": "object-surfaces"}, ("unknown protocol", "'object-surface'")),
        ({"region": "somewhere"}, ("region 'somewhere'",)),
        ({"region": "0,0,0"}, ("region '0,0,0'",)),
        ({"region": "0,0,0,0"}, ("region '0,0,0,0'",)),
        ({"region": "0,0,0,nan"}, ("region",)),
        ({"region": "inf,0,0,1"}, ("region",)),
        ({"overrides": "mesh.resolutoin=3"}, ("resolutoin", "'resolution'")),
        ({"overrides": "mesh.resolution=fine"}, ("mesh.resolution", "fine")),
        ({"overrides": "train.steps=-1"}, ("train.steps",)),
    ],
)
def test_refuses_a_row(cells: dict[str, str], words: tuple[str, ...]) -> None:
    message = refusal(row(**cells))
    assert message.startswith("scenes.tsv line 2: ")
    assert all(word in message for word in words), message


def test_refuses_a_scene_twice() -> None:
    assert "line 3: scene 'd/s' is listed twice" in refusal(row(), row())


def test_refuses_tables() -> None:
    assert "no scenes" in refusal()
    assert "unknown column 'scenes'; did you mean 'scene'?" in refusal(row(), header=HEADER.replace("\tscene", "\tscenes"))
    assert "column 'format' is missing" in refusal("d\ts\tphotos", header="dataset\tscene\tsource")
    assert "a column is there twice" in refusal(row(), header=HEADER + "\tscene")
    assert "11 cells under 10 columns" in refusal(row() + "\tmore")
    with pytest.raises(ConfigError, match="elsewhere.tsv: cannot be read"):
        read_manifest(Path("elsewhere.tsv"))


def test_source_files_of_photographs() -> None:
    (only,) = read(row(masks="masks", ground_truth="photos/truth.ply"))
    assert source_files(only) == ["masks/a.png", "photos/a.PNG", "photos/b.jpg"]
    assert source_files(only, masks=False) == ["photos/a.PNG", "photos/b.jpg"]


def test_source_files_of_a_folder_leave_out_ground_truth_and_hidden_files() -> None:
    (only,) = read(row(source="neus", format="neus", ground_truth="neus/gt.ply"))
    assert source_files(only) == ["neus/cameras_sphere.npz", "neus/image/0.jpg"]


def test_workflow_config_defaults() -> None:
    assert read_workflow_config({}).methods == ["nsr"]


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"method": ["nsr"]}, ("unknown key 'method'", "'methods'")),
        ({"device": "gpu"}, ("device 'gpu'",)),
        ({"gpu_price": -1}, ("gpu_price '-1'", "number from 0 up")),
        ({"gpu_price": "cheap"}, ("gpu_price 'cheap'",)),
        ({"methods": []}, ("at least one",)),
        ({"methods": "nsr"}, ("must be a list",)),
        ({"methods": ["nsrr"]}, ("config/methods/nsrr.yaml", "did you mean 'nsr'")),
        ({"methods": ["scene"]}, ("'scene' cannot name a method",)),
        ({"methods": ["sfm"]}, ("'sfm' cannot name a method",)),
        ({"methods": ["../nsr"]}, ("cannot name a method",)),
        ({"settings": 3}, ("settings must be a mapping",)),
        ({"settings": {"meshes": {}}}, ("meshes", "'mesh'")),
    ],
)
def test_refuses_a_config(config: dict[str, object], words: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as error:
        read_workflow_config(config)
    assert all(word in str(error.value) for word in words), error.value


def test_method_must_not_set_what_scenes_share() -> None:
    write(Path("config/methods/other.yaml"), "prepare:\n  max_size: 100\n")
    with pytest.raises(ConfigError, match="'prepare' belongs to the scene"):
        read_workflow_config({"methods": ["other"]})


def test_order_of_settings() -> None:
    (only,) = read(row(overrides="train.seed=3"))
    workflow = read_workflow_config({"settings": {"train": {"seed": 2, "samples": 99}}})
    with_method = resolve_scene(only, workflow, "nsr")
    assert (with_method.train.steps, with_method.train.samples, with_method.train.seed) == (10, 99, 3)
    assert resolve_scene(only, workflow, None).train.steps == 20000


def test_an_edited_base_of_a_preset_is_seen(place: Path) -> None:
    """Settings of a list are kept, but not beyond a change of a file that a preset builds on."""
    (only,) = read(row())
    write(place / "config/methods/other.yaml", "base: nsr\ntrain:\n  samples: 77\n")
    workflow = read_workflow_config({"methods": ["other"]})
    assert (resolve_scene(only, workflow, "other").train.steps, resolve_scene(only, workflow, "other").train.samples) == (10, 77)
    base = place / "config/methods/nsr.yaml"
    write(base, "train:\n  steps: 12\n")
    os.utime(base, ns=(0, base.stat().st_mtime_ns + 1))
    assert resolve_scene(only, workflow, "other").train.steps == 12


def test_files_from_spreadsheets_are_read(place: Path) -> None:
    """A byte order mark and Windows line endings change nothing."""
    (place / "scenes.tsv").write_bytes(b"\xef\xbb\xbf" + f"{HEADER}\r\n{row()}\r\n".encode())
    assert read_manifest(Path("scenes.tsv")) == (SceneRow("d", "s", "photos", "photos"),)


def test_settings_given_as_text_get_their_types() -> None:
    """Snakemake's `--config settings={...}` leaves numbers as text."""
    given = {"settings": {"mesh": {"resolution": "100", "colours": "false"}, "evaluate": {"thresholds": ["1", "2"]}}}
    settings = read_workflow_config(given).settings
    assert settings == {"mesh": {"resolution": 100, "colours": False}, "evaluate": {"thresholds": [1.0, 2.0]}}
