"""Small SYNTHETIC stand-ins of the same shape as official datasets, for trying things out without a network."""

from __future__ import annotations

import numpy as np

from dlrun.core.dataset import Ragged, RawColumns
from dlrun.data.tabular.csv_file import CsvTable

SEED = 113
DEV_ROWS, TEST_ROWS = 600, 120
VOCABULARY = 2000
NUM_IMAGES = 120
COMMON_WORDS = (
    "the a an of in on and but with this that it was is were film movie story scene actor actress plot ending music "
    "camera director cast script character dialogue first second last long short night house city family love war we "
    "they she he you saw watched thought felt knew never always really quite almost again then there here when"
)
OPINION_WORDS = (  # words of blame, and of praise
    "boring dreadful awful poor dull weak worst wooden tedious messy silly bland clumsy lazy flat",
    "wonderful great superb moving brilliant lovely best gripping charming clever fresh perfect warm funny rich",
)


def sample_note(name: str) -> str:
    """The line that stands beside every result on a sample."""
    return f"SYNTHETIC sample, not the real {name}: its figures say nothing about {name}"


def generate_images(task: str, target: str, split: str) -> RawColumns:
    """Ten blurred patterns, moved about and noisy: uint8 (N, 1, 28, 28) and classes (N,)."""
    shapes = np.random.RandomState(SEED + len(task))
    patterns = (shapes.rand(10, 6, 6) > 0.55).repeat(4, 1).repeat(4, 2)
    count, seed = (DEV_ROWS, SEED) if split == "train" else (TEST_ROWS, SEED + 1)
    random = np.random.RandomState(seed)
    labels = random.permutation(np.arange(count) % 10)
    drawn = np.zeros((count, 28, 28))
    for row, (down, right) in enumerate(random.randint(0, 5, (count, 2))):
        drawn[row, down : down + 24, right : right + 24] = patterns[labels[row]]
    drawn = 200 * drawn * random.uniform(0.6, 1, (count, 1, 1)) + random.normal(0, 25, drawn.shape)
    return {"image": drawn.clip(0, 255).astype(np.uint8)[:, None], target: labels.astype(np.int64)}


def generate_word_lists(split: str) -> tuple[Ragged, np.ndarray]:
    """Word lists in which words 20 to 39 are said by the pleased and 40 to 59 by the others, and who is pleased."""
    count, seed = (DEV_ROWS, SEED) if split == "train" else (TEST_ROWS, SEED + 1)
    random = np.random.RandomState(seed)
    labels = random.permutation(np.arange(count) % 2)
    return _draw_word_lists(random, labels, np.array([40, 20]), 20), labels.astype(np.int64)


def generate_class_word_lists(topics: int) -> tuple[Ragged, np.ndarray]:
    """Word lists with five words that only their topic uses; topics of falling frequency, topic 3 the most frequent."""
    random = np.random.RandomState(SEED)
    frequency = 1 / (1 + np.abs(np.arange(topics) - 3.0))
    labels = random.choice(topics, DEV_ROWS + TEST_ROWS, p=frequency / frequency.sum())
    labels[:topics] = np.arange(topics)
    return _draw_word_lists(random, labels, 20 + 5 * np.arange(topics), 5), labels.astype(np.int64)


def _draw_word_lists(
    random: np.random.RandomState, labels: np.ndarray, first: np.ndarray, own: int
) -> Ragged:
    """Lists of common words and of the class's `own` words, which begin with number first[class]."""
    lengths = random.randint(15, 60, len(labels))
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    common = (VOCABULARY ** random.rand(offsets[-1])).astype(
        np.int32
    )  # few words are frequent, as in a language
    special = np.repeat(first[labels], lengths) + random.randint(0, own, offsets[-1])
    values = np.where(random.rand(offsets[-1]) < 0.12, special, common)
    return Ragged(values.astype(np.int32), offsets)


def generate_boston() -> tuple[np.ndarray, np.ndarray]:
    """13 random columns (506, 13) of different scales, and prices (506,) in k$ that follow from five of them."""
    random = np.random.RandomState(SEED)
    columns = random.normal(size=(506, 13))
    prices = (
        22
        + columns[:, :5] @ np.array([3.0, -2.0, 4.0, 1.0, -1.5])
        + 2 * np.tanh(columns[:, 0] * columns[:, 1])
    )
    prices = (prices + random.normal(0, 1.5, 506)).clip(5, 50)
    return columns * np.geomspace(0.1, 100, 13) + np.arange(13), prices


def generate_california(columns: tuple[str, ...]) -> CsvTable:
    """A table with the given columns (the last but one the target, the last a text), and 1 % missing bedrooms."""
    random = np.random.RandomState(SEED)
    count = DEV_ROWS + TEST_ROWS
    places = np.array(["<1H OCEAN", "INLAND", "NEAR BAY", "NEAR OCEAN"])[
        random.randint(0, 4, count)
    ]
    numbers = random.lognormal(1.5, 0.5, (count, len(columns) - 2))
    value = (
        60_000
        + 35_000 * numbers[:, -1]
        + 50_000 * (places != "INLAND")
        + random.normal(0, 20_000, count)
    )
    table = {
        name: [f"{number:.4f}" for number in numbers[:, place]]
        for place, name in enumerate(columns[:-2])
    }
    for row in random.choice(count, count // 100, replace=False):
        table["total_bedrooms"][row] = ""
    table[columns[-2]] = [f"{number:.0f}" for number in value.clip(15_000, 500_001)]
    table[columns[-1]] = places.tolist()
    return CsvTable("the synthetic sample", table, list(range(2, count + 2)))


def generate_shapes(
    split: str, channels: int, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Bright discs (0) and crosses (1) of any colour, place and size before noise: uint8 (N, C, H, W) and classes."""
    count, seed = (NUM_IMAGES, SEED) if split == "train" else (NUM_IMAGES // 3, SEED + 1)
    random = np.random.RandomState(seed)
    labels = np.arange(count) % 2
    down, right = np.mgrid[0 : size[0], 0 : size[1]]
    drawn = np.empty((count, channels, *size), np.uint8)
    for row, label in enumerate(labels):
        radius = random.uniform(0.15, 0.3) * min(size)
        far = (
            np.abs(down - random.uniform(0.3, 0.7) * size[0]),
            np.abs(right - random.uniform(0.3, 0.7) * size[1]),
        )
        cross = (np.minimum(*far) < radius / 3) & (np.maximum(*far) < 1.3 * radius)
        shape = cross if label else far[0] ** 2 + far[1] ** 2 < radius**2
        colours = (
            random.randint(0, 110, (channels, 1, 1)),
            random.randint(140, 256, (channels, 1, 1)),
        )
        noise = random.randint(-20, 21, size)
        drawn[row] = (np.where(shape, colours[1], colours[0]) + noise).clip(0, 255)
    return drawn, labels.astype(np.int64)


def generate_texts(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Sentences of common words in which the pleased use words of praise and the others of blame: texts and classes."""
    count, seed = (DEV_ROWS, SEED) if split == "train" else (TEST_ROWS, SEED + 1)
    random = np.random.RandomState(seed)
    labels = np.arange(count) % 2
    found = np.empty(count, object)
    for row, label in enumerate(labels):
        words = random.choice(COMMON_WORDS.split(), random.randint(15, 60))
        told = random.rand(len(words)) < 0.12
        words[told] = random.choice(OPINION_WORDS[label].split(), told.sum())
        cut = sorted(random.choice(np.arange(3, len(words)), 2, replace=False))
        parts = (" ".join(part) for part in np.split(words, cut))
        found[row] = " ".join(f"{part.capitalize()}." for part in parts)
    return found, labels.astype(np.int64)
