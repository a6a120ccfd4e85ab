"""Lists of names and folders of files: what is read from them, and that nothing outside the data set ever is."""
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from datasets import build_datasets, check_dataset
from datasets.image_lists import ImageFolder, list_images, read_list, to_one_line
from utils.errors import UserError

READ = {
    "one a line": (b"a\nb\n", ["a", "b"]),
    "no end of line": (b"a\nb", ["a", "b"]),
    "CRLF": (b"a\r\nb\r\n", ["a", "b"]),
    "CR": (b"a\rb\r", ["a", "b"]),
    "blank lines": (b"\n\n a\t\n \r\n\tb\n\n", ["a", "b"]),
    "byte order mark": (b"\xef\xbb\xbfa\nb\n", ["a", "b"]),
    "spaces inside": (b"a b\nc  d\n", ["a b", "c  d"]),
    "Unicode": ("Straße\n日本\nI\u0307\u2028x\n".encode(), ["Straße", "日本", "I\u0307\u2028x"]),
    "dots": (b"a.b\n..a\na..b\n.\xc3\xa4\n", ["a.b", "..a", "a..b", ".ä"]),
    "no bytes": (b"", []),
    "file names": (b"a.jpg\nb.c.PNG\n", ["a", "b.c"]),
    "paths": (b"JPEGImages/a.jpg\n/JPEGImages/b.jpeg\n", ["a", "b"]),
    "backslashes": (b"JPEGImages\\a.jpg\r\n", ["a"]),
    "DeepLab's columns": (b"/JPEGImages/a b.jpg /SegmentationClassAug/a b.png\n", ["a b"]),
    "blank lines alone": (b"\r\n \n\t\n", []),
}
REFUSED = {
    "a path": (b"a\nfolder/b\n", 'the line "folder/b"'),
    "an absolute path": (b"/root/secret\n", 'the line "/root/secret"'),
    "a path upwards": (b"../../secret\n", 'the line "../../secret"'),
    "the folder above": (b"..\n", 'the line ".."'),
    "a path of Windows": (b"..\\secret\n", "the line"),
    "two paths upwards": (b"/JPEGImages/a.jpg /../a.png\n", "without folder"),
    "a drive": (b"C:\\a.jpg\n", "without folder"),
    "the folder itself": (b".\n", "without folder"),
    "names and file names": (b"a\nb.jpg\n", "mixes names and file names"),
    "names and paths": (b"a\nJPEGImages/b.jpg\n", "mixes names and paths"),
    "one column and two": (b"x/a.jpg\nx/b.jpg y/b.png\n", "mixes paths and two columns"),
    "a zero byte": (b"a\0b\n", "the line \"a\\x00b\""),
    "a terminal's code": (b"\x1b[31ma\n", "the line \"\\x1b[31ma\""),
    "UTF-16": ("a\nb\n".encode("utf-16"), "not UTF-8"),
    "UTF-16 without a byte order mark": ("a\nb\n".encode("utf-16-le"), "the line"),
    "Latin-1": ("Straße\n".encode("latin-1"), "not UTF-8"),
    "an image": (b"\x89PNG\r\n\x1a\n", "not UTF-8"),
}


@pytest.mark.parametrize("kind", READ)
def test_a_list_that_works(tmp_path, kind):
    content, names = READ[kind]
    (tmp_path / "val.txt").write_bytes(content)
    assert [entry.stem for entry in read_list(tmp_path / "val.txt")] == names


@pytest.mark.parametrize("kind", REFUSED)
def test_a_list_that_does_not_is_one_line(tmp_path, kind):
    content, words = REFUSED[kind]
    (tmp_path / "val.txt").write_bytes(content)
    with pytest.raises(UserError) as error:
        read_list(tmp_path / "val.txt")
    assert str(tmp_path / "val.txt") in str(error.value) and words in str(error.value)
    assert str(error.value).isprintable()


def test_a_list_that_is_a_folder_or_leads_nowhere(tmp_path):
    (tmp_path / "folder.txt").mkdir()
    (tmp_path / "link.txt").symlink_to(tmp_path / "nowhere.txt")
    for path in (tmp_path / "folder.txt", tmp_path / "link.txt", tmp_path / "missing.txt"):
        with pytest.raises(UserError, match=path.name):
            read_list(path)


@pytest.mark.parametrize("text", ["", "\r\n\n"])
@pytest.mark.parametrize("split", [0, 1])
def test_an_empty_split_names_its_list(voc_root, write, text, split):
    path = voc_root / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation" / f"{['train', 'val'][split]}.txt"
    write.text(path, text)
    with pytest.raises(UserError) as error:
        check_dataset(build_datasets("voc", data_root=voc_root)[split])
    assert f"No images in {path}" in str(error.value)


def test_a_list_for_classification_is_named(voc_root, write):
    path = voc_root / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation" / "train.txt"
    write.text(path, "a -1\r\nb  1\r\nc  0\r\n")
    with pytest.raises(UserError, match="train.txt is for classification"):
        build_datasets("voc", data_root=voc_root)


def test_names_that_only_look_like_one_for_classification_work(voc_root, write):
    folder = voc_root / "VOCdevkit" / "VOC2012"
    write.text(folder / "ImageSets" / "Segmentation" / "train.txt", "photo 0\nphoto 1\n")
    for name in ("photo 0", "photo 1"):
        write.image(folder / "JPEGImages" / f"{name}.jpg")
        write.mask(folder / "SegmentationClass" / f"{name}.png", 4)
    train, _ = build_datasets("voc", data_root=voc_root)
    check_dataset(train)
    assert [train.name(i) for i in range(2)] == ["photo 0", "photo 1"]


@pytest.mark.parametrize(("listed", "image", "mask"), [("NFC", "NFD", "NFD"), ("NFD", "NFC", "NFC"),
                                                       ("NFC", "NFC", "NFD"), ("NFD", "NFC", "NFD")])
def test_names_are_found_whatever_their_unicode_form(voc_root, write, listed, image, mask):
    folder, name = voc_root / "VOCdevkit" / "VOC2012", "Übung é"
    write.text(folder / "ImageSets" / "Segmentation" / "val.txt", unicodedata.normalize(listed, name))
    write.image(folder / "JPEGImages" / f"{unicodedata.normalize(image, name)}.jpg")
    write.mask(folder / "SegmentationClass" / f"{unicodedata.normalize(mask, name)}.png", 4)
    _, val = build_datasets("voc", data_root=voc_root)
    check_dataset(val)
    assert unicodedata.normalize("NFC", val.name(0)) == name and (val[0][1] == 4).all()


def test_a_unicode_name_that_is_nowhere_is_missing(voc_root, write):
    write.text(voc_root / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation" / "val.txt", "Übung")
    with pytest.raises(UserError, match="Missing file .*Übung.jpg"):
        check_dataset(build_datasets("voc", data_root=voc_root)[1])


def test_a_camvid_image_without_a_mask_names_the_mask(camvid_root):
    (camvid_root / "trainannot" / "0002.png").unlink()
    train, _ = build_datasets("camvid", data_root=camvid_root)
    with pytest.raises(UserError, match="Missing file .*trainannot/0002.png"):
        check_dataset(train)


@pytest.mark.parametrize(("masks", "found"), [
    (["1.png", "10.png", "a.b.gif"], ["1.png", "10.png", "a.b.gif"]),
    (["1_mask.gif", "10_mask.gif", "a.b_mask.gif"], ["1_mask.gif", "10_mask.gif", "a.b_mask.gif"]),
    (["1.png", "1_colour.png", "10.png", "10_colour.png", "a.b.png", "a.b_colour.png"], ["1.png", "10.png", "a.b.png"]),
    (["1_L.png", "10_L.png"], ["1_L.png", "10_L.png", "a.b.png"]),  # of the last one nobody knows
    (["1.png", "10_x.png", "other.png"], ["1.png", "10.png", "a.b.png"])])
def test_masks_have_their_images_names_and_one_ending(tmp_path, masks, found):
    for name in masks:
        (tmp_path / name).touch()
    folder = ImageFolder(tmp_path)
    pairs = folder.pair([Path(name) for name in ("1.jpg", "10.jpg", "a.b.jpg")])
    assert [mask.name for _, mask in pairs] == found
    assert {path.name for path in folder.absent} == {*found} - {*masks}


@pytest.mark.parametrize("other", ["10.png", "1_2.png", "1b.png", "1-1.png"])
def test_the_mask_of_another_image_is_not_taken_for_a_missing_one(tmp_path, other):
    """A single image, as predict.py may get it, tells nothing about endings."""
    (tmp_path / other).touch()
    folder = ImageFolder(tmp_path)
    assert folder.pair([Path("1.jpg")]) == [(Path("1.jpg"), tmp_path / "1.png")] and folder.absent


def test_the_mask_of_a_known_image_is_nobody_elses(tmp_path):
    (tmp_path / "a_left.png").touch()
    folder = ImageFolder(tmp_path)
    pairs = folder.pair([Path("a.jpg"), Path("a_left.jpg")])
    assert [mask.name for _, mask in pairs] == ["a.png", "a_left.png"]


def test_an_ending_is_said(tmp_path, log):
    (tmp_path / "1_mask.png").touch()
    ImageFolder(tmp_path).pair([Path("1.jpg")])
    assert "have the names of their images and _mask" in log.text


def test_an_empty_folder_says_what_it_holds(camvid_root):
    for image in (camvid_root / "train").iterdir():
        image.rename(image.with_suffix(".npy"))
    train, _ = build_datasets("camvid", data_root=camvid_root)
    with pytest.raises(UserError, match=r"No images in .*train \(but \d+ .npy\)"):
        check_dataset(train)


def test_a_file_for_a_folder_is_no_data_set(camvid_root):
    with pytest.raises(UserError, match="--data_root"):
        build_datasets("camvid", data_root=camvid_root / "train" / "0001.jpg")


def test_the_images_of_a_folder_are_sorted_and_hidden_ones_left(tmp_path):
    for name in ("b.PNG", "a.jpg", "c.JPEG", ".hidden.png", "notes.txt", "._a.jpg", "d.png.part"):
        Image.new("L", (1, 1)).save(tmp_path / name, "PNG")
    assert [path.name for path in list_images(tmp_path)] == ["a.jpg", "b.PNG", "c.JPEG"]
    with pytest.raises(UserError, match="nowhere"):
        list_images(tmp_path / "nowhere")


def test_what_is_shown_is_one_line():
    assert to_one_line("a b é\n\x1b\udcff") == "a b é\\n\\x1b\\udcff"
