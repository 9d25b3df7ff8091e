"""Which architectures can be exchanged, and how each one's sizes and tensors are called on both sides.

`ARCHITECTURES` is the one place to add another: what its `config.json` means for our constructor and back, and the rules for its tensors.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from components.data.tokens import END, PAD, START
from components.errors import CheckpointError
from components.hugging_face.names import Rule, same, to_ours, to_theirs

ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu_fast": "gelu_tanh", "relu": "relu"}
"""What they call an activation → what we do; `gelu_tanh` is activation=gelu activation.approximate=tanh."""


@dataclass(frozen=True)
class Architecture:
    """One architecture in Hugging Face's layout.

    Attributes:
        model_type: its name in `config.json`.
        target: dotted path of our model.
        prefix: what stands before the names of all but the heads, unless the checkpoint is of the bare model.
        rules: correspondences of the names, without prefix.
        arguments: `config.json` → our constructor's arguments, `activation` among them by its name in ACTIVATIONS.
        configuration: our constructor's arguments, `activation` among them → `config.json`, `architectures` among its keys.
        passed_over: names in their checkpoints that hold nothing learned.
    """

    model_type: str
    target: str
    prefix: str
    rules: Sequence[Rule]
    arguments: Callable[[Mapping[str, Any]], dict[str, Any]]
    configuration: Callable[[Mapping[str, Any]], dict[str, Any]]
    passed_over: Sequence[str] = ()

    def ours(self, tensors: Mapping[str, Tensor], arguments: Mapping[str, Any]) -> dict[str, Tensor]:
        """A checkpoint's tensors under our names, for a model that is made with `arguments`."""
        bare = {_modern(name.removeprefix(self.prefix)): tensor for name, tensor in tensors.items()}
        kept = {name: tensor for name, tensor in bare.items() if not name.endswith(tuple(self.passed_over))}
        return to_ours(kept, [*self.rules, *head_rules(self.model_type, arguments)])

    def theirs(self, tensors: Mapping[str, Tensor], arguments: Mapping[str, Any]) -> dict[str, Tensor]:
        """Our model's tensors under their names."""
        heads = head_rules(self.model_type, arguments)
        told = to_theirs(tensors, [*self.rules, *heads])
        own = {rule.theirs for rule in heads if not rule.theirs.startswith("pooler.")}
        return {name if name in own or name in tensors else f"{self.prefix}{name}": tensor for name, tensor in told.items()}


def architecture(config: Mapping[str, Any]) -> Architecture:
    """The architecture that a `config.json` speaks of; CheckpointError when it is none of ours."""
    kind = config.get("model_type")
    if kind not in ARCHITECTURES:
        raise CheckpointError(f"the checkpoint is of the architecture {kind!r}; {', '.join(ARCHITECTURES)} can be read")
    return ARCHITECTURES[kind]


def architecture_of(target: str) -> Architecture:
    """The architecture of our model with this dotted path; CheckpointError when it has no counterpart."""
    found = next((one for one in ARCHITECTURES.values() if one.target == target), None)
    if found is None:
        known = ", ".join(one.target.rpartition(".")[0].rpartition(".")[2] for one in ARCHITECTURES.values())
        raise CheckpointError(f"{target} has no counterpart in Hugging Face's layout ({known} have)")
    return found


def head_rules(model_type: str, arguments: Mapping[str, Any]) -> tuple[Rule, ...]:
    """The rules of the head that a model made with `arguments` has."""
    if model_type == "bart":
        return _BART_HEAD
    return _BERT_HEADS.get(arguments.get("predicts", "sequence"), ()) if model_type == "bert" else ()


def _modern(name: str) -> str:
    """Norms' parameters as they have been called since 2019."""
    for old, new in (("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias")):
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name


def _activation(config: Mapping[str, Any], key: str) -> str:
    called = config.get(key)
    if called not in ACTIVATIONS:
        raise CheckpointError(f"the checkpoint's {key} is {called!r}; {', '.join(ACTIVATIONS)} can be used")
    return ACTIVATIONS[called]


def _expansion(hidden: int, channels: int) -> int:
    if hidden % channels:
        raise CheckpointError(f"the checkpoint has {hidden} units for {channels} channels, which is no whole number for each")
    return hidden // channels


def _size(config: Mapping[str, Any], key: str) -> int:
    value = config.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise CheckpointError(f"the checkpoint's config.json has no {key}")
    return value


# ---------------------------------------------------------------------- BERT

_BLOCK = (
    ("attention.self.query", "attention.query"),
    ("attention.self.key", "attention.key"),
    ("attention.self.value", "attention.value"),
    ("attention.output.dense", "attention.output"),
    ("attention.output.LayerNorm", "attention_norm"),
    ("intermediate.dense", "feed_forward.widen"),
    ("output.dense", "feed_forward.narrow"),
    ("output.LayerNorm", "feed_forward_norm"),
)

_BERT_RULES = (
    *same("embeddings.word_embeddings", "embeddings.words", parts=["weight"]),
    *same("embeddings.position_embeddings", "embeddings.positions.table", parts=["weight"]),
    *same("embeddings.token_type_embeddings", "embeddings.segments", parts=["weight"]),
    *same("embeddings.LayerNorm", "embeddings.norm"),
    *(rule for theirs, ours in _BLOCK for rule in same(f"encoder.layer.{{n}}.{theirs}", f"blocks.{{n}}.{ours}")),
)

_BERT_HEADS: dict[str, tuple[Rule, ...]] = {
    "sequence": (*same("pooler.dense", "head.pooler"), *same("classifier", "head.classes")),
    "each": same("classifier", "head.classes"),
    "span": same("qa_outputs", "head.classes"),
    "relation": same("relation", "head.classes"),  # theirs has no such head: a name of our own
    "pretraining": (
        *same("pooler.dense", "head.pooler"),
        *same("cls.seq_relationship", "head.follows"),
        *same("cls.predictions.transform.dense", "head.transform"),
        *same("cls.predictions.transform.LayerNorm", "head.norm"),
        Rule("cls.predictions.bias", ("head.bias",)),
    ),
}

_BERT_PASSED_OVER = (".position_ids", "cls.predictions.decoder.weight", "cls.predictions.decoder.bias")  # the last two are tied

_BERT_CLASSES = {
    "sequence": "BertForSequenceClassification",
    "each": "BertForTokenClassification",
    "span": "BertForQuestionAnswering",
    "pretraining": "BertForPreTraining",
    "relation": "BertModel",
}


def _bert_arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    if config.get("position_embedding_type", "absolute") != "absolute":
        raise CheckpointError(f"the checkpoint's positions are {config['position_embedding_type']!r}; only absolute ones can be used")
    channels = _size(config, "hidden_size")
    return {
        "vocabulary_size": _size(config, "vocab_size"),
        "context": _size(config, "max_position_embeddings"),
        "segments": _size(config, "type_vocab_size"),
        "channels": channels,
        "heads": _size(config, "num_attention_heads"),
        "layers": _size(config, "num_hidden_layers"),
        "expansion": _expansion(_size(config, "intermediate_size"), channels),
        "dropout": config.get("hidden_dropout_prob", 0.1),
        "epsilon": config.get("layer_norm_eps", 1e-12),
        "activation": _activation(config, "hidden_act"),
    }


def _bert_configuration(arguments: Mapping[str, Any]) -> dict[str, Any]:
    predicts = arguments.get("predicts", "sequence")
    bare = predicts == "sequence" and arguments.get("pool") == "mean"  # theirs classifies [CLS] alone
    labels: dict[str, Any] = {}
    if predicts in ("sequence", "each") and not bare:
        names = [str(name) for name in arguments.get("class_names") or (f"LABEL_{place}" for place in range(arguments.get("classes", 2)))]
        labels["id2label"] = {str(place): name for place, name in enumerate(names)}
        labels["label2id"] = {name: place for place, name in enumerate(names)}
    return {
        "model_type": "bert",
        "architectures": ["BertModel" if bare else _BERT_CLASSES[predicts]],
        "vocab_size": arguments["vocabulary_size"],
        "max_position_embeddings": arguments["context"],
        "type_vocab_size": arguments["segments"],
        "hidden_size": arguments["channels"],
        "num_attention_heads": arguments["heads"],
        "num_hidden_layers": arguments["layers"],
        "intermediate_size": arguments["expansion"] * arguments["channels"],
        "hidden_dropout_prob": arguments["dropout"],
        "attention_probs_dropout_prob": arguments["dropout"],
        "layer_norm_eps": arguments["epsilon"],
        "hidden_act": _theirs(arguments["activation"]),
        "pad_token_id": 0,
        "position_embedding_type": "absolute",
        "tie_word_embeddings": True,
        **labels,
    }


# ---------------------------------------------------------------------- GPT-2

_GPT2_RULES = (
    *same("wte", "embed", parts=["weight"]),
    *same("wpe", "positions.table", parts=["weight"]),
    *same("h.{n}.ln_1", "blocks.{n}.attention_norm"),
    *same("h.{n}.ln_2", "blocks.{n}.feed_forward_norm"),
    *(
        Rule(f"h.{{n}}.attn.c_attn.{part}", tuple(f"blocks.{{n}}.attention.{name}.{part}" for name in ("query", "key", "value")), True)
        for part in ("weight", "bias")
    ),
    *(
        Rule(f"h.{{n}}.{theirs}.{part}", (f"blocks.{{n}}.{ours}.{part}",), True)
        for theirs, ours in (
            ("attn.c_proj", "attention.output"),
            ("mlp.c_fc", "feed_forward.widen"),
            ("mlp.c_proj", "feed_forward.narrow"),
        )
        for part in ("weight", "bias")
    ),
    *same("ln_f", "norm"),
)


def _gpt2_arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    for key, plain in (("scale_attn_weights", True), ("scale_attn_by_inverse_layer_idx", False), ("tie_word_embeddings", True)):
        if config.get(key, plain) is not plain:
            raise CheckpointError(f"the checkpoint's {key} is {config[key]}, which gpt has not")
    channels = _size(config, "n_embd")
    return {
        "vocabulary_size": _size(config, "vocab_size"),
        "context": _size(config, "n_positions" if "n_positions" in config else "n_ctx"),
        "channels": channels,
        "heads": _size(config, "n_head"),
        "layers": _size(config, "n_layer"),
        "expansion": _expansion(config.get("n_inner") or 4 * channels, channels),
        "dropout": config.get("resid_pdrop", 0.1),
        "activation": _activation(config, "activation_function"),
    }


def _gpt2_configuration(arguments: Mapping[str, Any]) -> dict[str, Any]:
    dropout = arguments["dropout"]
    return {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "vocab_size": arguments["vocabulary_size"],
        "n_positions": arguments["context"],
        "n_embd": arguments["channels"],
        "n_head": arguments["heads"],
        "n_layer": arguments["layers"],
        "n_inner": arguments["expansion"] * arguments["channels"],
        **{f"{place}_pdrop": dropout for place in ("embd", "attn", "resid")},
        "layer_norm_epsilon": 1e-5,
        "activation_function": _theirs(arguments["activation"]),
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": None,
    }


# ---------------------------------------------------------------------- BART


def _bart_stack(side: str) -> tuple[Rule, ...]:
    attentions = [("self_attn", "attention"), *([("encoder_attn", "cross")] if side == "decoder" else [])]
    layer = [("fc1", "feed_forward.widen"), ("fc2", "feed_forward.narrow"), ("final_layer_norm", "feed_forward_norm")]
    for theirs, ours in attentions:
        layer += [
            (f"{theirs}.{name[0] if name != 'output' else 'out'}_proj", f"{ours}.{name}") for name in ("query", "key", "value", "output")
        ]
        layer.append((f"{theirs}_layer_norm", f"{ours}_norm"))
    return (
        *same(f"{side}.embed_positions", f"{side}_positions.table", parts=["weight"]),
        *same(f"{side}.layernorm_embedding", f"{side}_norm"),
        *(rule for theirs, ours in layer for rule in same(f"{side}.layers.{{n}}.{theirs}", f"{side}.blocks.{{n}}.{ours}")),
    )


_BART_RULES = (*same("shared", "embed", parts=["weight"]), *_bart_stack("encoder"), *_bart_stack("decoder"))

_BART_HEAD = (Rule("final_logits_bias", ("output_bias",)),)


def _bart_arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    if config.get("scale_embedding", False):
        raise CheckpointError("the checkpoint's scale_embedding is true, which bart has not")
    for ours, key in (("layers", "layers"), ("attention heads", "attention_heads"), ("feed-forward units", "ffn_dim")):
        sides = [_size(config, f"{side}_{key}") for side in ("encoder", "decoder")]
        if sides[0] != sides[1]:
            raise CheckpointError(f"the checkpoint's encoder has {sides[0]} {ours} and its decoder {sides[1]}; in bart both have as many")
    channels, vocabulary = _size(config, "d_model"), _size(config, "vocab_size")
    return {
        "vocabulary_size": vocabulary,
        "target_vocabulary_size": vocabulary,
        "context": _size(config, "max_position_embeddings"),
        "channels": channels,
        "heads": _size(config, "encoder_attention_heads"),
        "layers": _size(config, "encoder_layers"),
        "expansion": _expansion(_size(config, "encoder_ffn_dim"), channels),
        "dropout": config.get("dropout", 0.1),
        "attention_dropout": config.get("attention_dropout", 0.0),
        "activation": _activation(config, "activation_function"),
    }


def _bart_configuration(arguments: Mapping[str, Any]) -> dict[str, Any]:
    sides = {
        f"{side}_{key}": value
        for side in ("encoder", "decoder")
        for key, value in (
            ("layers", arguments["layers"]),
            ("attention_heads", arguments["heads"]),
            ("ffn_dim", arguments["expansion"] * arguments["channels"]),
        )
    }
    return {
        "model_type": "bart",
        "architectures": ["BartForConditionalGeneration"],
        "is_encoder_decoder": True,
        "vocab_size": arguments["vocabulary_size"],
        "max_position_embeddings": arguments["context"],
        "d_model": arguments["channels"],
        **sides,
        "dropout": arguments["dropout"],
        "attention_dropout": arguments["attention_dropout"],
        "activation_function": _theirs(arguments["activation"]),
        "scale_embedding": False,
        "tie_word_embeddings": True,
        "pad_token_id": PAD,
        "bos_token_id": START,
        "eos_token_id": END,
        "decoder_start_token_id": START,
        "forced_eos_token_id": None,
    }


def _theirs(activation: str) -> str:
    found = next((theirs for theirs, ours in ACTIVATIONS.items() if ours == activation), None)
    if found is None:
        raise CheckpointError(
            f"the activation {activation} has no name in Hugging Face's layout ({', '.join(set(ACTIVATIONS.values()))} have)"
        )
    return found


ARCHITECTURES = {
    one.model_type: one
    for one in (
        Architecture("bert", "components.models.bert.Bert", "bert.", _BERT_RULES, _bert_arguments, _bert_configuration, _BERT_PASSED_OVER),
        Architecture(
            "gpt2",
            "components.models.gpt.GPT",
            "transformer.",
            _GPT2_RULES,
            _gpt2_arguments,
            _gpt2_configuration,
            (".attn.bias", ".attn.masked_bias", "lm_head.weight"),
        ),
        Architecture(
            "bart",
            "components.models.bart.Bart",
            "model.",
            _BART_RULES,
            _bart_arguments,
            _bart_configuration,
            ("embed_tokens.weight", "lm_head.weight", ".version"),
        ),
    )
}
"""By the architecture's name in `config.json`."""
