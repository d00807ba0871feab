"""Arrays and Parquet files that other programs wrote: read right, or refused by name."""

import io
import json
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from toy_images import pixels, png

from mixar.data.collection import iter_pixels, open_collection


def saved(path, **arrays):
    np.savez(path / "a.npz", **arrays)
    return path / "a.npz"


def header_of(shape, descr="|u1", fortran=False, text=None):
    """The beginning of an .npy file; `text` replaces what it says."""
    text = text or repr({"descr": descr, "fortran_order": fortran, "shape": shape})
    buffer = io.BytesIO()
    buffer.write(b"\x93NUMPY\x01\x00" + (len(text) + 1).to_bytes(2, "little") + text.encode() + b"\n")
    return buffer.getvalue()


def forged(path, **members):
    with zipfile.ZipFile(path / "a.npz", "w") as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return path / "a.npz"


def table(path, name="a.parquet", **columns):
    pq.write_table(pa.table(columns), path / name)
    return path / name


def drawn(collection, start=0, stop=None):
    return np.stack([image for _, image, _ in iter_pixels(collection, start, stop or len(collection.index))])


# Order of the axes


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_array_in_fortran_order_holds_the_same_images(tmp_path, save):
    images = pixels()
    save(tmp_path / "c.npz", images, np.arange(24))
    save(tmp_path / "f.npz", np.asfortranarray(images), np.arange(24))

    plain, fortran = open_collection(tmp_path / "c.npz"), open_collection(tmp_path / "f.npz")

    assert np.array_equal(drawn(plain), images) and np.array_equal(drawn(fortran), images)
    assert np.array_equal(drawn(fortran, 5, 9), images[5:9]) and np.array_equal(fortran.labels, np.arange(24))


# Headers


ABSURD = {
    "too many": header_of((2**60, 16, 16, 3)),
    "too large": header_of((24, 2**40, 2**40, 3)),
    "negative": header_of((-24, 16, 16, 3)),
    "no pixels": header_of((2**60, 0, 16, 3)),
    "more than the file": header_of((25, 16, 16, 3)) + pixels().tobytes(),
    "less than the file": header_of((23, 16, 16, 3)) + pixels().tobytes(),
    "too many in fortran order": header_of((2**60, 16, 16, 3), fortran=True),
}


@pytest.mark.parametrize("case", ABSURD)
def test_a_header_of_a_size_that_the_file_does_not_hold_is_refused(case, tmp_path):
    with pytest.raises(ValueError, match=r"a.npz: arr_0 is uint8 \["):
        open_collection(forged(tmp_path, arr_0=ABSURD[case]))


@pytest.mark.parametrize(
    "content", [b"", b"no array", header_of((1,))[:30], header_of(0, text="{" * 90), header_of(0, text="(" * 5000)]
)
def test_a_header_that_is_none_is_refused(content, tmp_path):
    with pytest.raises(ValueError, match="a.npz: arr_0 is no NumPy array"):
        open_collection(forged(tmp_path, arr_0=content))


def test_a_member_without_the_ending_of_an_array_is_no_array(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("arr_0", b"")

    with pytest.raises(ValueError, match="array 'arr_0' is missing; found none"):
        open_collection(tmp_path / "a.npz")


# Labels


UNFIT_ARRAYS = {
    "strings": (np.array(["cat"] * 24), "<U3"),
    "floats": (np.arange(24.0), "float64"),
    "booleans": (np.ones(24, bool), "bool"),
    "lists": (np.zeros((24, 2), int), r"int64 \[24, 2\]"),
    "objects": (np.array([None] * 24), "object"),
    "too many": (np.arange(25), r"int64 \[25\]"),
    "one": (np.int64(3), r"int64 \[\]"),
    "too large": (np.arange(24) + 2**32, "goes from 4294967296"),
    "unsigned and too large": (np.full(24, 2**64 - 1, np.uint64), "goes from 18446744073709551615"),
}


@pytest.mark.parametrize("case", UNFIT_ARRAYS)
def test_labels_of_an_array_that_are_no_small_integers_are_refused(case, tmp_path):
    labels, message = UNFIT_ARRAYS[case]

    with pytest.raises(ValueError, match=f"a.npz: arr_1 .*{message}|a.npz: arr_1 {message}"):
        open_collection(saved(tmp_path, arr_0=pixels(), arr_1=labels))


def test_a_header_of_labels_of_a_size_that_no_array_has_is_refused(tmp_path):
    images = header_of((24, 16, 16, 3)) + pixels().tobytes()

    with pytest.raises(ValueError, match="arr_1 is int64 .* by its header"):
        open_collection(forged(tmp_path, arr_0=images, arr_1=header_of((2**60,), "<i8")))


UNFIT_COLUMNS = {
    "strings": (["cat", "dog", "cat"], "string"),
    "floats": ([0.0, 1.0, 2.0], "double"),
    "booleans": ([True, False, True], "bool"),
    "lists": ([[0], [1], [2]], "list"),
    "gaps": ([0, None, 2], "int64 with 1 gaps"),
    "nothing but gaps": (pa.nulls(3), "null with 3 gaps"),
    "too large": ([0, 1, 2**40], "goes from 0 to 1099511627776"),
    "times": (pa.array([0, 1, 2], pa.timestamp("s")), "timestamp"),
}


@pytest.mark.parametrize("case", UNFIT_COLUMNS)
def test_labels_of_a_parquet_file_that_are_no_small_integers_are_refused(case, tmp_path):
    labels, message = UNFIT_COLUMNS[case]
    table(tmp_path, image=[png(i) for i in pixels(3)], label=labels)

    with pytest.raises(ValueError, match=f"a.parquet: column 'label' (is )?{message}"):
        open_collection(tmp_path)


def test_files_whose_integers_have_several_types_are_joined(tmp_path):
    for name, dtype in (("a.parquet", "int32"), ("b.parquet", "uint8")):
        table(tmp_path, name, image=[png(i) for i in pixels(3)], label=np.array([1, 2, 3], dtype))

    assert open_collection(tmp_path).labels.tolist() == [1, 2, 3, 1, 2, 3]


@pytest.mark.parametrize("image", [[1, 2, 3], ["a", "b", "c"], [[1], [2], [3]], [{"path": "a.png"}] * 3])
def test_a_column_without_encoded_images_is_refused(image, tmp_path):
    collection = open_collection(table(tmp_path, image=image))

    with pytest.raises(ValueError, match="a.parquet row 0: image.bytes is missing"):
        drawn(collection)


def test_metadata_of_other_programs_do_not_stop_the_reading(tmp_path):
    columns = pa.table({"image": [png(i) for i in pixels(3)]})
    pq.write_table(columns.replace_schema_metadata({"huggingface": json.dumps([])}), tmp_path / "a.parquet")

    assert np.array_equal(drawn(open_collection(tmp_path)), pixels(3))
