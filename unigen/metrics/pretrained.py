"""The base of metrics that use a pretrained model: it finds the weights, prepares images, and names the model.

Weights come from a folder or from the local Hugging Face cache; they are downloaded only if `download` is true.
Shapes: N items, D width of an embedding, C = 3 channels, H and W pixels.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unigen.metrics.images import require_images
from unigen.weights.loading import Unavailable, check_finite, weights_hash, without_bars
from unigen.weights.repositories import hub_silent

FILES = ("*.json", "*.txt", "*.safetensors", "*.bin")  # of a repository: configuration, tokenizer, weights


class Pretrained:
    """A metric that uses a model of transformers, whose class a subclass names in `architecture`.

    `model` is a repository id or a folder. If `download` is true, a repository that is not in the cache is downloaded.
    """

    name: str
    architecture: str
    options: Mapping[str, Any] = {}  # for from_pretrained
    better = "higher"
    against = "truth"

    def __init__(self, model: str, download: bool) -> None:
        self.source, self.download = model, download

    @property
    def protocol(self) -> Mapping[str, str]:
        """The protocol, which names the model by its class and the hash of its weights, not by their folder.

        Raises Unavailable if the weights are absent.
        """
        import transformers

        return {
            "library": "transformers",
            "version": transformers.__version__,
            "parameters": self.parameters,
            "model": f"{self.architecture}, SHA-256 {weights_hash(self.folder)}",
        }

    @property
    def parameters(self) -> str:
        """The computation in words."""
        raise NotImplementedError

    @property
    def folder(self) -> Path:
        """The model's folder. Raises Unavailable, naming the model, its config key and the remedy, if there is none."""
        folder = model_folder(self.source, f"metric.{self.name}", self.download)
        try:
            weights_hash(folder)
        except FileNotFoundError as error:
            raise Unavailable(f"{error}, which metric.{self.name}.model names") from None
        return folder

    @property
    def model(self) -> Any:
        """The model in fp32 for inference, loaded once in a process for each folder. Raises Unavailable as `folder`."""
        return load(self.architecture, self.folder, **self.options)


class Likeness(Pretrained):
    """cos(f(output), f(truth)), f the model's embedding of an image, which a subclass defines in `embed`.

    Images are prepared as in the evaluation of CLIP and DINO: the shorter side is scaled to `resize` (PIL, bicubic with
    antialias), the centre `crop` x `crop` is cut out, and the pixels are normalised.
    """

    mean: tuple[float, ...] = (0.485, 0.456, 0.406)  # ImageNet's
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    embedding: str

    def __init__(self, model: str, resize: int, crop: int, download: bool) -> None:
        if not 1 <= crop <= resize:
            raise ValueError(f"metric.{self.name}: crop={crop} must be at least 1 and at most resize={resize}")
        super().__init__(model, download)
        self.resize, self.crop = resize, crop

    @property
    def parameters(self) -> str:
        return f"cosine of output and truth, {self.embedding}; {self.preparation}"

    @property
    def preparation(self) -> str:
        """The preparation of an image in words."""
        return f"shorter side {self.resize}, centre {self.crop}, PIL bicubic, mean {self.mean}, std {self.std}"

    def embed(self, pixels: Tensor) -> Tensor:
        """Embed prepared images, (N, D)."""
        raise NotImplementedError

    @torch.no_grad()
    def embed_images(self, images_N3HW: Tensor) -> Tensor:
        """Prepare uint8 images and embed them as unit vectors (N, D), on the CPU."""
        from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

        processor = CLIPImageProcessorPil(
            size={"shortest_edge": self.resize},
            crop_size={"height": self.crop, "width": self.crop},
            image_mean=list(self.mean),
            image_std=list(self.std),
        )
        images = [image.permute(1, 2, 0).numpy() for image in images_N3HW.cpu()]
        pixels = processor(images=images, return_tensors="pt", input_data_format="channels_last")["pixel_values"]
        return F.normalize(self.embed(pixels.to(self.model.device)).float().cpu(), dim=-1)

    def __call__(self, output: Tensor, truth: Tensor) -> Tensor:
        """Return scores (N,)."""
        require_images(output, truth)
        return (self.embed_images(output) * self.embed_images(truth)).sum(-1)


def model_folder(source: str, key: str, download: bool, source_key: str = "model") -> Path:
    """Return a model's folder: `source` itself, or the snapshot of the repository `source` in the Hugging Face cache.

    `source_key` is the name of the source below `key` in the configuration. Raises Unavailable, naming both, if
    `source` is neither; the network is used only if `download` is true.
    """
    from huggingface_hub import snapshot_download

    if Path(source).expanduser().is_dir():
        return Path(source).expanduser()
    silent = hub_silent() if download else None
    try:
        with without_bars():
            local = not download or silent is not None
            return Path(snapshot_download(source, local_files_only=local, allow_patterns=FILES))
    except Exception as error:  # the hub raises a dozen unrelated types for "not there"
        tried = f" and cannot be downloaded ({silent or str(error).splitlines()[0]})" if download else ""
        raise Unavailable(
            f"'{source}' is no folder and not in the Hugging Face cache{tried}; "
            f"download it with {key}.download=true or `hf download {source}`, or set {key}.{source_key}=<folder>"
        ) from error


@lru_cache(maxsize=8)
def load(architecture: str, folder: Path, **options: Any) -> nn.Module:
    """Load a model of transformers by the name of its class, in fp32, to the GPU if there is one.

    Raises Unavailable if some weights are missing from the folder (transformers would draw them at random), or if they
    are not finite.
    """
    import transformers

    shown = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        with without_bars():
            model, told = getattr(transformers, architecture).from_pretrained(
                folder, local_files_only=True, output_loading_info=True, **options
            )
    except (OSError, ValueError, RuntimeError) as error:
        raise Unavailable(f"{folder} holds no {architecture}: {str(error).splitlines()[0]}") from error
    finally:
        transformers.logging.set_verbosity(shown)
    if missing := sorted(told["missing_keys"]):
        raise Unavailable(
            f"{folder} holds no whole {architecture}: {len(missing)} weights are missing, e.g. {missing[0]}"
        )
    try:
        check_finite(model.named_parameters(), str(folder))
    except ValueError as error:
        raise Unavailable(str(error)) from error
    return model.float().eval().requires_grad_(False).to("cuda" if torch.cuda.is_available() else "cpu")


def require_prompts(output: Tensor, prompts: Sequence[str]) -> None:
    """Raise ValueError for a single string in the place of prompts, and unless each output has one prompt."""
    require_images(output, output)
    if isinstance(prompts, str) or len(prompts) != len(output):
        raise ValueError(f"{len(output)} outputs need as many prompts, got {prompts!r:.80}")
