"""What a person gets from a finished detector: pictures with boxes and JSON, for pictures of every kind, and a comparison of several."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import typer
from PIL import Image

from benchmarks import detection
from components.data.prepared import prepare
from components.data.scenes import Scenes
from components.errors import ConfigError, DataError, RequestError
from components.objectives.detection import Detection
from flows.commands import using
from flows.commands.using import _in_words
from flows.comparison import compare, in_turns
from flows.config.build import validate
from flows.config.compose import compose
from flows.lab.settings import Settings
from flows.parts import build_model, save_model, save_outcomes
from flows.prediction import LONGEST_NAME, predict_each, write_objects
from flows.records.journal import Journal
from flows.records.logged_model import example
from flows.records.serving import _load_pyfunc

FACTS = {
    "input_shape": [3, 128, 128],
    "classes": 10,
    "class_names": [str(digit) for digit in range(10)],
    "mean": [0.4, 0.4, 0.4],
    "std": [0.3, 0.3, 0.3],
    "fit": "stretch",
    "predicts": "boxes",
}
DATA = ["data.train=6", "data.validation=2", "data.test=3"]
TOLD = ["objective.score_threshold=0.0", "objective.answer_threshold=0.0", "objective.limit=4"]


def run(folder, experiment, facts=FACTS):
    """A run of a detector that nobody trained."""
    config = validate(compose([f"experiment={experiment}", *DATA, *TOLD]))
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    model, objective = build_model(config, facts)
    save_model(folder / "model", model.state_dict(), config, SimpleNamespace(name="scenes", fingerprint="0" * 64, facts=facts))
    return folder, model, objective


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    return run(tmp_path_factory.mktemp("run") / "ssd", "ssd_scenes")[0]


def pictures(folder):
    folder.mkdir()
    generator = np.random.default_rng(0)
    colours = Image.fromarray(generator.integers(0, 255, (90, 60, 3), dtype=np.uint8))
    colours.save(folder / "plain.jpg")
    colours.convert("L").save(folder / "grayscale.jpg")
    colours.convert("CMYK").save(folder / "cmyk.jpg")
    Image.fromarray(generator.integers(0, 65535, (90, 60), dtype=np.uint16)).save(folder / "sixteen.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    colours.save(folder / "turned.jpg", exif=exif)
    Image.new("RGB", (1, 1)).save(folder / "point.png")
    (folder / "torn.jpg").write_bytes((folder / "plain.jpg").read_bytes()[:900])
    return folder


def pixels_of(path):
    with Image.open(path) as picture:
        return np.asarray(picture, dtype=int)


def test_every_kind_of_picture_has_an_answer_or_a_clear_error(detector, tmp_path):
    folder = pictures(tmp_path / "pictures")
    answers = {one.rpartition("/")[2]: (one, answer) for one, answer in predict_each(detector / "model", [str(folder)])}
    sizes = {
        "plain.jpg": (60, 90),
        "grayscale.jpg": (60, 90),
        "cmyk.jpg": (60, 90),
        "sixteen.png": (60, 90),
        "turned.jpg": (90, 60),
        "point.png": (1, 1),
    }
    assert set(answers) == {*sizes, "torn.jpg"}
    error = answers.pop("torn.jpg")[1]
    assert isinstance(error, DataError)
    assert "cannot be decoded" in str(error)
    for name, (one, answer) in answers.items():
        width, height = sizes[name]
        assert len(answer["objects"]) == 4
        for found in answer["objects"]:
            left, top, right, bottom = found["box"]
            assert 0 <= left <= right <= width
            assert 0 <= top <= bottom <= height
        path = write_objects(one, answer, tmp_path / "into")
        assert pixels_of(path).shape == (height, width, 3)
        said = json.loads((tmp_path / "into" / f"{name}.json").read_text())
        assert said == {"given": one, "size": [height, width], **answer}
    drawn = pixels_of(tmp_path / "into" / "plain.jpg.png")
    assert (np.abs(drawn - pixels_of(folder / "plain.jpg")).max(axis=2) > 0).sum() > 50


def test_who_finds_nothing_says_above_which_probability(detector, tmp_path):
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    for setting, threshold in (("objective.answer_threshold=0.995", "0.995"), ("objective.score_threshold=0.99", "0.99")):
        ((given, answer),) = predict_each(detector / "model", [str(tmp_path / "a.png")], [setting])
        assert _in_words(answer, given) == [
            "0 objects",
            f"nothing is more probable than {threshold} (--set objective.answer_threshold=… shows more)",
        ]
    ((given, answer),) = predict_each(detector / "model", [str(tmp_path / "a.png")])
    assert _in_words(answer, given)[1].count("%") == 4


def test_a_folder_without_files_is_an_error_of_its_own(detector, tmp_path):
    (tmp_path / "outer" / "inner").mkdir(parents=True)
    Image.new("RGB", (20, 20)).save(tmp_path / "good.png")
    given = [str(tmp_path / "good.png"), str(tmp_path / "outer"), str(tmp_path / "outer" / "inner")]
    answers = dict(predict_each(detector / "model", given))
    assert list(answers) == given
    assert "objects" in answers[given[0]]
    assert "has only folders in it: name one of them" in str(answers[given[1]])
    assert str(answers[given[2]]).endswith("is an empty folder")


def test_files_of_one_name_are_written_apart(tmp_path):
    taken, found = set(), []
    for folder in ("one", "two", "two"):
        (tmp_path / folder).mkdir(exist_ok=True)
        Image.new("RGB", (20, 20)).save(tmp_path / folder / "a.png")
        found.append(write_objects(str(tmp_path / folder / "a.png"), {"objects": []}, tmp_path / "into", taken=taken))
        taken.add(found[-1].stem)
    assert [path.name for path in found] == ["a.png.png", "two-a.png.png", "2-a.png.png"]
    assert json.loads((tmp_path / "into" / "two-a.png.json").read_text())["given"] == str(tmp_path / "two" / "a.png")


def test_names_as_long_as_a_file_system_takes_are_shortened_and_stay_apart(tmp_path):
    found = []
    for name in ("a" * 250 + ".jpg", "a" * 249 + "b.jpg", "é" * 125 + ".png", "x." + "y" * 252, "fits" * 60 + ".jpg"):
        Image.new("RGB", (20, 20)).save(tmp_path / name, "PNG")
        found.append(write_objects(str(tmp_path / name), {"objects": []}, tmp_path / "into", taken={path.stem for path in found}))
        assert found[-1].is_file()
        assert json.loads(found[-1].with_suffix(".json").read_text("utf-8"))["given"] == str(tmp_path / name)
    assert len(set(found)) == 5
    assert [len(os.fsencode(path.stem)) for path in found] == [LONGEST_NAME, LONGEST_NAME, LONGEST_NAME - 1, LONGEST_NAME, 244]
    assert [path.name[-8:] for path in found[:3]] == [".jpg.png", ".jpg.png", ".png.png"]
    assert found[4].stem == "fits" * 60 + ".jpg"


def test_a_name_that_is_no_utf8_is_answered_for(detector, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LAB_HOME", str(tmp_path / "lab"))
    path = str(tmp_path / os.fsdecode(b"a\xff.png"))
    Image.new("RGB", (20, 20)).save(path)
    code, said, told = asked(detector, monkeypatch, capsys, path)
    assert (code, said["predictions"][0]["given"]) == (0, path)
    assert "a\\udcff.png" in told.replace("\n", "")
    written = (tmp_path / "lab" / "predictions" / "ssd" / f"{Path(path).name}.json").read_text("utf-8")
    assert json.loads(written)["given"] == f"{tmp_path}/a\ufffd.png"


def asked(detector, monkeypatch, capsys, *given):
    """What `lab predict … --json` says, and its exit code."""
    monkeypatch.setattr("flows.runs.model_folder", lambda *_: ("ssd", detector / "model"))
    code = 0
    try:
        using.predict("ssd", [str(each) for each in given], json=True)
    except typer.Exit as end:
        code = end.exit_code
    out, told = capsys.readouterr()
    return code, json.loads(out), told


def test_an_answer_that_cannot_be_written_is_an_error_of_its_own(detector, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LAB_HOME", str(tmp_path / "lab"))
    for name in ("a.png", "b.png", "c.png"):
        Image.new("RGB", (20, 20)).save(tmp_path / name)
    (tmp_path / "lab" / "predictions" / "ssd" / "b.png.png").mkdir(parents=True)
    code, said, told = asked(detector, monkeypatch, capsys, *(tmp_path / name for name in ("a.png", "b.png", "c.png")))
    assert (code, said["error"]) == (1, "1 of 3 could not be used")
    assert ["objects" in each for each in said["predictions"]] == [True, False, True]
    assert said["predictions"][1]["error"].endswith("predictions/ssd/b.png.png: Is a directory")
    assert "Is a directory" in told


def test_links_to_nowhere_and_inner_folders_are_not_passed_over(detector, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LAB_HOME", str(tmp_path / "lab"))
    for folder in ("one/inner", "one/other", "two/inner", "two/.hidden"):
        (tmp_path / folder).mkdir(parents=True)
    for folder in ("one", "two"):
        Image.new("RGB", (20, 20)).save(tmp_path / folder / "a.png")
    (tmp_path / "one" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "one" / "round.png").symlink_to(tmp_path / "one" / "round.png")
    code, said, told = asked(detector, monkeypatch, capsys, tmp_path / "one", tmp_path / "two")
    assert code == 1
    assert [each["given"].removeprefix(f"{tmp_path}/") for each in said["predictions"]] == [
        "one/a.png",
        "one/gone.png",
        "one/round.png",
        "two/a.png",
    ]
    assert [each.get("error", "").rpartition(": ")[2] for each in said["predictions"]] == [
        "",
        "No such file or directory",
        "Too many levels of symbolic links",
        "",
    ]
    assert said["notes"] == ["3 folders inside were not looked into: name them, too, if the files in there are to be answered"]
    assert told.count("not looked into") == 1


def test_a_missing_file_is_said(detector, tmp_path):
    ((_, error),) = predict_each(detector / "model", [str(tmp_path / "no.jpg")])
    assert str(error).endswith("no.jpg: No such file or directory")


def test_a_logged_detector_gives_rows(detector):
    inputs, outputs, kind = example(detector / "model")
    assert (inputs.shape, outputs, kind) == ((2, 3, 128, 128), (-1, 6), "float32")
    rows = _load_pyfunc(str(detector / "model")).predict(inputs)
    assert rows.shape == (2, 4, 6)
    assert (rows[..., 1] > 0).all()
    assert (rows[..., 4] >= rows[..., 2]).all()


def test_runs_take_turns_at_each_example():
    said = []

    class Examining:
        def examine(self, model, split):
            for place in range(split):
                said.append(model + str(place))
                yield model.upper() + str(place)

    runs = {name: (SimpleNamespace(objective=Examining(), model=name), 3) for name in "ab"} | {"c": (SimpleNamespace(objective=None), 3)}
    assert in_turns(runs) == {"a": ["A0", "A1", "A2"], "b": ["B0", "B1", "B2"], "c": []}
    assert said == ["a0", "b0", "a1", "b1", "a2", "b2"]


def test_detectors_of_two_kinds_are_compared(tmp_path, monkeypatch):
    settings = Settings(tmp_path / "lab")
    prepared = prepare(Scenes(train=6, validation=2, test=3), settings.data, None)
    folders = []
    for experiment in ("ssd_scenes", "yolo_scenes"):
        folder, model, objective = run(tmp_path / experiment, experiment, prepared.facts)
        save_outcomes(folder / "outcomes" / "test", objective.outcomes(model.eval(), prepared.splits["test"].batch(torch.arange(3))))
        folders.append(folder)
    metrics, figures = compare(folders, settings)
    assert set(metrics) == {"ssd_scenes", "yolo_scenes"}
    (above, below) = figures["times"].axes
    assert above.get_ylabel() == "mAP at IoU 0.5"
    assert {text.get_text() for text in below.get_yticklabels()} == {"ssd_scenes", "yolo_scenes"}
    monkeypatch.setattr("flows.runs.find", lambda name, _: tmp_path / name)
    monkeypatch.setenv("LAB_HOME", str(tmp_path / "lab"))
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in detection.table_of_runs(["ssd_scenes", "yolo_scenes"]).splitlines()
    ]
    assert [row[0] for row in rows[2:]] == ["ssd_scenes", "yolo_scenes"]
    for row in rows[2:]:
        low, high = map(float, row[4].split("…"))
        assert 0 < low <= float(row[3]) <= high
    with_regions = json.loads((folders[1] / "model" / "data.json").read_text()) | {"name": "scenes_regions"}
    (folders[1] / "model" / "data.json").write_text(json.dumps(with_regions))
    assert set(compare(folders, settings)[0]) == set(metrics), "the same pictures, whatever comes with them"
    other = Scenes(train=6, validation=2, test=3, scene_seed=5)
    elsewhere = prepare(other, settings.data, None)
    folder, model, objective = run(tmp_path / "elsewhere", "ssd_scenes", elsewhere.facts)
    save_outcomes(folder / "outcomes" / "test", objective.outcomes(model.eval(), elsewhere.splits["test"].batch(torch.arange(3))))
    with pytest.raises(RequestError, match="was tested on other examples of scenes than the first run"):
        compare([folders[0], folder], settings)


def own(folder, kind, pictures, names):
    """A run on pictures of one's own, which is said to have found what is there."""
    config = validate(compose(["experiment=ssd_bccd", f"data={kind}", f"data.path={folder}", "data.size=[32,32]"]))
    facts = FACTS | {"input_shape": [3, 32, 32], "classes": len(names), "class_names": names}
    model, _ = build_model(config, facts)
    save_model(folder / "model", model.state_dict(), config, SimpleNamespace(name=kind, fingerprint="0" * 64, facts=facts))
    (folder / "config.json").write_text(json.dumps(config))
    box = {"boxes": [[[0, 0, 9, 9]]], "labels": [[0]], "scores": [[0.9]], "difficult": [[False]]}
    truth = {"true_boxes": box["boxes"], "true_labels": box["labels"], "index": torch.tensor([0]), "recall": torch.ones(1)}
    save_outcomes(folder / "outcomes" / "test", {**box, **truth, "objects": torch.ones(1)})
    with Journal(folder) as said:
        said.event("data", name=kind, fingerprint="0" * 64, card={"recipe": {"sources": [pictures]}})
    return folder


@pytest.mark.parametrize(
    ("other", "names"),
    [("mine", ["ant", "bee"]), ("other", ["ant"])],
    ids=["other classes", "other pictures"],
)
def test_what_is_true_of_other_pictures_of_ones_own_is_not_compared(other, names, tmp_path, monkeypatch):
    monkeypatch.setattr("flows.comparison.prepare_data", lambda *_: SimpleNamespace(splits={"test": range(0)}))
    monkeypatch.setattr(Detection, "examine", lambda *_: iter([{"features": 1.0}]))
    first = own(tmp_path / "first", "voc", "mine", ["ant"])
    assert len(compare([first, own(tmp_path / "again", "voc", "mine", ["ant"])], Settings(tmp_path))[0]) == 2
    second = own(tmp_path / "second", "voc", other, names)
    with pytest.raises(RequestError, match="was tested on other examples of voc than the first run"):
        compare([first, second], Settings(tmp_path))


@pytest.mark.parametrize(
    ("chosen", "facts", "message"),
    [
        (
            ["model=vgg", "objective=multibox"],
            FACTS,
            "model: VGG cannot learn by MultiBox, which needs a detector with candidates, parts, def",
        ),
        (["model=yolo", "objective=multibox"], FACTS, "which needs a detector with default_boxes, coder"),
        (["model=ssd", "objective=multibox"], FACTS | {"predicts": "sequence"}, "data: MultiBox learns from boxes"),
        (["model=vgg", "objective=classification"], FACTS, r"Classification is not for detection \(the data have boxes\)"),
        (["model=ssd", "objective=classification"], FACTS | {"predicts": "sequence"}, r"not for detection \(SSD finds boxes\)"),
    ],
)
def test_what_does_not_go_together_is_refused(chosen, facts, message):
    with pytest.raises(ConfigError, match=message):
        build_model(validate(compose(["data=scenes", *chosen])), facts)
