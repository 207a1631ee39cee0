"""SaliencyMix: arXiv 2006.01791, Section 3, each box around a peak of its own, as in the paper.

The official code differs (``official``): the box of the first partner serves the batch, and the
detector, which is OpenCV's, is given normalised floats, red first, and misreads their bytes.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from papers import baseline, cutmix
from papers.network import Array, Network
from papers.tape import Tape

CASES = (
    "saliencymix",
    "saliencymix,p=1",
    "saliencymix,alpha=0.3,p=1",
    "saliencymix,official=True,p=1",
)
REACHES = (12, 24, 48, 28, 56, 112)
"""How far the detector looks at each of its scales, in pixels."""


def loss(net: Network, x: Array, y: Array, tape: Tape, method: Any) -> float:
    if not tape.chance(method.p):
        return baseline.loss(net, x, y, tape, method)
    lam, partner = float(tape.take("beta", method.alpha)), tape.take("partners")
    peaks = tape.once(lambda: [peak(detected(seen(net, x[j], method.official))) for j in partner])
    images, targets = [], []
    for i, j in enumerate(partner):
        row, column = peaks[0 if method.official else i]
        m = cutmix.mask(x.shape[2], x.shape[3], lam, row, column)
        images.append(m * x[i] + (1 - m) * x[j])
        targets.append(m.mean() * y[i] + (1 - m.mean()) * y[j])
    return float(net.losses(net(np.stack(images)), np.stack(targets)).mean())


def seen(net: Network, image: Array, official: bool) -> NDArray[Any]:
    """What the detector is given of an image, (3, h, w); blue first, in 8 bits, as it expects."""
    if official:
        return net.below("pixels", image).astype(np.float32)
    return np.rint(255 * image[::-1]).astype(np.uint8)


def peak(saliency: NDArray[Any]) -> tuple[int, int]:
    """The row and the column of the largest value, the first of equals in reading order."""
    rows, columns = saliency.shape
    places = [(row, column) for row in range(rows) for column in range(columns)]
    return max(places, key=lambda place: int(saliency[place]))


def detected(image: NDArray[Any]) -> NDArray[np.uint8]:
    """OpenCV's fine-grained saliency (h, w) of an image (3, h, w), uint8 or float32, blue first.

    A pixel stands out by how far it is from the mean of the others around it, at six scales.
    """
    height, width = image.shape[1:]
    gray = luminance(image)
    for _ in range(2):
        gray = blurred(gray)
    centre = np.frombuffer(gray.tobytes(), np.uint8).reshape(height, -1)[:, :width].astype(int)
    bright, dark = np.zeros((2, height, width), int)
    for n in REACHES:
        for i in range(height):
            for j in range(width):
                rows, columns = (slice(max(k - n + 1, 0), k + n + 1) for k in (i, j))
                around = gray[rows, columns]
                others = np.float32(around.sum(dtype=np.float64)) - np.float32(centre[i, j])
                mean = others / np.float32(around.size - 1)
                difference = int(np.float32(centre[i, j]) - mean)
                bright[i, j] += max(difference, 0) % 256
                dark[i, j] += max(-difference, 0) % 256
    bright, dark = stretched(bright), stretched(dark)
    largest = max(bright.max(), dark.max(), 1)
    mixed: NDArray[np.uint8] = (255 * (bright + dark) // largest % 256).astype(np.uint8)
    return mixed


def luminance(image: NDArray[Any]) -> NDArray[Any]:
    blue, green, red = image
    if image.dtype == np.uint8:
        weighted = 3735 * blue.astype(int) + 19235 * green.astype(int) + 9798 * red.astype(int)
        rounded: NDArray[Any] = ((weighted + 2**14) >> 15).astype(np.uint8)
        return rounded
    weights = np.array([0.114, 0.587, 0.299], np.float32).astype(np.float64)
    gray: NDArray[Any] = (weights[1] * green).astype(np.float32)
    for weight, colour in ((weights[0], blue), (weights[2], red)):
        gray = (weight * colour + gray).astype(np.float32)
    return gray


def blurred(gray: NDArray[Any]) -> NDArray[Any]:
    """Weights 1/4, 1/2, 1/4 along both axes, mirrored at the border; 8 bits are rounded half up."""
    height, width = gray.shape
    out, values = np.zeros_like(gray), gray.astype(np.float32)
    half, quarter = np.float32(0.5), np.float32(0.25)
    for i in range(height):
        up, down = abs(i - 1), height - 1 - abs(height - 2 - i)
        for j in range(width):
            left, right = abs(j - 1), width - 1 - abs(width - 2 - j)
            above, here, below = (
                half * values[r, j] + quarter * (values[r, left] + values[r, right])
                for r in (up, i, down)
            )
            smooth = half * here + quarter * (above + below)
            out[i, j] = int(smooth + half) if gray.dtype == np.uint8 else smooth
    return out


def stretched(sums: NDArray[Any]) -> NDArray[Any]:
    """Scaled to 0 ... 255 by the largest, and truncated."""
    if not sums.max():
        return sums
    shares = (sums.astype(np.float32) / np.float32(sums.max())).astype(np.float64)
    return (255 * shares).astype(int)
