"""The protocols of all plug-ins on one page. A plug-in is one file in its package and one YAML in its config group.

Shapes: B batch, F frames, C channels, L tokens, T text tokens, P patch features, N images.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from torch import Generator, Tensor, device

from unigen.core.layout import Geometry, Layout, Plan
from unigen.core.masks import Mask
from unigen.core.tokens import Tokens
from unigen.core.types import ImageSlot, Signature

WHOLE_SET, NOTHING = "set", "nothing"  # see Metric.against


class Formatter(Protocol):
    """Places a sample's images in (t, h, w); a pure function that holds no tensors. `name` is for messages."""

    name: str
    roles: tuple[str, ...]
    axes: tuple[str, ...]

    def __call__(self, signature: Signature, geometry: Geometry) -> Plan: ...


class Backbone(Protocol):
    """A diffusers transformer adapted to `Tokens`; itself an `nn.Module` whose `model` is that transformer.

    `pooled_width` is the width of `Tokens.pooled`, None if the family takes none; `context_width` is that of
    `Tokens.context`, 0 if it takes none, and `context_parts` says what stands in it (`unigen.core.infill.PARTS`).
    `predicts` is the `Process.predicts` that the weights were trained with, None for random weights. `text_asks` is
    True if text tokens are queries too. `stock_parameters` counts the parameters of the stock model, before branches
    and adapters are added. `slots` is what `tell_slots_apart` was given, None before.
    A family that cannot follow a table to the letter returns the table that it does follow from `effective_mask` and
    `effective_timing`; everything that is derived from a table starts from those. `placed` gives text its positions in
    a whole layout, if a family has them depend on the images. `pairs` returns the number of (query, key) pairs of
    tokens that a block attends to under a mask, and the number of all pairs.
    """

    axes: tuple[str, ...]
    predicts: str | None
    patch: tuple[int, int, int]
    reach: tuple[int, int, int]
    reach_key: str
    text_width: int
    pooled_width: int | None
    context_width: int
    context_parts: Sequence[str]
    latent_channels: int
    text_asks: bool
    stock_parameters: int
    width: int
    slots: Any

    def __call__(
        self, tokens: Tokens, times: Mapping[str, Tensor], mask: Mask, memory: Any = None
    ) -> dict[str, Tensor]: ...
    def remember(self, tokens: Tokens, times: Mapping[str, Tensor], mask: Mask) -> Any: ...
    def effective_mask(self, mask: Mask) -> Mask: ...
    def effective_timing(self, timing: Mapping[str, str]) -> Mapping[str, str]: ...
    def placed(self, layout: Layout) -> Layout: ...
    def pairs(self, layout: Layout, mask: Mask) -> tuple[int, int]: ...
    def split_modulation(self, branches: Mapping[str, str], tied: bool) -> None: ...
    def lora_targets(self) -> Mapping[str, str]: ...
    def tell_roles_apart(self, table: Mapping[str, str | None]) -> None: ...
    def tell_slots_apart(self, vectors: Any) -> None: ...
    def leave_out_unreached(self, layout: Layout, mask: Mask) -> None: ...
    def flops(self, layout: Layout, mask: Mask) -> dict[str, int]: ...
    def adapter_flops(self, layout: Layout, mask: Mask) -> int: ...
    def quantize_frozen(self) -> int: ...
    def try_kernel(self, device: device) -> None: ...


class Embedding(Protocol):
    """Adds features of the task and the subject to the condition latents (B, F, C, H, W), before fill and patchify.

    `keywords` marks the text tokens of each condition slot's subject, (B, T) booleans. An embedding that uses them has
    `reads_subjects` = True; a run then counts the prompts in which no subject is found.
    """

    def __call__(
        self,
        latents: dict[str, Tensor],
        slots: tuple[ImageSlot, ...],
        text_BTD: Tensor,
        keywords: Mapping[str, Tensor],
        tasks: list[str],
    ) -> dict[str, Tensor]: ...


class Modulation(Protocol):
    """Assigns an adaLN branch and a time to each role; splits the backbone's modulation once, after it is built."""

    branches: Mapping[str, str]
    timing: Mapping[str, str]

    def apply(self, backbone: Backbone, tied: bool) -> None: ...


class Adapter(Protocol):
    """Decides what is trained. If it `freezes_base`, modulation branches may share the base's weights."""

    freezes_base: bool

    def apply(self, backbone: Backbone) -> None: ...


class TextEncoder(Protocol):
    """Encodes prompts. A `trained` encoder is optimised with the backbone; others stay frozen outside it.

    Features are a function of `ids`, the weights and `identity` alone, so `unigen.cache.store` makes its keys of them.
    `pooled` returns one vector for each prompt, (B, pooled_width), or None if the encoder has none.
    An encoder may have an attribute `looks_at`, the roles whose images it reads with the prompt. If it names any, every
    prompt that it is given is an `unigen.core.types.Illustrated`, whose pixels features depend on too; a prompt without
    images may be a string. It may have `glyph_tokens`, how many of the tokens at the end of a text spell words; a
    backbone that reads such tokens has the same attribute.
    """

    tokens: int
    width: int
    pooled_width: int | None
    trained: bool

    @property
    def identity(self) -> Mapping[str, Any]: ...
    def ids(self, prompts: list[str]) -> list[tuple[int, ...]]: ...
    def encode(self, prompts: list[str]) -> Tensor: ...
    def pooled(self, prompts: list[str]) -> Tensor | None: ...
    def valid(self, prompts: list[str]) -> Tensor | None: ...
    def keywords(self, prompts: list[str], subjects: list[tuple[str, ...]]) -> Tensor: ...


class Codec(Protocol):
    """Encodes clips (B, F, 3, H, W) in [-1, 1] as normalised latents (B, f, C, H / stride, W / stride), and decodes.

    A still is a clip of one frame. The first latent frame encodes the first frame alone, each later one encodes
    `temporal_stride` frames (with 1, each frame is encoded by itself). A clip has 1 + n * `clip_unit` frames.
    A codec is `cacheable` if encoding has no randomness and costs more than looking up what was encoded.
    encode(x, generator) == draw(moments(x), generator). `moments` returns the posterior, which has no randomness in
    any codec: it is a function of the clip, the weights and `identity` alone (not of autocast), so `unigen.cache.store`
    makes its keys of them. `fit` is given uint8 images (N, 3, H, W).
    """

    stride: int
    temporal_stride: int
    clip_unit: int
    channels: int
    cacheable: bool

    @property
    def identity(self) -> Mapping[str, Any]: ...
    def fit(self, images: Callable[[], Tensor]) -> None: ...
    def moments(self, pixels_BF3HW: Tensor) -> Tensor: ...
    def draw(self, moments_BfMhw: Tensor, generator: Generator | None = None) -> Tensor: ...
    def encode(self, pixels_BF3HW: Tensor, generator: Generator | None = None) -> Tensor: ...
    def decode(self, latents_BfChw: Tensor) -> Tensor: ...


class Process(Protocol):
    """A diffusion process x_t = alpha(t) x0 + sigma(t) eps; `predicts` names the quantity that the network predicts.

    `tokens` is the number of image tokens of a sample, for training times that depend on it (0: not known). `on_grid`
    moves the times that a solver asks for to those at which the process can be evaluated.
    """

    predicts: str

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]: ...
    def on_grid(self, t: Tensor) -> Tensor: ...
    def sample_times(self, batch: int, generator: Generator, device: Any = "cpu", tokens: int = 0) -> Tensor: ...
    def corrupt(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor: ...
    def target(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor: ...
    def to_data(self, x_t: Tensor, prediction: Tensor, t: Tensor) -> Tensor: ...
    def to_noise(self, x_t: Tensor, prediction: Tensor, t: Tensor) -> Tensor: ...


class Loss(Protocol):
    """Computes the elementwise error of a prediction; `weights` maps each role to its share of the loss.

    A loss may have an attribute `average`, which matters where training masks cells: "sample" (the default) or
    "batch", see `unigen.losses.weighted.weighted_mean`.
    """

    weights: Mapping[str, float]

    def error(
        self, process: Process, x0: Tensor, eps: Tensor, x_t: Tensor, prediction: Tensor, t_B: Tensor
    ) -> Tensor: ...


class Solver(Protocol):
    """Takes one step of sampling from time t to time s < t.

    `times` may depend on the number of image tokens of a sample. A solver may have a mapping `protocol` with the
    settings besides `steps` that a score depends on.
    """

    steps: int

    def times(self, tokens: int = 0) -> Tensor: ...
    def step(
        self,
        process: Process,
        x_t: Tensor,
        prediction: Tensor,
        t: float,
        s: float,
        carry: Any,
        generator: Generator | Sequence[Generator],
    ) -> tuple[Tensor, Any]: ...


class Metric(Protocol):
    """Scores outputs, uint8 images (N, 3, H, W); `protocol` describes the measurement in words.

    `against` names what a call compares the outputs with. It returns scores (N,), but for WHOLE_SET.
    "truth": images like the outputs. "prompt": N strings. "subject": truths with the words for their subjects, a slice
    of `unigen.metrics.images.Subjects`. "facts": N strings of JSON, what is known of the
    first target. "slot " and a name: the condition images of that slot. NOTHING: the score is
    one of the output alone. WHOLE_SET: all outputs are compared with all truths, and a call returns one number; both
    may be too many to hold in memory, so they come as `unigen.metrics.images.Images`.
    A metric may have a method `counts` of the same arguments, which returns {word: number} for what it met besides,
    such as images without a detection.
    `protocol` and a call raise Unavailable if weights or a library that the metric needs are missing.
    """

    name: str
    against: str
    better: str

    @property
    def protocol(self) -> Mapping[str, str]: ...
    def __call__(self, output: Any, reference: Any) -> Tensor: ...
