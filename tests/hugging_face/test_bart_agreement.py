"""BART against `transformers`: outputs, states, loss, gradients to 1e-5; the same tokens, greedy and by beams; saved and loaded by both."""

import os
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from components.errors import CheckpointError
from components.hugging_face import exchange, folder
from components.hugging_face.architectures import architecture
from components.models.bart import Bart
from components.objectives.translation import Translation

SIZES = {"vocabulary_size": 29, "target_vocabulary_size": 29, "context": 14, "channels": 12, "heads": 3, "layers": 2, "expansion": 2}
SIZES |= {"dropout": 0.0, "attention_dropout": 0.0}
TARGET = "components.models.bart.Bart"

SOURCE = torch.randint(4, 29, (3, 9), generator=torch.Generator().manual_seed(1))
LENGTHS = torch.tensor([9, 6, 4])
WORDS = torch.arange(9) < LENGTHS.unsqueeze(1)
LABELS = torch.tensor([[7, 9, 5, 11, 3], [8, 21, 3, -100, -100], [4, 4, 19, 3, -100]])
GIVEN = torch.cat([torch.full((3, 1), 2), LABELS[:, :-1].clamp(min=0)], dim=1)


@pytest.fixture(scope="module")
def transformers() -> ModuleType:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers


def theirs(transformers: ModuleType, spread: float = 0.3) -> nn.Module:
    config = transformers.BartConfig(
        vocab_size=29,
        max_position_embeddings=14,
        d_model=12,
        dropout=0.0,
        **{
            f"{side}_{key}": value
            for side in ("encoder", "decoder")
            for key, value in (("layers", 2), ("attention_heads", 3), ("ffn_dim", 24))
        },
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
        decoder_start_token_id=2,
        forced_eos_token_id=None,
    )
    torch.manual_seed(0)
    model = transformers.BartForConditionalGeneration(config)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in [*model.parameters(), model.final_logits_bias]:
            parameter.add_(torch.randn(parameter.shape, generator=generator) * spread)
    return model.eval()


def loaded(path: Path) -> Bart:
    checkpoint, made = folder.read(path), SIZES | {"activation": "gelu"}
    assert exchange.differences(checkpoint, TARGET, made) == {}
    model = Bart(**SIZES, activation=nn.GELU)
    model.load_state_dict(exchange.weights(checkpoint, made))
    return model.eval()


def same(one: Tensor, other: Tensor) -> bool:
    return bool(other.abs().max() > 1e-3) and torch.allclose(one, other, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kernel", ["fused", "explicit"])
def test_agrees_in_outputs_states_loss_and_gradients(transformers: ModuleType, tmp_path: Path, kernel: str):
    reference = theirs(transformers)
    reference.save_pretrained(tmp_path / "theirs")
    model = loaded(tmp_path / "theirs")
    for module in model.modules():
        if hasattr(module, "kernel"):
            module.kernel = kernel
    states: list[Tensor] = []
    for block in [*model.encoder.blocks, *model.decoder.blocks]:
        block.feed_forward_norm.register_forward_hook(lambda module, given, out: states.append(out))
    expected = reference(input_ids=SOURCE, attention_mask=WORDS.long(), labels=LABELS, output_hidden_states=True)
    logits = model(SOURCE, LENGTHS, GIVEN)
    assert same(logits, expected.logits)
    for ours, hidden in zip(states, [*expected.encoder_hidden_states[1:], *expected.decoder_hidden_states[1:]], strict=True):
        rows = WORDS if ours.shape[1] == 9 else torch.ones(3, 5, dtype=torch.bool)
        assert same(ours[rows], hidden[rows])
    loss = F.cross_entropy(logits.flatten(0, 1), LABELS.flatten())
    assert abs(loss.item() - expected.loss.item()) < 1e-5
    loss.backward()
    expected.loss.backward()
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    translated = exchange.checkpoint(TARGET, found, SIZES | {"activation": "gelu"}).tensors
    gradients = {name: parameter.grad for name, parameter in reference.named_parameters()}
    assert set(translated) == set(gradients)
    for name, gradient in gradients.items():
        assert torch.allclose(translated[name], gradient, rtol=0, atol=1e-5), name
    assert sum(float(gradient.abs().max()) > 1e-3 for gradient in gradients.values()) > len(gradients) / 2


def test_looks_where_the_reference_looks(transformers: ModuleType, tmp_path: Path):
    reference = theirs(transformers)
    reference.set_attn_implementation("eager")
    reference.save_pretrained(tmp_path / "theirs")
    model = loaded(tmp_path / "theirs")
    encoded, state = model.encode(SOURCE, LENGTHS)
    found = model.looks(GIVEN, state, encoded)
    expected = reference(input_ids=SOURCE, attention_mask=WORDS.long(), decoder_input_ids=GIVEN, output_attentions=True).cross_attentions
    assert same(found, torch.stack(expected, dim=1))
    whole = reference(input_ids=SOURCE[:1], decoder_input_ids=GIVEN[:1], output_attentions=True).encoder_attentions
    assert same(torch.stack(model.attentions(SOURCE[:1])), torch.stack(whole))


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"beams": 4},
        {"beams": 3, "length_penalty": 0.0},
        {"beams": 4, "length_penalty": 2.0},
        {"no_repeat": 2},
        {"beams": 4, "no_repeat": 2},
        {"beams": 3, "shortest": 6, "no_repeat": 3},
    ],
    ids=str,
)
def test_writes_the_same_tokens(transformers: ModuleType, tmp_path: Path, how: dict):
    reference = theirs(transformers, spread=0.6)
    with torch.no_grad():
        reference.final_logits_bias[0, 3] += 2.0  # some end early, some late
    reference.save_pretrained(tmp_path / "theirs")
    model = loaded(tmp_path / "theirs")
    named = {
        "num_beams": how.get("beams", 1),
        "length_penalty": how.get("length_penalty", 1.0),
        "no_repeat_ngram_size": how.get("no_repeat", 0),
        "min_new_tokens": how.get("shortest", 0) or None,
    }
    expected = reference.generate(SOURCE, attention_mask=WORDS.long(), max_new_tokens=12, do_sample=False, **named)[:, 1:].tolist()
    found = Translation(vocabulary="", target_vocabulary="", limit=12, **how).write(model, {"inputs": SOURCE, "lengths": LENGTHS}).tolist()
    for ours, row in zip(found, expected, strict=True):
        text = row[: row.index(3) + 1] if 3 in row else row
        assert ours[: len(text)] == text
        assert set(ours[len(text) :]) <= {3}
    assert len({tuple(row) for row in expected}) > 1


def test_saved_here_is_the_same_there_and_back(transformers: ModuleType, tmp_path: Path):
    torch.manual_seed(0)
    model = Bart(**SIZES, activation=nn.GELU).eval()
    model.output_bias.normal_()
    for bytes_ in (10**9, 3000):
        place = tmp_path / str(bytes_)
        folder.write(place / "ours", exchange.checkpoint(TARGET, model.state_dict(), SIZES | {"activation": "gelu"}), shard_bytes=bytes_)
        assert (place / "ours" / folder.INDEX).is_file() is (bytes_ == 3000)
        reference, told = transformers.BartForConditionalGeneration.from_pretrained(place / "ours", output_loading_info=True)
        assert not any(told.values())
        with torch.no_grad():
            expected = reference(input_ids=SOURCE, attention_mask=WORDS.long(), decoder_input_ids=GIVEN).logits
            assert same(model(SOURCE, LENGTHS, GIVEN), expected)
        reference.save_pretrained(place / "back", max_shard_size=bytes_)
        back = loaded(place / "back")
        assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in back.state_dict().items())


def test_what_bart_has_not_is_refused():
    config = exchange.checkpoint(TARGET, {}, SIZES | {"activation": "gelu"}).config
    with pytest.raises(CheckpointError, match="the checkpoint's encoder has 2 layers and its decoder 1; in bart both have as many"):
        architecture(config).arguments(config | {"decoder_layers": 1})
    with pytest.raises(CheckpointError, match="scale_embedding is true"):
        architecture(config).arguments(config | {"scale_embedding": True})
