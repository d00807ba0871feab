"""One rule for what a folder holds: links, hidden entries, names, and what looks like classes or splits."""

import os

import pytest

from mixar.storage.listing import File, are_parts, is_service, list_files, named_after_splits, source_files, split_of


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return root


def names(listing):
    return ["/".join(file.parts) for file in listing.files]


def test_files_of_all_folders_are_listed_in_the_order_of_their_paths(tmp_path):
    touch(tmp_path, "b/1.png", "a/x/2.JPG", "a/1.png", "a.png")

    found = list_files(tmp_path, (".png", ".jpg"))

    assert names(found) == ["a/1.png", "a/x/2.JPG", "a.png", "b/1.png"]
    assert found.folders == ["a", "b"]
    assert found.files[0].size == len("a/1.png") and found.skipped_in_words() == ""


def test_links_to_files_and_folders_are_followed(tmp_path):
    touch(tmp_path / "elsewhere", "cat/1.png", "2.png")
    touch(tmp_path / "data", "dog/1.png")
    (tmp_path / "data" / "cat").symlink_to(tmp_path / "elsewhere" / "cat")
    (tmp_path / "data" / "dog" / "2.png").symlink_to("../../elsewhere/2.png")
    (tmp_path / "link").symlink_to("data")

    assert names(list_files(tmp_path / "link", (".png",))) == ["cat/1.png", "dog/1.png", "dog/2.png"]


@pytest.mark.parametrize("target", [".", "..", "../.."])
def test_a_link_to_a_folder_above_is_refused(tmp_path, target):
    touch(tmp_path, "a/b/1.png")
    (tmp_path / "a" / "b" / "loop").symlink_to(target)

    with pytest.raises(ValueError, match="a/b/loop: a link to .*, a folder that contains it"):
        list_files(tmp_path, (".png",))


def test_links_that_lead_to_each_other_or_nowhere_are_refused(tmp_path):
    touch(tmp_path, "a/1.png")
    (tmp_path / "b").symlink_to("gone")
    with pytest.raises(ValueError, match="b: a broken link"):
        list_files(tmp_path, (".png",))
    (tmp_path / "b").unlink()
    (tmp_path / "b").symlink_to("c")
    (tmp_path / "c").symlink_to("b")
    with pytest.raises(ValueError, match="[bc]: a broken link .*levels of symbolic links"):
        list_files(tmp_path, (".png",))


def test_two_folders_that_link_into_each_other_are_refused(tmp_path):
    touch(tmp_path, "a/1.png", "b/1.png")
    (tmp_path / "a" / "b").symlink_to("../b")
    (tmp_path / "b" / "a").symlink_to("../a")

    with pytest.raises(ValueError, match="the same folder as|a folder that contains it"):
        list_files(tmp_path, (".png",))


def test_what_two_paths_lead_to_is_refused_for_it_would_count_twice(tmp_path):
    touch(tmp_path, "a/1.png")
    (tmp_path / "latest").symlink_to("a")
    with pytest.raises(ValueError, match="latest: the same folder as .*/a"):
        list_files(tmp_path, (".png",))
    (tmp_path / "latest").unlink()
    (tmp_path / "a" / "2.png").symlink_to("1.png")
    with pytest.raises(ValueError, match="2.png: the same file as .*1.png"):
        list_files(tmp_path, (".png",))


def test_hard_links_are_copies(tmp_path):
    touch(tmp_path, "1.png")
    os.link(tmp_path / "1.png", tmp_path / "2.png")

    assert names(list_files(tmp_path, (".png",))) == ["1.png", "2.png"]


def test_a_lost_image_stays_in_the_list_so_that_its_reader_names_it(tmp_path):
    (tmp_path / "1.png").symlink_to("gone.png")

    assert [file.size for file in list_files(tmp_path, (".png",)).files] == [-1]


SERVICE = (
    ".ipynb_checkpoints/1.png", "__MACOSX/cat/1.png", ".DS_Store", "._1.png", "@eaDir/1.png", "lost+found/1.png",
    "Thumbs.db", "thumbs.db", "desktop.ini", ".nfs0000001.png", "$RECYCLE.BIN/1.png", "System Volume Information/1.png",
    "#recycle/1.png", "_SUCCESS", "_temporary/0/part-0.parquet", "_delta_log/1.checkpoint.parquet", "__pycache__/a.png",
    ".cache/huggingface/1.png", ".git/1.png", ".Trash-1000/1.png", "~snapshot/1.png", ".1234.half.parquet",
)  # fmt: skip


@pytest.mark.parametrize("name", SERVICE)
def test_hidden_and_service_entries_are_skipped_and_counted(tmp_path, name):
    touch(tmp_path, "cat/1.png", name, f"cat/{name}")

    found = list_files(tmp_path, (".png", ".parquet"))

    assert names(found) == ["cat/1.png"] and found.folders == ["cat"]
    assert found.skipped_in_words().startswith("2 hidden or service entries (2 ")


def test_the_rule_spares_ordinary_names():
    assert not any(map(is_service, ("cat", "_cat", "metadata", "n01440764", "#1", "1.png", "temporary")))


def test_skipped_files_are_counted_by_suffix(tmp_path):
    touch(tmp_path, "1.png", "1.bmp", "a/2.bmp", "3.TIF", "4.jfif", "README", "._1.png", ".nfs01", ".nfs02")
    os.mkfifo(tmp_path / "5.png")

    found = list_files(tmp_path, (".png",))

    assert found.skipped_in_words() == (
        "2 .bmp, 1 .jfif, 1 .tif, 1 pipe, socket or device, 1 without suffix (not read); "
        "3 hidden or service entries (1 ._*, 2 .nfs*)"
    )


@pytest.mark.parametrize("name", [b"caf\xe9.png", b"caf\xe9/1.png"])
def test_a_name_that_is_not_utf_8_is_named_byte_by_byte(tmp_path, name):
    path = os.path.join(os.fsencode(tmp_path), name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb"):
        pass

    with pytest.raises(ValueError, match=r"caf\\xe9.*: a name that is not UTF-8") as caught:
        list_files(tmp_path, (".png",))

    str(caught.value).encode()  # can be printed anywhere


def test_a_folder_whose_own_path_is_not_utf_8_is_named(tmp_path):
    root = os.fsdecode(os.path.join(os.fsencode(tmp_path), b"\xff"))
    os.mkdir(root)

    with pytest.raises(ValueError, match=r"\\xff'?: a name that is not UTF-8"):
        list_files(root, (".png",))


# Splits


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("train-00000-of-00002.parquet", "train"),
        ("data/validation-0.parquet", "validation"),
        ("train/0000.parquet", "train"),
        ("default/partial-train/0000.parquet", "train"),
        ("val.parquet", "validation"),
        ("my_dev_3.parquet", "validation"),
        ("TEST.parquet", "test"),
        ("train/val-0.parquet", "validation"),
        ("train_val-0.parquet", None),
        ("latest-trainer.parquet", None),
        ("part-0.parquet", None),
    ],
)
def test_a_path_tells_its_split(path, split):
    assert split_of(path.split("/")) == split


def parquet_files(root, role, pattern=""):
    return names(source_files("parquet", str(root / pattern), "data.path", role))


@pytest.mark.parametrize("pattern", ["", "*.parquet"])
def test_of_several_splits_the_meant_one_is_taken_and_the_others_are_named(tmp_path, pattern):
    touch(tmp_path, "train-0.parquet", "train-1.parquet", "validation-0.parquet")

    found = source_files("parquet", str(tmp_path / pattern), "data.path", "train")

    assert names(found) == ["train-0.parquet", "train-1.parquet"]
    assert found.skipped_in_words() == "1 file of the split validation"
    assert parquet_files(tmp_path, "held_out", pattern) == ["validation-0.parquet"]


def test_folders_tell_splits_apart_as_well(tmp_path):
    touch(tmp_path, "train/0000.parquet", "validation/0000.parquet")

    assert parquet_files(tmp_path, "train") == ["train/0000.parquet"]
    assert parquet_files(tmp_path, "held_out", "*/*.parquet") == ["validation/0000.parquet"]


@pytest.mark.parametrize(
    ("role", "files", "advice"),
    [
        ("held_out", ("train-0", "validation-0", "extra"), "validation"),
        ("train", ("validation-0", "test-0"), "test"),
        ("train", ("a", "test-0", "train-0"), "train"),
        ("train", ("validation-0", "extra"), "validation"),
    ],
)
def test_where_it_is_not_clear_which_split_is_meant_the_user_is_asked(tmp_path, role, files, advice):
    touch(tmp_path, *(f"{file}.parquet" for file in files))

    with pytest.raises(ValueError, match=rf"data.path: .* several splits .*such as .*{advice}-\*.parquet"):
        parquet_files(tmp_path, role)


def test_files_of_one_split_are_taken_whatever_they_are_called(tmp_path):
    touch(tmp_path, "test-0.parquet", "test-1.parquet")

    assert len(parquet_files(tmp_path, "train")) == len(parquet_files(tmp_path, "held_out")) == 2
    assert parquet_files(tmp_path, "train", "test-1.parquet") == ["test-1.parquet"]


# Folders that look like classes


def numbered(folders):
    return [
        File("here", (folder, f"{prefix}{number}.png"), 0, 0, (0, 0))
        for folder, (prefix, numbers) in folders.items()
        for number in numbers
    ]


def test_parts_of_a_numbered_set_are_told_from_classes():
    edm2 = {f"{start:06}": ("", [f"{n:06}" for n in range(start, start + 3)]) for start in (0, 128, 256, 384)}
    dataset_tool = {f"{k:05}": ("img", [f"{k:05}{n:03}" for n in range(3)]) for k in range(4)}
    restarted = {str(label): ("", [f"{n:05}" for n in range(3)]) for label in range(4)}
    running = {str(label): ("", [f"{label * 100 + n:05}" for n in range(3)]) for label in range(4)}
    named = {"cat": ("", ["0001", "0002"]), "dog": ("", ["0003", "0004"])}
    labelled = {f"{label:05}": (f"{label:05}_", ["0", "1"]) for label in range(4)}

    assert are_parts(numbered(edm2)) and are_parts(numbered(dataset_tool))
    assert not any(are_parts(numbered(folders)) for folders in (restarted, running, named, labelled))


def test_folders_named_after_splits_are_no_classes():
    assert named_after_splits(["train", "val"])
    assert not named_after_splits(["train"]) and not named_after_splits(["cat", "test"])
