"""Miniatures of the data sets that the papers train on and measure with, in the layout of their downloads."""

import json
import tarfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

ROWS = 12
CLASSES = {"cat2": "cat", "dog": "dog"}
PROMPTS = ("a {0} {1} in the jungle", "a red {0} {1}")
SCORES = ("compositeStructure", "objectConsistency", "imageQuality")
SAID = ("item", "description_0", "description_1")


def image(number: int, side: int = 64) -> Image.Image:
    """A coloured disc on a coloured ground, which the number decides."""
    drawn = Image.new("RGB", (side, side), ((number * 37) % 256, (number * 91) % 256, 90))
    low = side * (1 + number % 3) // 8
    ImageDraw.Draw(drawn).ellipse((low, low, side - low, side - low), fill=(230, (number * 53) % 256, 40))
    return drawn


def content(drawn: Image.Image, kind: str = "PNG") -> bytes:
    file = BytesIO()
    drawn.save(file, kind)
    return file.getvalue()


def pair(number: int) -> bytes:
    """Two images of 512 pixels beside each other on white, as collection 2 of Subjects200K has them."""
    whole = Image.new("RGB", (3 * 16 + 2 * 512, 2 * 16 + 512), "white")
    for i in (0, 1):
        whole.paste(image(2 * number + i, 512), (16 + i * (16 + 512), 16))
    return content(whole)


def row(number: int) -> dict[str, object]:
    """What Subjects200K and Graph200K say of a pair alike."""
    quality = dict.fromkeys(SCORES, 5)
    said = dict(zip(SAID, ("dog", f"a dog, no {number}", f"the dog elsewhere, no {number}"), strict=True))
    return {"collection": "collection_2", "quality_assessment": quality, "description": said}


def subjects200k(root: Path) -> None:
    """A parquet file of pairs."""
    pa = pytest.importorskip("pyarrow", reason="the extra 'data' is not installed")
    import pyarrow.parquet

    rows = [row(i) | {"image": {"bytes": pair(i), "path": None}} for i in range(ROWS)]
    (root / "data").mkdir(parents=True)
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), root / "data" / "train-00000.parquet", row_group_size=4)


def graph200k(root: Path) -> None:
    """Arrow streams of both splits, in which every record has every image."""
    pa = pytest.importorskip("pyarrow", reason="the extra 'data' is not installed")
    from datamodules.sets.graph200k import IMAGES

    for split, count in (("train", ROWS), ("test", 4)):
        rows = [
            {name: {"bytes": content(image(i + k)), "path": None} for k, name in enumerate(IMAGES)}
            | row(i)
            | {"FillEdit_meta": {"name": "cup", "description": [f"cup {k}" for k in range(5)]}}
            for i in range(count)
        ]
        table, folder = pa.Table.from_pylist(rows), root / split
        folder.mkdir(parents=True)
        with pa.ipc.new_stream(str(folder / "data-00000-of-00001.arrow"), table.schema) as writer:
            writer.write_table(table, max_chunksize=4)


def text_to_image_2m(root: Path) -> None:
    """A tar of images with their prompts."""
    (root / "data_512_2M").mkdir(parents=True)
    with tarfile.open(root / "data_512_2M" / "data_000000.tar", "w") as file:
        for i in range(ROWS):
            parts = {"jpg": content(image(i), "JPEG"), "json": json.dumps({"prompt": f"disc {i}"}).encode()}
            for part, data in parts.items():
                member = tarfile.TarInfo(f"{i:06}.{part}")
                member.size = len(data)
                file.addfile(member, BytesIO(data))


def coco(root: Path) -> None:
    """Photographs and the captions file."""
    names = {i: f"{i:012}.jpg" for i in range(1, 5)}
    table = {
        "images": [{"id": i, "file_name": name, "width": 64, "height": 64} for i, name in names.items()],
        "annotations": [{"id": 10 + i, "image_id": i, "caption": f"disc {i}"} for i in names],
    }
    for folder in ("annotations", "val2017"):
        (root / folder).mkdir(parents=True)
    (root / "annotations" / "captions_val2017.json").write_text(json.dumps(table))
    for i, name in names.items():
        (root / "val2017" / name).write_bytes(content(image(i), "JPEG"))


def dreambench(root: Path) -> None:
    """A folder of photographs for each subject, and the file of classes and prompts."""
    lines = ",\n".join(f"'{line}'.format(unique_token, class_token)" for line in PROMPTS)
    prompts = f"prompt_list = [\n{lines}\n]\n"
    pairs = "".join(f"{subject},{noun}\n" for subject, noun in CLASSES.items())
    text = (
        f"Classes\n\nsubject_name,class\n{pairs}\nPrompts\n\nObject Prompts\n\n{prompts}\n"
        f"Live Subject Prompts\n\n{prompts}"
    )
    for number, subject in enumerate(CLASSES):
        (root / subject).mkdir(parents=True)
        for i in range(2):
            (root / subject / f"0{i}.jpg").write_bytes(content(image(10 * number + i), "JPEG"))
    (root / "prompts_and_classes.txt").write_text(text)


SETS: dict[str, Callable[[Path], None]] = {
    made.__name__: made for made in (subjects200k, graph200k, text_to_image_2m, coco, dreambench)
}
