"""Speech Commands: which recordings are read, and which pixels they become."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import formats
import numpy as np
import pytest
import torch
from formats import SPEECH, TIME, record, tone
from numpy.typing import NDArray

from mixbench.bench.data import _mel, source, speechcommands
from mixbench.bench.data._base import Images
from mixbench.bench.spec import BadInput


def pixels(split: object) -> torch.Tensor:
    assert isinstance(split, Images)
    return split.x


@pytest.fixture
def spoken(tmp_path: Path) -> Path:
    """35 words; of each a recording to train, one to validate, one to test."""
    formats.speechcommands(tmp_path, 35)
    return tmp_path


def test_recordings_are_split_by_their_lists(spoken: Path) -> None:
    dataset = speechcommands.read(spoken)
    dataset.check(35)
    assert dataset.train.y.tolist() == dataset.test.y.tolist() == list(range(35))
    assert pixels(dataset.train).shape == pixels(dataset.test).shape == (35, 1, 64, 64)
    assert pixels(dataset.train).dtype == torch.uint8
    for split, loud in ((dataset.train, 1000), (dataset.test, 9000)):
        expected = _mel.images(np.stack([tone(200 * (i + 1), loud) for i in range(35)]))
        assert pixels(split).equal(torch.from_numpy(expected))


def test_pixels_are_normalised_by_those_that_are_trained_on(spoken: Path) -> None:
    dataset = speechcommands.read(spoken)
    x = pixels(dataset.train).double() / 255
    assert dataset.mean == pytest.approx((x.mean().item(),), rel=1e-9)
    assert dataset.std == pytest.approx((x.std(correction=0).item(),), rel=1e-9)


def test_spectrograms_are_kept_for_the_next_read(
    spoken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = speechcommands.read(spoken)
    monkeypatch.setattr(speechcommands, "_decoded", None)
    second = speechcommands.read(spoken)
    assert pixels(first.train).equal(pixels(second.train))
    assert pixels(first.test).equal(pixels(second.test))


def test_other_pixels_would_not_be_taken_from_what_was_kept(
    spoken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    speechcommands.read(spoken)
    monkeypatch.setattr(_mel, "VERSION", _mel.VERSION + 1)
    monkeypatch.setattr(_mel, "images", lambda x: np.full((len(x), 1, 64, 64), 3, np.uint8))
    assert pixels(speechcommands.read(spoken).train).eq(3).all()


def test_short_recordings_are_filled_with_silence_and_long_ones_cut(spoken: Path) -> None:
    sound = np.random.default_rng(0).integers(-3000, 3000, 20_000).astype(np.int16)
    record(spoken / SPEECH / "word00" / "a_nohash_0.wav", sound[:8000])
    record(spoken / SPEECH / "word01" / "a_nohash_0.wav", sound)
    filled = np.concatenate([sound[:8000], np.zeros(8000, np.int16)])
    expected = torch.from_numpy(_mel.images(np.stack([filled, sound[:16_000]])))
    x = pixels(speechcommands.read(spoken).train)
    assert x[:2].equal(expected)
    assert x[0, 0, :, 34:].eq(0).all() and x[0, 0, :, :31].gt(0).all()


Damage = Callable[[Path], object]


def more(path: Path, line: str) -> None:
    path.write_text(path.read_text() + line + "\n")


def empty(top: Path) -> None:
    for path in list((top / "word03").iterdir()):
        path.unlink()


def stereo(top: Path) -> None:
    record(top / "word03" / "a_nohash_0.wav", tone(200, 9), channels=2)


REFUSED: dict[str, tuple[Damage, str]] = {
    "no folder": (lambda top: top.rename(top.with_name("x")), "v0.02 is missing; .*speechcommands"),
    "no list": (lambda top: (top / "testing_list.txt").unlink(), "testing_list.txt is missing"),
    "a word too many": (lambda top: (top / "hum").mkdir(), "36 words, and should have 35"),
    "a word lost": (lambda top: (top / "word03").rename(top.parent / "x"), "34 words"),
    "no recordings": (
        empty,
        r"word03 has no files \(.wav\)",
    ),
    "a recording lost": (
        lambda top: (top / "word03" / "c_nohash_0.wav").unlink(),
        "testing_list.txt names recordings that are not there: .*word03/c_nohash_0.wav$",
    ),
    "in both lists": (
        lambda top: more(top / "validation_list.txt", "word03/c_nohash_0.wav"),
        "word03/c_nohash_0.wav is in testing_list.txt and in validation_list.txt",
    ),
}

UNREADABLE: dict[str, tuple[Damage, str]] = {
    "another rate": (
        lambda top: record(top / "word03" / "a_nohash_0.wav", tone(200, 9), rate=8000),
        "it has 8000 Hz, 16 bits, 1 channels, not 16000, 16, 1",
    ),
    "stereo": (stereo, "16000 Hz, 16 bits, 2 channels"),
    "no sound": (
        lambda top: record(top / "word03" / "a_nohash_0.wav", np.zeros(0, np.int16)),
        "it ends after 0 of 0 samples",
    ),
    "cut short": (
        lambda top: (top / "word03" / "a_nohash_0.wav").write_bytes(
            (top / "word03" / "a_nohash_0.wav").read_bytes()[:-200]
        ),
        "it ends after 15900 of 16000 samples",
    ),
    "no recording": (
        lambda top: (top / "word03" / "a_nohash_0.wav").write_text("RIFF"),
        "EOFError",
    ),
}


@pytest.mark.parametrize(("damage", "reason"), REFUSED.values(), ids=REFUSED)
def test_folders_and_lists_that_disagree_are_refused(
    spoken: Path, damage: Damage, reason: str
) -> None:
    damage(spoken / SPEECH)
    for look in (speechcommands.read, speechcommands.SOURCE.check):
        with pytest.raises(BadInput, match=reason):
            look(spoken)


@pytest.mark.parametrize(("damage", "reason"), UNREADABLE.values(), ids=UNREADABLE)
def test_an_unreadable_recording_is_named(spoken: Path, damage: Damage, reason: str) -> None:
    damage(spoken / SPEECH)
    where = r"1 of 35 files can't be read: .*word03/a_nohash_0.wav \("
    with pytest.raises(BadInput, match=where + f".*{reason}"):
        speechcommands.read(spoken)


def test_check_reads_the_recordings(spoken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speechcommands, "published", lambda *_: "what was published")
    assert speechcommands.SOURCE.check(spoken) == "what was published"
    (spoken / SPEECH / "word03" / "a_nohash_0.wav").write_bytes(b"")
    record(spoken / SPEECH / "word05" / "c_nohash_0.wav", tone(200, 9), rate=8000)
    with pytest.raises(BadInput, match=r"2 of 70 files .*word03/a_\S+ .*word05/c_\S+ .*8000 Hz"):
        speechcommands.SOURCE.check(spoken)


def test_what_was_published_is_what_check_wants(spoken: Path) -> None:
    with pytest.raises(BadInput, match=r"has 35 to train, .* has 84,843 .* 11,005 to"):
        source("speechcommands").check(spoken)


def test_the_archive_is_unpacked_where_it_is_read() -> None:
    (archive,) = speechcommands.SOURCE.archives
    assert archive.into == SPEECH
    assert archive.name == f"{SPEECH}.tar.gz"


def hertz(mel: float) -> float:
    return float(700 * (10 ** (mel / 2595) - 1))


def plain_image(sound: NDArray[Any]) -> NDArray[np.float64]:
    """Levels (band, frame), neither rounded nor clipped, number by number."""
    top = 2595 * np.log10(1 + 8000 / 700)
    edges = [hertz(top * i / 65) for i in range(66)]
    padded = np.concatenate([np.zeros(131), sound / 32768, np.zeros(131)])
    window = np.sin(np.pi * np.arange(512) / 512) ** 2
    levels = np.empty((64, 64))
    for frame in range(64):
        spectrum = np.fft.rfft(padded[250 * frame :][:512] * window, 1024)
        power = np.abs(spectrum) ** 2 / 512 / (window**2).sum()
        for band in range(64):
            heights = np.interp(np.arange(513) * 15.625, edges[band : band + 3], [0, 1, 0])
            levels[band, frame] = 255 + 20 * np.log10((heights * power).sum())
    return levels


def test_an_image_equals_a_plain_transcription() -> None:
    sound = (tone(700, 2000) + np.random.default_rng(0).normal(0, 300, 16_000)).astype(np.int16)
    image, expected = _mel.images(sound[None])[0, 0], plain_image(sound)
    assert np.abs(image - expected).max() < 0.51
    assert image.std() > 10 and image.min() > 0 and image.max() < 255


def test_the_filters_part_the_power_between_the_bands() -> None:
    bands = _mel.filters()
    assert bands.shape == (64, 513)
    assert bands.min() == 0 and bands.max() <= 1 and bands.sum(1).min() > 1
    assert bands[:, [0, -1]].max() < 1e-6
    between = slice(2, -22)  # above the first peak, and below the last
    torch.testing.assert_close(bands.sum(0)[between], torch.ones(513)[between])


@pytest.mark.parametrize("band", [5, 20, 40, 60])
def test_a_tone_is_loudest_in_its_band(band: int) -> None:
    peak = hertz((band + 1) * 2595 * np.log10(1 + 8000 / 700) / 65)
    image = _mel.images(tone(peak, 10_000)[None])[0, 0]
    assert (image[:, 1:-1].argmax(0) == band).all()


def test_half_a_decibel_is_a_level() -> None:
    loud, less = (_mel.images(tone(1000, a)[None])[0, 0, 22:27, 5:-5] for a in (20_000, 2_000))
    assert np.abs(loud.astype(int) - less - 40).max() <= 1


def test_a_sound_is_in_the_frames_of_its_time() -> None:
    click = np.zeros(16_000, np.int16)
    click[8000 + 125] = 30_000  # the middle of frame 32
    image = _mel.images(click[None])[0, 0].astype(int)
    assert image[30].argmax() == 32
    assert (image[:, 31] == image[:, 33]).all()
    assert (image[:, :31] == 0).all() and (image[:, 34:] == 0).all()


def test_nothing_is_above_full_scale() -> None:
    draw = np.random.default_rng(0)
    sounds = [np.full(16_000, -32768), 32767 * np.sign(np.sin(2 * np.pi * 440 * TIME + 0.1))]
    sounds += [draw.choice([-32768, 32767], 16_000), tone(3000, 32767)]
    levels = [plain_image(sound)[:, 1:-1].max() for sound in sounds]
    assert 240 < max(levels) < 255


def test_the_noise_of_16_bits_is_at_the_lowest_levels() -> None:
    sound = np.random.default_rng(0).normal(0, 100, (4, 16_000))
    levels = np.concatenate([plain_image(x) for x in sound.round() - sound], 1)  # band, frame
    decibels = 10 * np.log10((10 ** ((levels - 255) / 20)).mean(1))
    assert decibels.min() == pytest.approx(-126, abs=1)
    assert decibels.max() == pytest.approx(-115, abs=1)
    assert _mel.images(np.zeros((1, 16_000), np.int16)).max() == 0
