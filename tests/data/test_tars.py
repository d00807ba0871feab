"""Tar archives read in place: members at their offsets, archives within archives, and damaged ones named."""

import io
import tarfile

import pytest

from mixar.data.tars import iter_members, read_encoded


def tar(files, mode="w"):
    """The bytes of an archive of these names and contents."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def test_members_are_read_at_their_offsets_also_from_an_inner_tar(tmp_path):
    file = tmp_path / "a.tar"
    file.write_bytes(tar({"./one.png": b"first", "cats.tar": tar({"two.png": b"second"}), "last.png": b"third"}))

    members = [member for member, _ in iter_members(str(file))]

    contents = {m.name: read_encoded(m.file, m.offset, m.size) for m in members}
    assert contents == {"one.png": b"first", "cats.tar/two.png": b"second", "last.png": b"third"}
    assert {m.file for m in members} == {str(file)}


def test_hidden_and_service_entries_and_links_are_left_out(tmp_path):
    file = tmp_path / "a.tar"
    file.write_bytes(tar({".hidden": b"x", "__MACOSX/one.png": b"x", "folder/.DS_Store": b"x", "folder/one.png": b"y"}))
    with tarfile.open(file, "a") as archive:
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "folder/one.png"
        archive.addfile(link)

    assert [member.name for member, _ in iter_members(str(file))] == ["folder/one.png"]


def test_compressed_cut_off_and_wrongly_named_archives_are_refused(tmp_path):
    whole = tar({"one.png": b"x" * 2000})
    inner = tar({"cats.tar": whole[:1000]})
    contents = {"gz": tar({"one.png": b"x"}, "w:gz"), "cut": whole[:1500], "inner": inner, "no": b"no tar" * 200}
    for name, content in contents.items():
        file = tmp_path / f"{name}.tar"
        file.write_bytes(content)
        with pytest.raises(ValueError, match=rf"{name}.tar: not a whole tar archive \(.*copy or download it again"):
            list(iter_members(str(file)))

    (tmp_path / "latin.tar").write_bytes(tar({"caf\udce9.png": b"x"}))
    with pytest.raises(ValueError, match=r"latin.tar: the name of its member b'caf\\xe9.png' is not UTF-8"):
        list(iter_members(str(tmp_path / "latin.tar")))


def test_a_file_that_ends_within_a_member_says_how_much_is_there(tmp_path):
    file = tmp_path / "a.bin"
    file.write_bytes(b"0123456789")

    assert read_encoded(str(file)) == b"0123456789" and read_encoded(str(file), 2, 3) == b"234"
    with pytest.raises(OSError, match="cut off: 4 of 6 bytes"):
        read_encoded(str(file), 6, 6)
