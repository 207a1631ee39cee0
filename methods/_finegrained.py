"""Fine-grained saliency (Montabone and Soto, Image and Vision Computing 28(3), 2010), as in OpenCV.

How OpenCV's ``StaticSaliencyFineGrained`` rounds, truncates and overflows is that of its module
``saliency`` (opencv_contrib, Apache 2.0), found by reading it and by comparison with its maps.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

REACHES = 12, 24, 48, 28, 56, 112
BLUE, GREEN, RED = (float(np.float32(weight)) for weight in (0.114, 0.587, 0.299))


def fine_grained(images: Tensor) -> Tensor:
    """How salient each pixel is, (b, h, w) float32 in [0, 1], for images (b, 3, h, w), blue first.

    For uint8 images of up to 256 x 256 pixels, two or more along each axis, this is OpenCV's map
    to the last bit, with what overflows (``& 255``). It accepts float32 images too, and misreads
    them, which is followed: single bytes of their numbers are compared with means of the numbers.
    """
    gray = _blurred(_blurred(_gray(images)))
    centre = gray.view(torch.uint8)[..., : gray.shape[-1]].float()
    sums = F.pad(gray.cumsum(1, dtype=torch.float64).cumsum(2), (1, 0, 1, 0)).float()
    bright = dark = torch.zeros_like(centre, dtype=torch.int)
    for reach in REACHES:
        contrast = _contrast(centre, sums, reach)
        bright = bright + (contrast.clamp(min=0) & 255)
        dark = dark + (-contrast).clamp(min=0)
    return ((_stretched(bright) + _stretched(dark)) & 255).float() * (1 / 255)


def _gray(images: Tensor) -> Tensor:
    """Luminance (b, h, w), in the type of the images."""
    blue, green, red = images.double().unbind(1)
    if images.dtype == torch.uint8:
        return ((3735 * blue + 19235 * green + 9798 * red) / 2**15 + 0.5).to(torch.uint8)
    gray = (GREEN * green).float()
    for part in (BLUE * blue, RED * red):  # fused: a product is not rounded before it is added
        gray = (part + gray).float()
    return gray


def _blurred(gray: Tensor) -> Tensor:
    """Weights 1 2 1 along both axes, mirrored at the border; uint8 is rounded half up."""
    smooth = F.pad(gray.float(), (1, 1, 1, 1), mode="reflect")
    for axis in (2, 1):
        before, here, after = smooth.unfold(axis, 3, 1).unbind(-1)
        smooth = here / 2 + (before + after) / 4
    return (smooth + 0.5).to(torch.uint8) if gray.dtype == torch.uint8 else smooth


def _contrast(centre: Tensor, sums: Tensor, reach: int) -> Tensor:
    """Each pixel less the mean of the others within ``reach``, truncated towards zero, (b, h, w).

    ``sums`` (b, h + 1, w + 1) are those of all pixels above and to the left.
    """
    height, width = centre.shape[1:]
    top, bottom = (end[:, None] for end in _window(height, reach, centre.device))
    left, right = _window(width, reach, centre.device)
    total = (
        sums[:, bottom, right] + sums[:, top, left] - sums[:, bottom, left] - sums[:, top, right]
    )
    others = (bottom - top) * (right - left) - 1
    return (centre - (total - centre) / others).int()


def _window(size: int, reach: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The first pixel of each pixel's window, and the one after its last, (size,) each."""
    pixel = torch.arange(size, device=device)
    return (pixel - reach + 1).clamp(min=0), (pixel + reach + 1).clamp(max=size)


def _stretched(values: Tensor) -> Tensor:
    """Scaled to 0 ... 255 by each image's largest value, truncated."""
    return (255 * values / values.amax((1, 2), keepdim=True).clamp(min=1)).int()
