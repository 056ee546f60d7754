"""Every plug-in shape on one page. A plug-in is one file in its package and one YAML in its config group.

Shapes: B batch, F frames, C channels, L tokens, T text tokens, P patch features, N pictures.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from torch import Generator, Tensor, device

from unigen.layout import Geometry, Layout, Plan
from unigen.masks import Mask
from unigen.tokens import Tokens
from unigen.types import ImageSlot, Signature

WHOLE_SET, NOTHING = "set", "nothing"  # see Metric.against


class Formatter(Protocol):
    """Places a sample's images in (t, h, w); a pure function that holds no tensors."""

    roles: tuple[str, ...]
    axes: tuple[str, ...]

    def __call__(self, signature: Signature, geometry: Geometry) -> Plan: ...


class Backbone(Protocol):
    """A diffusers transformer adapted to `Tokens`; itself an `nn.Module` whose `model` is that transformer.

    `pooled_width`: of `Tokens.pooled`, None if it takes none; `context_width`: of `Tokens.context`, 0 if it takes none.
    `predicts`: the `Process.predicts` that its weights were trained with, None for random ones.
    """

    axes: tuple[str, ...]
    predicts: str | None
    patch: tuple[int, int, int]
    reach: tuple[int, int, int]
    text_width: int
    pooled_width: int | None
    context_width: int
    latent_channels: int

    def __call__(
        self, tokens: Tokens, times: Mapping[str, Tensor], mask: Mask, memory: Any = None
    ) -> dict[str, Tensor]: ...
    def remember(self, tokens: Tokens, times: Mapping[str, Tensor], mask: Mask) -> Any: ...
    def split_modulation(self, branches: Mapping[str, str], tied: bool) -> None: ...
    def lora_targets(self) -> Mapping[str, str]: ...
    def flops(self, layout: Layout, mask: Mask) -> dict[str, int]: ...
    def adapter_flops(self, layout: Layout) -> int: ...
    def quantize_frozen(self) -> int: ...
    def try_kernel(self, device: device) -> None: ...


class Embedding(Protocol):
    """Adds what is known of a sample to its condition latents (B, F, C, H, W), before fill and patchify.

    One that looks up subjects (`keyword_BT`) has `reads_subjects` = True; then a run counts the prompts without them.
    """

    def __call__(
        self,
        latents: dict[str, Tensor],
        slots: tuple[ImageSlot, ...],
        text_BTD: Tensor,
        keyword_BT: Tensor,
        tasks: list[str],
    ) -> dict[str, Tensor]: ...


class Modulation(Protocol):
    """Which adaLN branch and which time each role gets; splits the backbone's modulation once, after it is built."""

    branches: Mapping[str, str]
    timing: Mapping[str, str]

    def apply(self, backbone: Backbone, tied: bool) -> None: ...


class Adapter(Protocol):
    """What is trained. `freezes_base` says that modulation branches may share the base's weights."""

    freezes_base: bool

    def apply(self, backbone: Backbone) -> None: ...


class TextEncoder(Protocol):
    """Prompts to features. `trained` encoders are optimised with the backbone, others stay frozen outside it.

    Features are a function of `ids`, the weights and `identity` alone: that is what `unigen.cache` keeps them by.
    `pooled` is each prompt as one vector (B, pooled_width); None if the encoder has none.
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
    def keywords(self, prompts: list[str], subjects: list[tuple[str, ...]]) -> Tensor: ...


class Codec(Protocol):
    """Pictures (N, 3, H, W) in [-1, 1] to normalised latents (N, C, H / stride, W / stride) and back.

    `cacheable`: encoding has no randomness and costs more than remembering what was encoded.
    encode(x, generator) == draw(moments(x), generator). `moments`, the posterior, has no randomness in any codec: it
    is a function of the picture, the weights and `identity` alone (not of autocast), by which `unigen.cache` keeps it.
    """

    stride: int
    channels: int
    cacheable: bool

    @property
    def identity(self) -> Mapping[str, Any]: ...
    def fit(self, pictures: Callable[[], Tensor]) -> None: ...
    def moments(self, pixels_N3HW: Tensor) -> Tensor: ...
    def draw(self, moments: Tensor, generator: Generator | None = None) -> Tensor: ...
    def encode(self, pixels_N3HW: Tensor, generator: Generator | None = None) -> Tensor: ...
    def decode(self, latents_NCHW: Tensor) -> Tensor: ...


class Process(Protocol):
    """From a clock to coefficients: x_t = alpha(t) x0 + sigma(t) eps, and what the network predicts, which has a name.

    `tokens`: how many the pictures of a sample have together, for times that depend on it (0: not known). `on_grid` are
    the times at which sampling stops, of those that a solver asks for.
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
    """Elementwise error of a prediction; `weights` says how much each role counts.

    Where training masks cells, a loss may have `average`: "sample" (also without it) or "batch", see `weighted_mean`.
    """

    weights: Mapping[str, float]

    def error(
        self, process: Process, x0: Tensor, eps: Tensor, x_t: Tensor, prediction: Tensor, t_B: Tensor
    ) -> Tensor: ...


class Solver(Protocol):
    """One step from time t to time s < t, and the guidance that the pipeline applies around it.

    `times` may depend on how many tokens the pictures of a sample have together. What a number depends on besides
    `steps`, a solver may say in a mapping `protocol`.
    """

    steps: int
    guidance: float
    drop: tuple[str, ...]

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
    """A score for each picture from uint8 (N, 3, H, W) outputs, with its protocol in words.

    `against` says what an output is compared with: "truth" (pictures like the outputs) or "prompt" (N strings); then a
    call returns scores (N,). WHOLE_SET: all outputs with all truths together, and a call returns one number; both may
    be too many to hold, so they come as `unigen.metrics.pictures.Pictures`. NOTHING: a score of the picture alone.
    "subject": truths with the words for their subjects, a slice of `unigen.metrics.pictures.Subjects`. "slot " and
    a name: the condition pictures of that slot. What a metric met besides (pictures without a detection), it may
    say in a method `counts` of the same arguments: {word: number}.
    `protocol` and a call raise Unavailable if weights or a library that the metric needs are not here.
    """

    name: str
    against: str
    better: str

    @property
    def protocol(self) -> Mapping[str, str]: ...
    def __call__(self, output: Any, reference: Any) -> Tensor: ...
