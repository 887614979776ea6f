"""Declare the parameters of models."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from fmray.spec.components.base import Columns, Flag, Image, Params, Real, Text, Whole, conflict

Units = Annotated[Whole, Field(ge=1)]
Per = Literal["row", "token"]
PER = "What has an output of its own; by default what the task predicts for."
TOKENS = "Block of tokens that is read; needed where there are several."


class BagOfEmbeddings(Params):
    """Predict text by the mean of its tokens' embeddings, and numbers beside it, through one affine map."""

    reads: ClassVar[tuple[str, ...]] = ("tokens", "x")
    needs: ClassVar[tuple[str, ...]] = ("tokens",)
    packable: ClassVar[tuple[str, ...]] = ("dropout",)

    width: Units = Field(32, description="Numbers per embedding.")
    dropout: Annotated[Real, Field(ge=0, lt=1)] = Field(
        0.0, description="Share of the numbers of a mean that are dropped in training."
    )


class Linear(Params):
    """Predict by one affine map: of numbers, of a weighted bag, of the mean over tokens, or of all that are there."""

    reads: ClassVar[tuple[str, ...]] = ("x", "bag", "tokens")


class Logistic(Linear):
    """Predict by one affine map, as logistic regression does."""


class TokenLinear(Params):
    """Predict each token by one affine map of its own ids, whatever stands beside it."""

    reads: ClassVar[tuple[str, ...]] = ("tokens", "decoder_tokens")
    needs: ClassVar[tuple[str, ...]] = ("tokens",)
    by_token: ClassVar[bool] = True


class Tagger(Params):
    """Predict each token by hidden layers, each of which sees the tokens beside it."""

    reads: ClassVar[tuple[str, ...]] = ("tokens",)
    needs: ClassVar[tuple[str, ...]] = ("tokens",)
    by_token: ClassVar[bool] = True
    packable: ClassVar[tuple[str, ...]] = ("dropout",)
    looks_ahead: ClassVar[bool] = True

    embedding: Units = Field(64, description="Numbers per embedding; each block of tokens has embeddings of its own.")
    width: Units = Field(128, description="Units per hidden layer.")
    depth: Units = Field(2, description="Number of hidden layers.")
    reach: Units = Field(1, description="Tokens on either side that a layer sees.")
    dropout: Annotated[Real, Field(ge=0, lt=1)] = Field(0.0, description="Share of units dropped in training.")


class Decoder(Params):
    """Predict each token from itself and those before it, by a causal Transformer."""

    reads: ClassVar[tuple[str, ...]] = ("tokens",)
    needs: ClassVar[tuple[str, ...]] = ("tokens",)
    by_token: ClassVar[bool] = True

    width: Units = Field(128, description="Numbers per token; a multiple of twice the heads.")
    depth: Units = Field(4, description="Number of layers.")
    heads: Units = Field(4, description="Heads of attention per layer.")
    dropout: Annotated[Real, Field(ge=0, lt=1)] = Field(0.0, description="Share of numbers dropped in training.")

    @model_validator(mode="after")
    def _divided(self) -> Self:
        _refuse_odd_heads(self.width, self.heads)
        return self


class EncoderDecoder(Params):
    """Generate a text from another one, by a Transformer that reads the one and a causal one that attends to it."""

    reads: ClassVar[tuple[str, ...]] = ("tokens", "decoder_tokens")
    needs: ClassVar[tuple[str, ...]] = ("tokens", "decoder_tokens")
    by_token: ClassVar[bool] = True
    generates: ClassVar[bool] = True

    width: Units = Field(128, description="Numbers per token; a multiple of twice the heads.")
    depth: Units = Field(3, description="Number of layers of the encoder, and of the decoder.")
    heads: Units = Field(4, description="Heads of attention per layer.")
    dropout: Annotated[Real, Field(ge=0, lt=1)] = Field(0.0, description="Share of numbers dropped in training.")
    shared_embeddings: Flag = Field(
        False, description="Embed source and target by one table; goes with one tokenize step for both columns."
    )
    block: Text | None = Field(None, description=TOKENS)

    @model_validator(mode="after")
    def _divided(self) -> Self:
        _refuse_odd_heads(self.width, self.heads)
        return self


class Encoder(Params):
    """Predict each row from the mean of its tokens, or each token, by a Transformer that sees the whole row."""

    reads: ClassVar[tuple[str, ...]] = ("tokens",)
    needs: ClassVar[tuple[str, ...]] = ("tokens",)
    by_token: ClassVar[bool | None] = None
    looks_ahead: ClassVar[bool] = True
    fills_masks: ClassVar[bool] = True
    trunk: ClassVar[tuple[str, ...]] = ("embedding", "layers", "norm")
    packable: ClassVar[tuple[str, ...]] = ("dropout",)

    width: Units = Field(128, description="Numbers per token; a multiple of twice the heads.")
    depth: Units = Field(2, description="Number of layers.")
    heads: Units = Field(4, description="Heads of attention per layer.")
    dropout: Annotated[Real, Field(ge=0, lt=1)] = Field(0.0, description="Share of numbers dropped in training.")
    block: Text | None = Field(None, description=TOKENS)
    per: Per | Literal["masked"] | None = Field(None, description=PER)

    @model_validator(mode="after")
    def _divided(self) -> Self:
        _refuse_odd_heads(self.width, self.heads)
        return self


class Hf(Params):
    """Predict each row, or each token, by a pretrained encoder of transformers and a head; needs fmray[hf]."""

    reads: ClassVar[tuple[str, ...]] = ("tokens", "pieces")
    by_token: ClassVar[bool | None] = None
    looks_ahead: ClassVar[bool] = True
    packable: ClassVar[tuple[str, ...]] = ("dropout",)

    folder: Text | None = Field(
        None,
        description="Holds config.json and model.safetensors; or package:NAME for the model inside an installed "
        "package; or the name of a model in the local cache of the hub.",
    )
    tune: Literal["all", "head", "lora"] = Field(
        "all", description="What trains: everything; the head; the head and, in LoRA, a small matrix beside a layer's."
    )
    lora_rank: Units = Field(8, description="Rank of the matrices that LoRA adds.")
    lora_alpha: Annotated[Real, Field(gt=0)] = Field(16.0, description="What LoRA adds counts alpha / rank times.")
    lora_layers: Literal["query_value", "all"] = Field(
        "query_value", description="Linear layers that LoRA adds to: query and value of attention, or all."
    )
    freeze_embeddings: Flag = Field(False, description="Leave the table of tokens as it is; goes with tune: all.")
    dropout: Annotated[Real, Field(ge=0, lt=1)] = Field(0.1, description="Share of numbers dropped in training.")
    block: Text | None = Field(
        None, description="Block that is read, of pieces or else of tokens; needed where there are several."
    )
    beside: Columns = Field(
        (),
        description="Blocks of an id per word, as shape: embeddings of them, at first zero, are added to those of the "
        "words' first pieces. For what the tokenizer does not tell, such as capitals.",
    )
    per: Per | None = Field(None, description=PER)
    config: Mapping[str, Any] | None = Field(
        None, description="Of the encoder; read from the folder when a run begins. Without a folder, weights are drawn."
    )
    content: Text | None = Field(None, description="SHA-256 of config and weights; fmray says it when a run begins.")

    @model_validator(mode="after")
    def _together(self) -> Self:
        if self.folder is None and self.config is None:
            raise conflict("folder", "is missing. Name a folder with config.json and model.safetensors.")
        if self.config is not None and not isinstance(self.config.get("model_type"), str):
            raise conflict("config", "has no model_type. Give what a config.json of transformers holds.")
        for name in sorted(self.model_fields_set & {"lora_rank", "lora_alpha", "lora_layers"}):
            if self.tune != "lora":
                raise conflict(name, f"has no effect with tune: {self.tune}. It goes with lora.")
        if self.freeze_embeddings and self.tune != "all":
            raise conflict("freeze_embeddings", f"has no effect with tune: {self.tune}. It goes with all.")
        return self


def _refuse_odd_heads(width: int, heads: int) -> None:
    """Refuse numbers that heads cannot share in pairs."""
    if width % (2 * heads):
        raise conflict("width", f"{width} with {heads} heads. Give a multiple of {2 * heads}.")


class Perceptron(Linear):
    """Predict by one affine map of all inputs that starts at zero, trained by the perceptron's own loss."""


class Mlp(Params):
    """Predict by hidden layers of affine maps, activations and dropout."""

    packable: ClassVar[tuple[str, ...]] = ("dropout",)

    width: Units | Annotated[Sequence[Units], Field(min_length=1)] = Field(
        128, description="Units per hidden layer, or a list with one number per layer."
    )
    depth: Units = Field(2, description="Number of hidden layers; not used where width is a list.")
    dropout: Annotated[Real, Field(ge=0, lt=1)] = Field(0.0, description="Share of hidden units dropped in training.")
    activation: Literal["relu", "gelu", "silu", "tanh"] = Field("relu", description="Between layers.")
    norm: Literal["layer"] | None = Field(None, description="layer normalises each hidden layer before activation.")


class GanPoints(Params):
    """Generate points from noise and inputs, and tell them from real ones: two networks of hidden layers."""

    width: Units = Field(64, description="Units per hidden layer of both.")
    depth: Units = Field(2, description="Number of hidden layers of both.")
    noise: Units = Field(4, description="Random numbers behind each point.")


class Lightgbm(Params):
    """Predict by gradient-boosted trees of LightGBM, which learn from all rows at once; needs fmray[trees].

    An epoch of `train.epochs` is a block of boosting rounds: at its end validation is scored, and all that counts in
    epochs elsewhere counts here too, such as early stopping and the rungs of a search.
    """

    rounds_per_epoch: Units = Field(
        20, description="Boosting rounds that make an epoch; train.epochs times as many in all."
    )
    num_leaves: Annotated[Whole, Field(ge=2, le=131072)] = Field(31, description="Most leaves of a tree.")
    max_depth: Annotated[Whole, Field(ge=1)] | Literal[-1] = Field(-1, description="Most levels of a tree; -1 for any.")
    learning_rate: Annotated[Real, Field(gt=0, le=1)] = Field(0.05, description="Share of each tree that is added.")
    min_child_samples: Annotated[Whole, Field(ge=0)] = Field(20, description="Fewest rows of a leaf.")
    min_child_weight: Annotated[Real, Field(ge=0)] = Field(0.001, description="Least sum of second derivatives a leaf.")
    min_split_gain: Annotated[Real, Field(ge=0)] = Field(0.0, description="Least gain of a split.")
    lambda_l1: Annotated[Real, Field(ge=0)] = Field(0.0, description="Penalty on the size of leaf values.")
    lambda_l2: Annotated[Real, Field(ge=0)] = Field(0.0, description="Penalty on the squares of leaf values.")
    feature_fraction: Annotated[Real, Field(gt=0, le=1)] = Field(0.8, description="Share of inputs drawn for a tree.")
    bagging_fraction: Annotated[Real, Field(gt=0, le=1)] = Field(0.8, description="Share of rows drawn for a tree.")
    max_bin: Annotated[Whole, Field(ge=2, le=65535)] = Field(255, description="Most bins of an input.")
    path_smooth: Annotated[Real, Field(ge=0)] = Field(0.0, description="Pull of leaves towards their parents.")
    extra_trees: Flag = Field(False, description="Draw one threshold per input rather than search the best.")


class Resnet(Params):
    """Predict images by a small residual network with group normalisation."""

    width: Annotated[Whole, Field(ge=4, multiple_of=4)] = Field(
        16, description="Channels after the stem, a multiple of 4; every stage after the first doubles them."
    )
    depth: Units = Field(1, description="Residual blocks per stage.")
    stages: Units = Field(3, description="Number of stages, each at half the resolution.")
    image: Image | None = Field(
        None, description="Channels, height and width of a row; by default a square of 1 or 3 channels."
    )
