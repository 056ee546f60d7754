"""Frozen linears whose weights are kept in 8 or 4 bits (torchao) and dequantised for each product.

As in QLoRA (arXiv 2305.14314), adapters train in full precision on a quantised base. The backward pass dequantises the
weight again, so that only the bits are kept for it.
Shapes: N outputs, K inputs.
"""

from collections.abc import Callable, Iterable, Iterator
from math import gcd
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unigen.config.values import ConfigError

NF4_BLOCK, NF4_SCALERS = 64, 256  # QLoRA's: weights that share a scale, and scales that share one of their own
WORDS = ("int8", "nf4")


class Bits:
    """A quantised (N, K) weight that several linears may share. It moves to another device once for all of them."""

    def __init__(self, weight: Tensor, word: str) -> None:
        self.stored, self.dtype = _quantized(weight, word), weight.dtype

    @property
    def nbytes(self) -> int:
        names, _ = self.stored.__tensor_flatten__()
        return sum(getattr(self.stored, name).nbytes for name in names)

    def move(self, device: torch.device) -> None:
        if self.stored.device != device:
            self.stored = self.stored.to(device)

    def whole(self) -> Tensor:
        whole = getattr(self.stored, "get_original_weight", self.stored.dequantize)  # NF4Tensor's has another meaning
        return whole()


class QuantizedLinear(nn.Module):
    """A frozen linear in the place of a stock one. Its weight has no gradient, is no parameter and is in no state dict.

    Products are in autocast's precision if it is on, else in that of the input.
    """

    def __init__(self, stock: nn.Linear, bits: Bits) -> None:
        super().__init__()
        self.in_features, self.out_features, self.bits = stock.in_features, stock.out_features, bits
        self.bias = stock.bias

    def forward(self, x: Tensor) -> Tensor:
        kind = x.device.type
        low = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        with torch.autocast(kind, enabled=False):
            y = _Product.apply(x.to(low), self.bits)
            return y if self.bias is None else y + self.bias.to(low)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        """Move the bits to the module's device; their precision never changes."""
        self.bits.move(fn(torch.empty(0, device=self.bits.stored.device)).device)
        return super()._apply(fn, recurse)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, {type(self.bits.stored).__name__}"


class _Product(torch.autograd.Function):
    """The product x W^T; both passes make W from its bits."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bits: Bits) -> Tensor:
        ctx.bits = bits
        return F.linear(x, bits.whole().to(x.dtype))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad @ ctx.bits.whole().to(grad.dtype), None


def check(word: str) -> None:
    """Raises ConfigError for an unknown `backbone.quantize`, or if torchao is not installed."""
    if word not in WORDS:
        raise ConfigError(f"backbone.quantize is {word!r}; legal are null, {', '.join(WORDS)}")
    try:
        import torchao.quantization  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"backbone.quantize={word} needs torchao ({error}); install it by pip install -e '.[quantize]', or "
            "use backbone.quantize=null"
        ) from error


def quantize_frozen(blocks: Iterable[nn.Module], word: str) -> int:
    """Quantise every frozen nn.Linear inside `blocks`, those under adapters too; return how many.

    Linears that share a weight then share its bits. Raises ConfigError as `check` does, and if nothing is frozen.
    """
    check(word)
    known: dict[int, Bits] = {}
    found = 0
    for parent, name, linear in list(_frozen(blocks)):
        weight = linear.weight
        bits = known.setdefault(id(weight), None) or Bits(weight.detach(), word)
        known[id(weight)], found = bits, found + 1
        setattr(parent, name, QuantizedLinear(linear, bits))
    if not found:
        raise ConfigError(
            f"backbone.quantize={word}, but no linear of the blocks is frozen; train adapters on them "
            "(conditioning/adapter=lora), or use backbone.quantize=null"
        )
    return found


def bytes_beside(blocks: Iterable[nn.Module], word: str) -> tuple[int, float]:
    """Return how many numbers `quantize_frozen` would quantise, and the bytes that it would keep (also on meta)."""
    weights = {id(linear.weight): linear.weight for _, _, linear in _frozen(blocks)}
    count = sum(w.numel() for w in weights.values())
    rows = sum(w.shape[0] for w in weights.values())
    # int8: a scale in the weight's precision for each row; nf4: half a byte and its share of two levels of scales
    return count, count + 4.0 * rows if word == "int8" else count * (0.5 + 1 / NF4_BLOCK)


def _frozen(blocks: Iterable[nn.Module]) -> Iterator[tuple[nn.Module, str, nn.Linear]]:
    """Yield every frozen linear with the module that holds it and its name there. An adapter's own are none: those that
    no prediction depends on are frozen too, and peft reads their weights.
    """
    for block in blocks:
        for path, parent in block.named_modules():
            for name, linear in parent.named_children() if "lora_" not in path else ():
                if type(linear) is nn.Linear and not linear.weight.requires_grad:
                    yield parent, name, linear


def _quantized(weight: Tensor, word: str) -> Tensor:
    from torchao.quantization import Int8Tensor, PerRow, to_nf4

    if word == "int8":
        return Int8Tensor.from_hp(weight, PerRow())
    scales, rest = divmod(weight.numel(), NF4_BLOCK)
    if rest:
        raise ConfigError(
            f"backbone.quantize=nf4 takes weights of a multiple of {NF4_BLOCK} numbers, but one has "
            f"{' × '.join(map(str, weight.shape))}; use int8 or null"
        )
    return to_nf4(weight.contiguous(), NF4_BLOCK, gcd(scales, NF4_SCALERS))
