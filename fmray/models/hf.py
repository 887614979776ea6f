"""Predict rows of tokens, or each of their tokens, by a pretrained encoder of transformers.

A module is built from the description of its architecture alone; its tensors come afterwards, from a folder before it
trains and from a member's own file later. So a trained model needs neither the folder nor a line of code from it.
Where words were cut into pieces, a word is told by its first one, and a long row is read window by window.
Shape legend: B rows, L tokens, or words, of the longest row, P pieces of it, M pieces of the longest window, H numbers
per token, O outputs.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fmray import pieces
from fmray.errors import DataError, SpecError, TrainError
from fmray.models import layers
from fmray.models.encoder import chosen_block, mean_of_tokens, seen
from fmray.models.lora import QUERY_VALUE, LoraLinear, add_lora
from fmray.models.tagger import token_blocks
from fmray.schema import Schema
from fmray.spec.components import models as declared

WHERE = "model.hf"
NOT_READ = (
    "architectures", "attn_implementation", "auto_map", "dtype", "output_attentions", "output_hidden_states",
    "quantization_config", "return_dict", "torch_dtype", "transformers_version", "use_cache",
)  # fmt: skip
"""Keys of a description that say how a model was stored or run, or which code it wants, not what it is."""
MOST_SHOWN = 5
MULTIPLE = 8
"""Lengths of padded windows are multiples of it, so that few shapes occur."""
OFFSET_PLACES = (
    "camembert", "data2vec-text", "longformer", "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl",
    "xmod",
)  # fmt: skip
"""Kinds of models whose places are counted from behind the id of padding."""


class Hf(nn.Module):
    """Map tokens by a pretrained encoder, and their mean, or each of them, or each word, by one affine map.

    What the encoder itself would drop at random is left to `dropout`, whose masks do not depend on the process; the
    weights of attention are not dropped.

    Args:
        schema, num_outputs: Fix the number of ids and O.
        params: As `fmray.spec.components.models.Hf` declares them; `config` is filled in.

    Raises:
        SpecError: If transformers is missing, the description is of no encoder of text, or does not fit the ids.

    Shapes:
        inputs: ids (B, L) of the block and `<block>_lengths` (B,); of a block of pieces entries (B, P), `<block>_first`
            (B, L) and `<block>_lengths` (B,); of each block beside ids (B, L).
        returns: (B, O), or (B, L, O) per token or word.

    Source: Devlin et al., "BERT", NAACL 2019; Reimers & Gurevych, "Sentence-BERT", EMNLP 2019 (mean pooling).
    """

    reads: ClassVar[tuple[str, ...]] = declared.Hf.reads
    needs: ClassVar[tuple[str, ...]] = declared.Hf.needs

    def __init__(self, schema: Schema, num_outputs: int, params: declared.Hf) -> None:
        super().__init__()
        self.block = _read_block(schema, params.block)
        self.per_token = params.per == "token"
        self.of_words = schema.blocks[self.block].kind == "pieces"
        if params.config is None:
            raise SpecError(f"{params.folder} was not read. Build the job by with_pretrained.", f"{WHERE}.folder")
        self.backbone = _backbone(params.config)
        config = self.backbone.config
        num_ids = schema.blocks[self.block].width
        if num_ids > config.vocab_size:
            text = f"block '{self.block}' has {num_ids:,} ids, and the model knows {config.vocab_size:,}. Give tokenize"
            raise SpecError(f"{text} pretrained: FOLDER, so that ids are the model's own.", WHERE)
        self.beside = self._beside_words(schema, params.beside)
        self.pad_id = config.pad_token_id or 0
        self.most_tokens = _most_tokens(config)
        self._choose_trained(params)
        self.dropout = layers.Dropout(params.dropout)
        self.head = nn.Linear(config.hidden_size, num_outputs)

    def forward(self, **inputs: Tensor) -> Tensor:
        """Give the outputs.

        Raises:
            TrainError: If a row has more tokens than the encoder has places for.
        """
        if self.of_words:
            return self._of_words(inputs)
        ids = inputs[self.block]
        lengths = inputs[f"{self.block}_lengths"]
        h = self.dropout(self.hidden(ids, lengths))
        if not self.per_token:
            h = mean_of_tokens(h, lengths)
        outputs: Tensor = self.head(h)
        return _widened(outputs, ids.shape[1]) if self.per_token else outputs

    def _of_words(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Give the outputs of rows of pieces, or of their words."""
        codes_BP = inputs[self.block]
        h_BPH = self.dropout(self._windows(codes_BP, self._added(inputs)))
        if not self.per_token:
            h_BPH = mean_of_tokens(h_BPH, (codes_BP > 0).sum(1))
            outputs: Tensor = self.head(h_BPH)
            return outputs
        of_words: Tensor = self.head(_taken(h_BPH, inputs[f"{self.block}_first"]))
        return of_words

    def _added(self, inputs: Mapping[str, Tensor]) -> Tensor | None:
        """Give what is added to embeddings of pieces (B, P, H): at the first of a word, what stands beside that."""
        if not self.beside:
            return None
        begins_BP = pieces.begins_word(inputs[self.block])
        word_BP = (begins_BP.cumsum(1) - 1).clamp_min(0)
        each = [embed(inputs[name].gather(1, word_BP)) for name, embed in self.beside.items()]
        added: Tensor = torch.stack(each).sum(0) * begins_BP[..., None]
        return added

    def _windows(self, codes_BP: Tensor, added_BPH: Tensor | None) -> Tensor:
        """Give what the encoder says of each piece (B, P, H), of which it sees those of its window.

        Windows of a row are read one after the other, so that masks of dropout stay those of the row.
        """
        ids_BP = pieces.ids_of(codes_BP)
        there_BP = codes_BP > 0
        number_BP = pieces.begins_window(codes_BP).cumsum(1)
        most = int(number_BP.max()) if len(codes_BP) else 1
        if most <= 1:
            return _widened(self.hidden(ids_BP, there_BP.sum(1), added_BPH), codes_BP.shape[1])
        place_P = torch.arange(codes_BP.shape[1], device=codes_BP.device)
        parts: list[Tensor] = []
        for number in range(1, most + 1):
            own_BP = there_BP & (number_BP == number)
            lengths_B = own_BP.sum(1)
            starts_B1 = (there_BP & (number_BP < number)).sum(1, keepdim=True)
            width = -(-int(lengths_B.max()) // MULTIPLE) * MULTIPLE
            at_BM = (starts_B1 + place_P[:width]).clamp_max(codes_BP.shape[1] - 1)
            added = None if added_BPH is None else _taken(added_BPH, at_BM)
            h_BMH = self.hidden(ids_BP.gather(1, at_BM), lengths_B, added)
            parts.append(_taken(h_BMH, (place_P - starts_B1).clamp(0, h_BMH.shape[-2] - 1)) * own_BP[..., None])
        return torch.stack(parts).sum(0)

    def hidden(self, ids: Tensor, lengths: Tensor, added: Tensor | None = None) -> Tensor:
        """Give what the encoder says of each token (B, L, H); L is cut to the places there are.

        Args:
            added: To the embeddings of tokens (B, L, H).
        """
        if ids.shape[1] > self.most_tokens:
            if int(lengths.max()) > self.most_tokens:
                text = f"a row has {int(lengths.max())} tokens, and the encoder places for {self.most_tokens}"
                step = "tokenize_words" if self.of_words else "tokenize"
                raise TrainError(f"{text}. Give {step} max_tokens: {self.most_tokens}.", WHERE)
            ids = ids[:, : self.most_tokens]
        there = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
        ids = ids.masked_fill(~there, self.pad_id).long()
        given = {"input_ids": ids}
        if added is not None:
            given = {"inputs_embeds": self.backbone.get_input_embeddings()(ids) + added[:, : ids.shape[1]]}
        found: Tensor = self.backbone(**given, attention_mask=seen(ids, lengths).long()).last_hidden_state
        return found

    def load_pretrained(self, tensors: Mapping[str, Tensor]) -> list[str]:
        """Take over the encoder's tensors as a pretrained model names them, and name those that it has no use for.

        Raises:
            DataError: If one is missing or of another shape.
        """
        beside = {name for name, layer in self.backbone.named_modules() if isinstance(layer, LoraLinear)}
        own = {
            _name_before(name, beside): parameter
            for name, parameter in self.backbone.named_parameters()
            if not name.endswith(("down_RD", "up_HR"))
        }
        prefix = f"{self.backbone.base_model_prefix}."
        given = {_modern(name.removeprefix(prefix)): tensor for name, tensor in tensors.items()}
        wrong = [name for name, parameter in own.items() if name not in given or given[name].shape != parameter.shape]
        if wrong:
            shown = ", ".join(wrong[:MOST_SHOWN]) + (f" and {len(wrong) - MOST_SHOWN} more" * (len(wrong) > MOST_SHOWN))
            text = (
                f"the pretrained tensors do not fit {type(self.backbone).__name__}: {shown} missing or of other shape"
            )
            raise DataError(f"{text}. Save the model anew with save_pretrained.", f"{WHERE}.folder")
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(given[name])
        return sorted(given.keys() - own.keys())

    def _beside_words(self, schema: Schema, asked: Sequence[str] | str) -> nn.ModuleDict:
        """Make an embedding of each block that stands beside words, which at first adds nothing.

        Raises:
            SpecError: If a block is not there, holds no tokens, or would stand beside tokens that are no words.
        """
        names = [asked] if isinstance(asked, str) else list(asked)
        if names and not self.of_words:
            text = f"{names} stands beside words, and '{self.block}' holds tokens. Give tokenize_words parts: [pieces]."
            raise SpecError(text, f"{WHERE}.beside")
        width = self.backbone.get_input_embeddings().weight.shape[1]
        made = nn.ModuleDict()
        for name in names:
            if name not in token_blocks(schema):
                text = f"'{name}' is no block of an id per word. There is: {', '.join(token_blocks(schema)) or 'none'}."
                raise SpecError(text, f"{WHERE}.beside")
            layer = nn.Embedding(schema.blocks[name].width, width)
            nn.init.zeros_(layer.weight)
            made[name] = layer
        return made

    def _choose_trained(self, params: declared.Hf) -> None:
        """Freeze what does not train, and let the encoder drop numbers where it trains."""
        if params.tune == "all":
            if params.freeze_embeddings:
                self.backbone.get_input_embeddings().requires_grad_(False)
        else:
            self.backbone.requires_grad_(False)
        if params.tune == "lora":
            names = QUERY_VALUE if params.lora_layers == "query_value" else ()
            if not add_lora(self.backbone, params.lora_rank, params.lora_alpha, names):
                known = sorted(
                    {n.rpartition(".")[2] for n, m in self.backbone.named_modules() if isinstance(m, nn.Linear)}
                )
                text = (
                    f"no layer of {type(self.backbone).__name__} is called as query and value are: {', '.join(known)}"
                )
                raise SpecError(f"{text}. Give lora_layers: all.", f"{WHERE}.lora_layers")
        if params.tune != "head":
            _replace_dropouts(self.backbone, params.dropout)


def _read_block(schema: Schema, named: str | None) -> str:
    """Give the block that is read: one of pieces where there are some, else of tokens.

    Raises:
        SpecError: If it is not there, or if there are several and none is named.
    """
    known = [block.name for block in schema.blocks.values() if block.kind == "pieces"]
    if named in known or (named is None and len(known) == 1):
        return named or known[0]
    if named is None and known:
        raise SpecError(f"hf reads one block of pieces, and there are {', '.join(known)}. Name one.", f"{WHERE}.block")
    return chosen_block(schema, named, "hf")


def _widened(h: Tensor, width: int) -> Tensor:
    """Fill tokens (..., L, H) up with zeros to another length."""
    return F.pad(h, (0, 0, 0, width - h.shape[-2]))


def _taken(h: Tensor, places: Tensor) -> Tensor:
    """Give the tokens of each row at these places (B, M, H)."""
    return h[torch.arange(len(places), device=places.device)[:, None], places]


def _backbone(description: Mapping[str, Any]) -> Any:
    """Build an encoder from its description, with random weights and no dropout of its own."""
    try:
        from transformers import AutoConfig, AutoModel
    except ImportError as error:
        raise SpecError("hf needs the package transformers. Install fmray[hf].", "model") from error
    kind = description["model_type"]
    own = {name: given for name, given in description.items() if name not in NOT_READ and not name.startswith("_")}
    nested = [n for n, v in own.items() if "backbone" in n or (isinstance(v, Mapping) and "model_type" in v)]
    if nested or own.get("is_encoder_decoder"):
        text = f"'{kind}' consists of several models ({', '.join(nested) or 'encoder and decoder'})"
        raise SpecError(f"{text}. Take an encoder of text, such as bert.", WHERE)
    del own["model_type"]
    try:
        config = AutoConfig.for_model(kind, **own)
        for name, given in config.to_dict().items():
            if "drop" in name and isinstance(given, int | float) and not isinstance(given, bool):
                setattr(config, name, 0.0)  # torch's own masks would depend on the process and on who trains beside
        build: Any = AutoModel.from_config
        # code of the folder's author is neither looked for nor run
        backbone = build(config, trust_remote_code=False, attn_implementation="sdpa")
    except Exception as error:  # of many kinds, some of them the library's own
        reason = str(error).strip().partition("\n")[0]
        raise SpecError(f"transformers cannot build '{kind}': {reason}", f"{WHERE}.config") from error
    if getattr(backbone, "pooler", None) is not None:
        backbone.pooler = None  # the mean over tokens is taken in its place
    if not all(isinstance(getattr(config, name, None), int) for name in ("vocab_size", "hidden_size")):
        raise SpecError(f"'{kind}' is no encoder of text. Take one, such as bert.", WHERE)
    return backbone


def _most_tokens(config: Any) -> int:
    """Give the tokens that an encoder has places for; those of RoBERTa begin behind the id of padding."""
    most = getattr(config, "max_position_embeddings", None) or 1 << 30
    begins_behind = config.model_type in OFFSET_PLACES
    return int(most) - (config.pad_token_id + 1 if begins_behind else 0)


def _replace_dropouts(backbone: nn.Module, rate: float) -> None:
    """Let an encoder drop numbers by masks that its own seed decides, but none of the weights of attention."""
    for name, module in list(backbone.named_modules()):
        home, _, attribute = name.rpartition(".")
        parent = backbone.get_submodule(home)
        if isinstance(module, nn.Dropout) and "Attention" not in type(parent).__name__:
            setattr(parent, attribute, layers.Dropout(rate))


def _name_before(name: str, beside: set[str]) -> str:
    """Give the name of a parameter as it was before LoRA stood beside its layer."""
    home, _, attribute = name.rpartition(".")
    outer, _, inner = home.rpartition(".")
    return f"{outer}.{attribute}" if inner == "linear" and outer in beside else name


def _modern(name: str) -> str:
    """Give the present name of a parameter that early checkpoints of BERT call otherwise."""
    for old, new in ((".gamma", ".weight"), (".beta", ".bias")):
        if name.endswith(f"LayerNorm{old}"):
            return name.removesuffix(old) + new
    return name
