"""BERT and GPT-2 against `transformers`: outputs, hidden states, losses and gradients to 1e-5; saved by either, loaded by the other."""

import os
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from components.decoding import beam_search
from components.hugging_face import exchange, folder
from components.models.bert import Bert
from components.models.gpt import GPT

BERT_SIZES = {"vocabulary_size": 23, "context": 9, "segments": 2, "channels": 12, "heads": 3, "layers": 2, "expansion": 2}
BERT_SIZES |= {"dropout": 0.0, "epsilon": 1e-12}
GPT_SIZES = {"vocabulary_size": 23, "context": 20, "channels": 12, "heads": 3, "layers": 2, "expansion": 4, "dropout": 0.0}

TOKENS = torch.randint(1, 23, (3, 9), generator=torch.Generator().manual_seed(1))
LENGTHS = torch.tensor([9, 6, 4])
WORDS = torch.arange(9) < LENGTHS.unsqueeze(1)
SEGMENTS = torch.tensor([[0, 0, 0, 0, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0, 0, 0]])
GIVEN = {"input_ids": TOKENS, "attention_mask": WORDS.long(), "token_type_ids": SEGMENTS}

HEADS = {
    "pretraining": "BertForPreTraining",
    "sequence": "BertForSequenceClassification",
    "each": "BertForTokenClassification",
    "span": "BertForQuestionAnswering",
}


@pytest.fixture(scope="module")
def transformers() -> ModuleType:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers


def their_bert(transformers: ModuleType, predicts: str) -> nn.Module:
    config = transformers.BertConfig(
        vocab_size=23,
        hidden_size=12,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=24,
        max_position_embeddings=9,
        num_labels=2 if predicts == "span" else 4,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    torch.manual_seed(0)
    return stirred(getattr(transformers, HEADS[predicts])(config))


def their_gpt(transformers: ModuleType, spread: float = 0.3) -> nn.Module:
    config = transformers.GPT2Config(
        vocab_size=23, n_positions=20, n_embd=12, n_layer=2, n_head=3, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0
    )
    config.eos_token_id = None
    torch.manual_seed(0)
    return stirred(transformers.GPT2LMHeadModel(config), spread)


def stirred(model: nn.Module, spread: float = 0.3) -> nn.Module:
    """With numbers everywhere, so that a bias or a scale that went astray is seen."""
    generator = torch.Generator().manual_seed(2)
    for parameter in model.parameters():
        with torch.no_grad():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * spread)
    return model.eval()


def gelu_tanh() -> nn.Module:
    return nn.GELU(approximate="tanh")


def loaded(path: Path, kind: type, arguments: dict[str, Any]) -> nn.Module:
    """Our model with the checkpoint's weights, every one of which has to be there."""
    checkpoint = folder.read(path)
    target = f"{kind.__module__}.{kind.__qualname__}"
    activation = nn.GELU if kind is Bert else gelu_tanh
    made = arguments | {"activation": exchange.activation_name(activation())}
    assert exchange.differences(checkpoint, target, made) == {}
    model = kind(**arguments, activation=activation)
    model.load_state_dict(exchange.weights(checkpoint, made))
    return model.eval()


def saved(path: Path, model: nn.Module, arguments: dict[str, Any], **how: Any) -> Path:
    kind = type(model)
    activation = "gelu" if kind is Bert else "gelu_tanh"
    made = exchange.checkpoint(f"{kind.__module__}.{kind.__qualname__}", model.state_dict(), arguments | {"activation": activation})
    folder.write(path, made, **how)
    return path


def same(one: Tensor, other: Tensor) -> bool:
    return bool(other.abs().max() > 1e-3) and torch.allclose(one, other, rtol=0, atol=1e-5)


def gradients_agree(model: nn.Module, theirs: nn.Module, arguments: dict[str, Any]) -> None:
    """Each gradient under its name on the other side: translated as weights are."""
    target = f"{type(model).__module__}.{type(model).__qualname__}"
    activation = "gelu" if isinstance(model, Bert) else "gelu_tanh"
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    translated = exchange.checkpoint(target, found, arguments | {"activation": activation}).tensors
    expected = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    assert set(translated) == set(expected)
    for name, gradient in expected.items():
        assert torch.allclose(translated[name], gradient, rtol=0, atol=1e-5), name
    assert sum(float(gradient.abs().max()) > 1e-3 for gradient in expected.values()) > len(expected) / 2


def bert_losses(predicts: str, model: nn.Module) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    """Our logits, what `transformers` is to be given as labels, and our loss of it."""
    match predicts:
        case "pretraining":
            places = torch.zeros(3, 9, dtype=torch.bool)
            places[0, 3] = places[1, 1] = places[1, 4] = True
            words, follows = model(TOKENS, LENGTHS, SEGMENTS, places)
            pair = torch.tensor([0, 1, 1])
            loss = F.cross_entropy(words, TOKENS[places]) + F.cross_entropy(follows, pair)
            labels = {"labels": torch.where(places, TOKENS, -100), "next_sentence_label": pair}
            return model(TOKENS, LENGTHS, SEGMENTS)[0], labels, loss
        case "sequence":
            classes = torch.tensor([3, 0, 2])
            logits = model(TOKENS, LENGTHS, SEGMENTS)
            return logits, {"labels": classes}, F.cross_entropy(logits, classes)
        case "each":
            classes = torch.where(WORDS, TOKENS % 4, -100)
            logits = model(TOKENS, LENGTHS, SEGMENTS)
            return logits, {"labels": classes}, F.cross_entropy(logits.flatten(0, 1), classes.flatten())
        case _:
            begins, ends = torch.tensor([4, 2, 0]), torch.tensor([6, 2, 3])
            logits = model(TOKENS, LENGTHS, SEGMENTS)
            loss = (F.cross_entropy(logits[..., 0], begins) + F.cross_entropy(logits[..., 1], ends)) / 2
            return logits, {"start_positions": begins, "end_positions": ends}, loss


@pytest.mark.parametrize("predicts", list(HEADS))
def test_bert_agrees_in_outputs_states_loss_and_gradients(transformers: ModuleType, tmp_path: Path, predicts: str):
    theirs = their_bert(transformers, predicts)
    theirs.save_pretrained(tmp_path / "theirs")
    arguments = BERT_SIZES | {"predicts": predicts, "classes": 4}
    model = loaded(tmp_path / "theirs", Bert, arguments)

    logits, labels, loss = bert_losses(predicts, model)
    expected = theirs(**GIVEN, **labels, output_hidden_states=True)
    states = model.states(TOKENS, LENGTHS, SEGMENTS)
    assert len(states) == len(expected.hidden_states) == 3
    for ours, reference in zip(states, expected.hidden_states, strict=True):
        assert same(ours, reference)
    match predicts:
        case "pretraining":
            assert same(logits, expected.prediction_logits)
            assert same(model(TOKENS, LENGTHS, SEGMENTS)[1], expected.seq_relationship_logits)
        case "span":
            assert same(logits[..., 0], expected.start_logits)
            assert same(logits[..., 1], expected.end_logits)
        case _:
            assert same(logits, expected.logits)
    assert abs(loss.item() - expected.loss.item()) < 1e-5
    loss.backward()
    expected.loss.backward()
    gradients_agree(model, theirs, arguments)


def test_bert_attends_as_the_reference_says(transformers: ModuleType, tmp_path: Path):
    theirs = their_bert(transformers, "span")
    theirs.set_attn_implementation("eager")
    theirs.save_pretrained(tmp_path / "theirs")
    model = loaded(tmp_path / "theirs", Bert, BERT_SIZES | {"predicts": "span"})
    for ours, reference in zip(
        model.attentions(TOKENS, LENGTHS, SEGMENTS), theirs(**GIVEN, output_attentions=True).attentions, strict=True
    ):
        assert same(ours, reference)


@pytest.mark.parametrize("predicts", list(HEADS))
@pytest.mark.parametrize("shard_bytes", [10**9, 2000], ids=["whole", "sharded"])
def test_bert_saved_here_is_the_same_there(transformers: ModuleType, tmp_path: Path, predicts: str, shard_bytes: int):
    arguments = BERT_SIZES | {"predicts": predicts, "classes": 4}
    torch.manual_seed(0)
    model = stirred(Bert(**arguments, activation=nn.GELU))
    path = saved(tmp_path / "ours", model, arguments, shard_bytes=shard_bytes)
    assert (path / folder.INDEX).is_file() is (shard_bytes == 2000)
    theirs, told = getattr(transformers, HEADS[predicts]).from_pretrained(path, output_loading_info=True)
    assert not any(told.values())
    with torch.no_grad():
        expected = theirs(**GIVEN)
        logits = bert_losses(predicts, model)[0]
    first = {"pretraining": "prediction_logits", "span": "start_logits"}.get(predicts, "logits")
    assert same(logits[..., 0] if predicts == "span" else logits, expected[first])
    theirs.save_pretrained(tmp_path / "back", max_shard_size=shard_bytes)
    assert (tmp_path / "back" / folder.INDEX).is_file() is (shard_bytes == 2000)
    back = loaded(tmp_path / "back", Bert, arguments)
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in back.state_dict().items())


def test_gpt_2_agrees_in_outputs_states_loss_and_gradients(transformers: ModuleType, tmp_path: Path):
    theirs = their_gpt(transformers)
    theirs.save_pretrained(tmp_path / "theirs")
    model = loaded(tmp_path / "theirs", GPT, GPT_SIZES)
    targets = torch.where(WORDS, TOKENS, -100)
    expected = theirs(input_ids=TOKENS, attention_mask=WORDS.long(), labels=targets, output_hidden_states=True)
    logits = model(TOKENS)
    assert same(logits[WORDS], expected.logits[WORDS])
    vectors = model.positions(model.embed(TOKENS))
    for block, reference in zip(model.blocks, expected.hidden_states, strict=False):
        assert same(vectors[WORDS], reference[WORDS])
        vectors = block(vectors)
    assert same(model.norm(vectors)[WORDS], expected.hidden_states[-1][WORDS])
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), targets[:, 1:].flatten())
    assert abs(loss.item() - expected.loss.item()) < 1e-5
    loss.backward()
    expected.loss.backward()
    gradients_agree(model, theirs, GPT_SIZES)


@pytest.mark.parametrize("shard_bytes", [10**9, 2000], ids=["whole", "sharded"])
def test_gpt_2_saved_here_is_the_same_there(transformers: ModuleType, tmp_path: Path, shard_bytes: int):
    torch.manual_seed(0)
    model = stirred(GPT(**GPT_SIZES, activation=gelu_tanh))
    path = saved(tmp_path / "ours", model, GPT_SIZES, shard_bytes=shard_bytes)
    theirs, told = transformers.GPT2LMHeadModel.from_pretrained(path, output_loading_info=True)
    assert not any(told.values())
    with torch.no_grad():
        assert same(model(TOKENS), theirs(input_ids=TOKENS).logits)
    theirs.save_pretrained(tmp_path / "back")
    back = loaded(tmp_path / "back", GPT, GPT_SIZES)
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in back.state_dict().items())


def test_gpt_2_saved_without_biases_has_zeros_there(transformers: ModuleType, tmp_path: Path):
    sizes = GPT_SIZES | {"biases": False}
    torch.manual_seed(0)
    model = stirred(GPT(**sizes, activation=gelu_tanh))
    theirs, told = transformers.GPT2LMHeadModel.from_pretrained(saved(tmp_path / "ours", model, sizes), output_loading_info=True)
    assert not any(told.values())
    with torch.no_grad():
        assert same(model(TOKENS), theirs(input_ids=TOKENS).logits)
    assert not any(parameter.any() for name, parameter in theirs.named_parameters() if name.endswith("bias"))


def test_gpt_2_generates_the_same_tokens(transformers: ModuleType, tmp_path: Path):
    """Greedy, and with four beams without an end, so that all texts are equally long."""
    theirs = their_gpt(transformers, spread=1.0)
    with torch.no_grad():
        theirs.transformer.ln_f.bias.zero_()  # else it alone decides
    theirs.save_pretrained(tmp_path / "theirs")
    model, prompt = loaded(tmp_path / "theirs", GPT, GPT_SIZES), TOKENS[:, :5]
    how = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0, "attention_mask": torch.ones_like(prompt)}
    expected = theirs.generate(prompt, **how)[:, 5:]
    with torch.no_grad():
        logits, state = model.begin(prompt)
        found = []
        for _ in range(12):
            found.append(logits.argmax(-1))
            logits, state = model.step(found[-1], state)
    assert torch.stack(found, dim=1).tolist() == expected.tolist()
    assert len(set(expected.flatten().tolist())) > 3
    for row in range(3):
        searched = theirs.generate(prompt[row : row + 1], num_beams=4, **how | {"attention_mask": None})[0, 5:]
        with torch.no_grad():
            _, state = model.begin(prompt[row : row + 1, :-1])
            state = tuple(part.repeat_interleave(4, dim=0) for part in state)
            beams, _ = beam_search(model.step, state, batch=1, beams=4, start=int(prompt[row, -1]), end=-1, limit=12)
        assert beams[0].tolist() == searched.tolist()
