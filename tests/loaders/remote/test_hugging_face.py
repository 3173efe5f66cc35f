"""Cloned dataset repositories give their splits; what would be a guess is an error."""

import pandas as pd
import pytest
from feedrate.loaders import split_files
from feedrate.loaders.base.errors import InputError, MissingBackendError, StorageError
from feedrate.loaders.remote.hugging_face import find_splits

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


def write(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pd.DataFrame({"a": [name]}).to_parquet(path)


def card(folder, text):
    (folder / "README.md").write_text(f"---\nlicense: mit\n{text}---\n# Data\n", encoding="utf-8")


def names_of(found):
    return {split: [path.name for path in files] for split, files in found.items()}


def test_files_in_data_are_grouped_by_split_in_the_order_of_shards(tmp_path):
    write(tmp_path, *(f"data/train-{n:05}-of-00003-a1b2.parquet" for n in (2, 0, 1)))
    write(tmp_path, "data/test-00000-of-00001.parquet", ".git/x/old.parquet")
    assert names_of(split_files(tmp_path)) == {
        "test": ["test-00000-of-00001.parquet"],
        "train": [f"train-{n:05}-of-00003-a1b2.parquet" for n in range(3)],
    }
    assert split_files(f"file://{tmp_path}") == split_files(tmp_path)


def test_names_count_only_in_a_clone_unless_asked(tmp_path):
    write(tmp_path, "data/train-00000-of-00001.parquet")
    assert find_splits(tmp_path) is None
    (tmp_path / ".gitattributes").touch()
    assert find_splits(tmp_path) == split_files(tmp_path)


@pytest.mark.parametrize(
    "others",
    [
        ["data/notes.parquet"],  # in no split
        ["more/train-00000-of-00001.parquet"],  # the same name elsewhere
        ["logs/logs_20250101.parquet"],  # a storage
    ],
)
def test_other_files_make_it_no_repository(tmp_path, others):
    write(tmp_path, "data/train-00000-of-00001.parquet", *others)
    assert find_splits(tmp_path, asked=True) is None
    with pytest.raises(InputError, match="its splits are not known; name their files under conf"):
        split_files(tmp_path)


def test_files_named_like_shards_outside_of_data_are_no_splits(tmp_path):
    write(tmp_path, "part-00000-of-00002.parquet", "part-00001-of-00002.parquet")
    assert find_splits(tmp_path) is None


@pytest.mark.parametrize(
    ("data_files", "splits"),
    [
        ("a.parquet", {"train": ["a.parquet"]}),
        ("[a.parquet, 'deep/**/*.parquet']", {"train": ["a.parquet", "b.parquet"]}),
        ("{train: a.parquet, dev: ['deep/**']}", {"train": ["a.parquet"], "dev": ["b.parquet"]}),
        ("'**'", {"train": ["a.parquet", "b.parquet"]}),
        (
            "[{split: train, path: '*.parquet'}, {split: test, path: [deep/x/b.parquet]}]",
            {"train": ["a.parquet"], "test": ["b.parquet"]},
        ),
    ],
)
def test_the_readme_names_files_in_any_form_of_data_files(tmp_path, data_files, splits):
    pytest.importorskip("yaml")
    write(tmp_path, "a.parquet", "deep/x/b.parquet", ".git/c.parquet")
    card(tmp_path, f"configs:\n- config_name: default\n  data_files: {data_files}\n")
    assert names_of(split_files(tmp_path)) == splits


def test_splits_of_other_configurations_have_their_names(tmp_path):
    pytest.importorskip("yaml")
    write(tmp_path, "en/train-00000-of-00001.parquet", "fr/train-00000-of-00001.parquet")
    one = "- config_name: {0}\n  data_files:\n  - split: train\n    path: {0}/train-*\n"
    card(tmp_path, f"configs:\n{one.format('en')}  default: true\n{one.format('fr')}")
    found = split_files(tmp_path)
    assert {name: files[0].parent.name for name, files in found.items()} == {
        "train": "en", "fr.train": "fr",
    }  # fmt: skip
    card(tmp_path, f"configs:\n{one.format('en')}{one.format('en')}")
    with pytest.raises(InputError, match=r"names the files of en\.train twice"):
        split_files(tmp_path)


@pytest.mark.parametrize(
    ("data_files", "error", "said"),
    [
        ("'*.csv'", InputError, "notes.csv is not Parquet"),
        ("none.parquet", StorageError, "no file in .* matches none.parquet"),
        ("../x.parquet", InputError, "is outside of the repository"),
        ("hf://datasets/x.parquet", InputError, "is outside of the repository"),
        ("/etc/passwd", InputError, "is outside of the repository"),
        ("7", InputError, "data_files is 7"),
        ("{train: 7}", InputError, "path: is 7"),
        ("[", InputError, "its YAML cannot be read"),
    ],
)
def test_a_readme_that_cannot_be_used_is_an_error(tmp_path, data_files, error, said):
    pytest.importorskip("yaml")
    write(tmp_path, "a.parquet")
    (tmp_path / "notes.csv").write_text("a\n1\n")
    card(tmp_path, f"configs:\n- data_files: {data_files}\n")
    with pytest.raises(error, match=said):
        split_files(tmp_path)


def test_a_readme_without_names_of_files_leaves_the_rule_for_data(tmp_path):
    write(tmp_path, "data/train-00000-of-00001.parquet")
    for text in ("", "configs:\n- config_name: default\n", "configs:\n"):
        card(tmp_path, text)
        assert list(split_files(tmp_path)) == ["train"]


def test_reading_the_readme_without_the_package_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "yaml", None)
    card(tmp_path, "configs:\n- data_files: a.parquet\n")
    with pytest.raises(MissingBackendError, match=r"feedrate\[tables\]"):
        split_files(tmp_path)


def test_a_missing_shard_is_an_error_that_names_it(tmp_path):
    write(tmp_path, "data/train-00000-of-00003.parquet", "data/train-00002-of-00003.parquet")
    with pytest.raises(StorageError, match="2 of 3 files; the first missing one is train-00001-of"):
        split_files(tmp_path)


def test_two_versions_of_a_split_are_an_error(tmp_path):
    write(tmp_path, "data/train-00000-of-00001.parquet", "data/train-00000-of-00002.parquet")
    with pytest.raises(StorageError, match="several versions of train: of 00001 and of 00002"):
        split_files(tmp_path)


def test_files_that_are_still_in_git_lfs_are_an_error(tmp_path):
    write(tmp_path, "data/train-00000-of-00001.parquet")
    (tmp_path / "data/train-00000-of-00001.parquet").write_bytes(POINTER)
    with pytest.raises(StorageError, match=r"a pointer of Git LFS.*git lfs pull"):
        split_files(tmp_path)


@pytest.mark.parametrize("name", ["dataset_dict.json", "state.json"])
def test_what_save_to_disk_wrote_is_arrow_and_says_how_to_export(tmp_path, name):
    (tmp_path / name).write_text("{}")
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "data-00000-of-00001.arrow").write_bytes(b"ARROW1")
    with pytest.raises(StorageError, match=r"save_to_disk, as Arrow.*to_parquet\("):
        split_files(tmp_path)
    write(tmp_path, "logs/logs_20250101.parquet")
    assert find_splits(tmp_path) is None


def test_what_is_no_folder_is_an_error(tmp_path):
    with pytest.raises(StorageError, match="there is no folder"):
        split_files(tmp_path / "none")
    with pytest.raises(InputError, match="give the folder of a clone"):
        split_files("hf://datasets/someone/data")
