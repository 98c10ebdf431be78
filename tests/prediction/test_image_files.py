"""Image files that arguments name."""

from pathlib import Path

import pytest

from focal_plugin.prediction.image_files import common_folder, find_images


@pytest.fixture
def photos(tmp_path, monkeypatch):
    for name in ("b.jpg", "a.PNG", "notes.txt", ".hidden.png", "sub/c.tif", ".cache/d.png"):
        file = tmp_path / "photos" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path / "photos"


def names(*arguments):
    return [str(file.relative_to(Path.cwd())) for file in find_images(arguments)]


def test_a_folder_gives_its_images_and_those_of_its_subfolders(photos):
    assert names("photos") == ["photos/a.PNG", "photos/b.jpg", "photos/sub/c.tif"]


def test_a_pattern_gives_what_matches(photos):
    assert names("photos/*.jpg") == ["photos/b.jpg"]
    assert names("photos/**/*.tif") == ["photos/sub/c.tif"]
    assert names("photos/s*") == ["photos/sub/c.tif"]  # a folder


def test_a_named_file_counts_whatever_its_suffix(photos):
    assert names("photos/notes.txt") == ["photos/notes.txt"]


def test_each_file_is_listed_once_in_the_order_of_the_arguments(photos):
    (photos / "link.jpg").symlink_to("b.jpg")
    given = ("photos/sub", "photos/b.jpg", photos, "photos/link.jpg")
    assert names(*map(str, given)) == ["photos/sub/c.tif", "photos/b.jpg", "photos/a.PNG"]


def test_a_name_with_the_characters_of_a_pattern_is_a_file(photos):
    (photos / "a[1].jpg").touch()
    assert names("photos/a[1].jpg") == ["photos/a[1].jpg"]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("nowhere", "there is no image, folder or pattern nowhere"),
        ("photos/*.gif", r"no image matches photos/\*\.gif"),
        ("photos/.cache/empty", "the folder .*empty holds no image"),
    ],
)
def test_an_argument_without_images_is_named(photos, argument, message):
    (photos / ".cache/empty").mkdir()
    with pytest.raises(FileNotFoundError, match=message):
        find_images([argument])


def test_the_common_folder_holds_all_images(photos):
    assert common_folder(find_images(["photos"])) == photos
    assert common_folder(find_images(["photos/sub"])) == photos / "sub"
