"""A second of sound as a grey image: a mel spectrogram of 64 bands by 64 frames, in decibels."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

RATE, BANDS, FRAMES = 16_000, 64, 64
HOP, WINDOW, FFT = RATE // FRAMES, 512, 1024
VERSION = 1
"""Of the pixels: to be raised when they change."""


def images(sound: NDArray[np.int16]) -> NDArray[np.uint8]:
    """Seconds of 16-bit sound (n, 16000) to images (n, 1, band, frame), the lowest band first.

    255 stands for full scale, each level less for half a decibel less, 0 for -127.5 dB and less.
    Full scale is the power of a square wave at it: by Parseval's theorem nothing is above, as the
    bands are parts of all power. Rounding to 16 bits is itself a noise of -101 dB, of which the
    narrowest band has -126 dB: what is below is silence.
    """
    window = torch.hann_window(WINDOW)
    x = F.pad(torch.from_numpy(sound) / 2**15, [(FFT - HOP) // 2] * 2)  # frames tile the second
    spectrum = torch.stft(x, FFT, HOP, WINDOW, window, center=False, return_complex=True)  # n f t
    power = spectrum.abs().square() / (window.square().sum() * FFT / 2)
    decibels = 10 * (filters() @ power).log10()
    return (255 + 2 * decibels).round().clamp(0, 255).to(torch.uint8)[:, None].numpy()


def filters() -> Tensor:
    """Triangles (band, frequency), evenly spaced and half overlapping on HTK's mel scale.

    mel = 2595 log10(1 + f / 700); each is 1 at its peak.
    """
    top = 2595 * np.log10(1 + RATE / 2 / 700)
    edges = 700 * (10 ** (torch.linspace(0, top, BANDS + 2, dtype=torch.float64) / 2595) - 1)
    low, peak, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    f = torch.linspace(0, RATE / 2, FFT // 2 + 1, dtype=torch.float64)
    rise, fall = (f - low) / (peak - low), (high - f) / (high - peak)
    return torch.minimum(rise, fall).clamp(min=0).float()
