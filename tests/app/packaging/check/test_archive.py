"""Archives and layers: what a container would see of them, and what is refused."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path

import pytest

from app.cli import main
from app.packaging.check.image import open_image
from app.packaging.check.layers import merged, read_layer
from app.packaging.check.tree import LeavesRoot, Tree
from operators.errors import StartError
from tests.support.images import File, described, document, folder, link, right_image, sha256, tarred

HARD = tarfile.LNKTYPE


def tree_of(*layers: dict[str, File]) -> Tree:
    return merged(read_layer(io.BytesIO(tarred(layer)), number) for number, layer in enumerate(layers))


def paths(tree: Tree) -> list[str]:
    return [path for path, _ in tree.below("/")]


def test_later_layers_replace_and_whiteouts_remove():
    lower = {"a/one": File(b"1"), "a/two": File(b"2"), "b/three": File(b"3"), "c": File(), "d/x/y": File()}
    upper = {
        "a/.wh.one": File(),
        "b/.wh..wh..opq": File(),
        "b/four": File(b"44"),
        "c": folder(),
        "c/five": File(),
        "d": File(),
    }
    tree = tree_of(lower, upper)
    assert paths(tree) == ["/a", "/a/two", "/b", "/b/four", "/c", "/c/five", "/d"]
    assert (tree.entries["/a/two"].layer, tree.entries["/b/four"].layer) == (0, 1)


def test_a_whiteout_leaves_what_its_own_layer_brings():
    assert paths(tree_of({"a/one": File()}, {"a/new": File(), "a/.wh..wh..opq": File(), "a/.wh.one": File()})) == [
        "/a",
        "/a/new",
    ]
    assert paths(tree_of({"a/one": File()}, {".wh.a": File()})) == []


def test_a_hard_link_is_the_file_again():
    tree = tree_of({"a": File(b"12")}, {"b": File(kind=HARD, target="a")})
    assert tree.entries["/b"] == tree.entries["/a"]


def test_links_are_followed_inside_the_image():
    tree = tree_of({"usr/lib/x": File(), "lib": link("usr/lib"), "etc/y": link("../lib/x"), "z": link("/lib")})
    assert [tree.resolve(path) for path in ("/lib/x", "/etc/y", "/z/x", "/z/../lib/x")] == ["/usr/lib/x"] * 4
    assert [tree.resolve(path) for path in ("/no", "/lib/x/more", "/z/no")] == [None] * 3


@pytest.mark.parametrize("files", [{"a/b": link("../../x")}, {"a": link("..")}, {"a": link("b"), "b": link("a")}])
def test_a_link_that_leaves_the_root_or_never_ends_is_not_followed(files):
    with pytest.raises(LeavesRoot):
        tree_of(files).resolve("/a/b" if "a/b" in files else "/a")


@pytest.mark.parametrize(
    "layers",
    [
        [{"../out": File()}],
        [{"a/../../out": File()}],
        [{"/etc/passwd": File()}],
        [{"a": File(kind=HARD, target="../../etc/shadow")}],
        [{"a": File(kind=HARD, target="nothing")}],
        [{"a": link("b"), "b": folder(), "c": File(kind=HARD, target="a")}],
        [{"a": link("/etc"), "a/passwd": File()}],
        [{"a": link("/etc")}, {"a/passwd": File()}],
        [{"a": File()}, {"a/b": File()}],
        [{"a/b": File(), "a": File()}],
        [{"a": File(), "./a": File()}],
        [{".wh.": File()}],
        [{"a/.wh...": File()}],
        [{"x" * 5000: File()}],
    ],
)
def test_what_no_right_layer_holds_is_refused(layers):
    with pytest.raises(StartError, match=r"^BAD_IMAGE: .*; expected .*; "):
        tree_of(*layers)


def test_a_layer_of_endless_entries_is_refused(monkeypatch):
    monkeypatch.setattr("app.packaging.check.layers.MOST_ENTRIES", 3)
    with pytest.raises(StartError, match="more than 3 entries"):
        tree_of({str(number): File() for number in range(4)})


def oci_members(archive: Path) -> dict[str, bytes]:
    with tarfile.open(archive) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}


def rewritten(folder: Path, change) -> Path:
    """The right image's archive with its members changed."""
    archive = right_image().write_oci(folder / "ctvae.oci.tar")
    members = oci_members(archive)
    change(members)
    archive.write_bytes(tarred({name: File(content) for name, content in members.items()}))
    return archive


def largest(members: dict[str, bytes]) -> str:
    return max(members, key=lambda name: len(members[name]))


def layer_changed(members: dict[str, bytes]) -> None:
    name = largest(members)
    members[name] = members[name][:-1] + bytes([members[name][-1] ^ 1])


def layer_cut(members: dict[str, bytes]) -> None:
    members[largest(members)] = members[largest(members)][:-100]


def other_config(members: dict[str, bytes]) -> None:
    name = next(name for name, content in members.items() if b"diff_ids" in content)
    members[name] = members[name].replace(b"1000:1000", b"1001:1001")


def other_layer(members: dict[str, bytes]) -> None:
    """Another layer with its right digest in the manifest, which the configuration does not know."""
    layer = gzip.compress(tarred({"a": File()}))
    manifest = json.loads(manifest_of(members))
    manifest["layers"] = [described(layer, manifest["layers"][0]["mediaType"])]
    with_manifest(members, manifest)
    members[f"blobs/sha256/{sha256(layer)[7:]}"] = layer


def manifest_of(members: dict[str, bytes]) -> bytes:
    digest = json.loads(members["index.json"])["manifests"][0]["digest"]
    return members[f"blobs/sha256/{digest[7:]}"]


def with_manifest(members: dict[str, bytes], manifest: dict) -> None:
    content = json.dumps(manifest).encode()
    members[f"blobs/sha256/{sha256(content)[7:]}"] = content
    media_type = "application/vnd.oci.image.manifest.v1+json"
    members["index.json"] = json.dumps({"manifests": [described(content, media_type)]}).encode()


def zstd_layer(members: dict[str, bytes]) -> None:
    manifest = json.loads(manifest_of(members))
    manifest["layers"][0]["mediaType"] = "application/vnd.oci.image.layer.v1.tar+zstd"
    with_manifest(members, manifest)


def two_images(members: dict[str, bytes]) -> None:
    index = json.loads(members["index.json"])
    members["index.json"] = json.dumps({"manifests": index["manifests"] * 2}).encode()


def digest_of_a_path(members: dict[str, bytes]) -> None:
    index = json.loads(members["index.json"])
    index["manifests"][0]["digest"] = "sha256:../../etc/passwd"
    members["index.json"] = json.dumps(index).encode()


CHANGES = [layer_changed, layer_cut, other_config, other_layer, zstd_layer, two_images, digest_of_a_path]
CHANGES += [
    lambda members: members.update({"index.json": b"[" * 100_000}),
    lambda members: members.update({"index.json": b" " * (5 << 20)}),
    lambda members: members.update({"oci-layout": b'{"imageLayoutVersion": "9"}'}),
    lambda members: members.pop("index.json"),
    lambda members: members.pop("oci-layout"),
    lambda members: members.pop(largest(members)),
    lambda members: members.update({"../evil": b""}),
]


@pytest.mark.parametrize("change", CHANGES, ids=[getattr(one, "__name__", "") for one in CHANGES])
def test_an_archive_that_is_not_what_it_says_is_refused_in_one_line(tmp_path, capsys, change):
    archive = rewritten(tmp_path, change)
    assert main(["map", "check", str(archive)]) == 3
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1
    assert "BAD_IMAGE: " in said.err and "; expected " in said.err


@pytest.mark.parametrize(
    "content",
    [b"", b"PK\x03\x04", gzip.compress(b"x", mtime=0), tarred({"a": File(b"1")}), b"\0" * 1024],
    ids=["empty", "zip", "gzip", "another tar", "zeros"],
)
def test_what_is_no_archive_of_an_image_is_refused(tmp_path, capsys, content):
    (tmp_path / "x.tar").write_bytes(content)
    assert main(["map", "check", str(tmp_path / "x.tar")]) == 3
    assert main(["map", "check", str(tmp_path / "none.tar")]) == 3
    assert capsys.readouterr().err.count("BAD_IMAGE: ") == 2


def test_a_layer_that_unfolds_without_end_is_refused(tmp_path, monkeypatch):
    archive = right_image().write_oci(tmp_path / "ctvae.oci.tar")
    monkeypatch.setattr("app.packaging.check.image.UNPACKED_BYTES", 1000)
    with pytest.raises(StartError, match="unfold to more than"), open_image(archive):
        pass


def test_an_index_around_the_image_and_an_attestation_beside_it_are_read(tmp_path):
    def change(members: dict[str, bytes]) -> None:
        inner = json.loads(members["index.json"])
        attestation = {**inner["manifests"][0], "annotations": {"vnd.docker.reference.type": "attestation-manifest"}}
        content = json.dumps({"manifests": [*inner["manifests"], attestation]}).encode()
        members[f"blobs/sha256/{sha256(content)[7:]}"] = content
        outer = described(content, "application/vnd.oci.image.index.v1+json")
        members["index.json"] = json.dumps({"manifests": [outer]}).encode()

    with open_image(rewritten(tmp_path, change)) as image:
        assert image.env["HOLOSCAN_WORKDIR"] == "/var/holoscan"


def test_the_content_of_a_later_layer_is_read(tmp_path):
    image = right_image()
    image.layers.append(
        {"etc/holoscan/app.json": document({"type": "service"}), "opt/holoscan/docs/.wh.LICENSE": File()}
    )
    with open_image(image.write_oci(tmp_path / "ctvae.oci.tar")) as opened:
        assert opened.document("/etc/monai/app.json") == {"type": "service"}
        assert opened.tree.find("/opt/holoscan/docs/LICENSE") is None
