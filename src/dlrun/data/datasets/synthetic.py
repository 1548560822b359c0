"""Small SYNTHETIC samples in the shapes of official datasets, for trials without a network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dlrun.core.dataset import Ragged, RawColumns

if TYPE_CHECKING:
    from dlrun.data.tabular.csv_file import CsvTable

# A property of the samples, not of the run: they are the same in every run.
SEED = 113
DEV_ROWS, TEST_ROWS = 600, 120
VOCABULARY = 2000
NUM_IMAGES = 120
COMMON_WORDS = (
    "the a an of in on and but with this that it was is were film movie story scene actor actress "
    "plot ending music camera director cast script character dialogue first second last long short "
    "night house city family love war we they she he you saw watched thought felt knew never "
    "always really quite almost again then there here when"
)
OPINION_WORDS = (  # negative and positive ones
    "boring dreadful awful poor dull weak worst wooden tedious messy silly bland clumsy lazy flat",
    "wonderful great superb moving brilliant lovely best gripping charming clever fresh perfect "
    "warm funny rich",
)


def sample_note(name: str) -> str:
    """Return the line that stands beside every result on a sample."""
    return f"SYNTHETIC sample, not the real {name}: its figures say nothing about {name}"


def generate_images(task: str, target: str, split: str) -> RawColumns:
    """Draw ten blurred patterns, shifted and noisy.

    Args:
        task: Name of the dataset, which determines the patterns.
        target: Name of the target column.
        split: 'train', or any other name for test rows.

    Returns:
        `image` uint8 (N, 1, 28, 28), and classes (N,) under the target's name.
    """
    # Patterns of their own for each dataset, the same ones for training and test rows.
    pattern_random = np.random.RandomState(SEED + len(task))
    patterns = (pattern_random.rand(10, 6, 6) > 0.55).repeat(4, 1).repeat(4, 2)
    count, seed = (DEV_ROWS, SEED) if split == "train" else (TEST_ROWS, SEED + 1)
    random = np.random.RandomState(seed)
    labels = random.permutation(np.arange(count) % 10)
    images = np.zeros((count, 28, 28))
    for row, (down, right) in enumerate(random.randint(0, 5, (count, 2))):
        images[row, down : down + 24, right : right + 24] = patterns[labels[row]]
    # Contrast differs between images, and noise between pixels.
    images = 200 * images * random.uniform(0.6, 1, (count, 1, 1)) + random.normal(
        0, 25, images.shape
    )
    return {"image": images.clip(0, 255).astype(np.uint8)[:, None], target: labels.astype(np.int64)}


def generate_word_lists(split: str) -> tuple[Ragged, np.ndarray]:
    """Draw word lists with words of the positive (20 to 39) or negative (40 to 59), and classes."""
    count, seed = (DEV_ROWS, SEED) if split == "train" else (TEST_ROWS, SEED + 1)
    random = np.random.RandomState(seed)
    labels = random.permutation(np.arange(count) % 2)
    return _draw_word_lists(random, labels, np.array([40, 20]), 20), labels.astype(np.int64)


def generate_class_word_lists(topics: int) -> tuple[Ragged, np.ndarray]:
    """Draw word lists with five words of their topic alone, and topics, 3 the most frequent."""
    random = np.random.RandomState(SEED)
    # Topic 3 of Reuters, earn, is the most frequent one there too.
    frequency = 1 / (1 + np.abs(np.arange(topics) - 3.0))
    labels = random.choice(topics, DEV_ROWS + TEST_ROWS, p=frequency / frequency.sum())
    # Each topic at least once: rare ones might not be drawn.
    labels[:topics] = np.arange(topics)
    return _draw_word_lists(random, labels, 20 + 5 * np.arange(topics), 5), labels.astype(np.int64)


def _draw_word_lists(
    random: np.random.RandomState, labels: np.ndarray, first: np.ndarray, num_special: int
) -> Ragged:
    """Draw common words and a class's own words, `num_special` from number first[class] on."""
    lengths = random.randint(15, 60, len(labels))
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    # Few words are frequent and many are rare, as in a language.
    common = (VOCABULARY ** random.rand(offsets[-1])).astype(np.int32)
    special = np.repeat(first[labels], lengths) + random.randint(0, num_special, offsets[-1])
    values = np.where(random.rand(offsets[-1]) < 0.12, special, common)
    return Ragged(values.astype(np.int32), offsets)


def generate_boston() -> tuple[np.ndarray, np.ndarray]:
    """Draw 13 columns (506, 13) of different scales, and prices (506,) in k$ that follow."""
    random = np.random.RandomState(SEED)
    columns = random.normal(size=(506, 13))
    prices = (
        22
        + columns[:, :5] @ np.array([3.0, -2.0, 4.0, 1.0, -1.5])
        + 2 * np.tanh(columns[:, 0] * columns[:, 1])
    )
    prices = (prices + random.normal(0, 1.5, 506)).clip(5, 50)
    # Scales and offsets that differ, so that scaling matters as it does for the real table.
    return columns * np.geomspace(0.1, 100, 13) + np.arange(13), prices


def generate_california(columns: tuple[str, ...]) -> CsvTable:
    """Draw a table with these columns, and 1 % missing bedrooms.

    Args:
        columns: Column names; the last but one is the target, the last a category.
    """
    random = np.random.RandomState(SEED)
    count = DEV_ROWS + TEST_ROWS
    categories = np.array(["<1H OCEAN", "INLAND", "NEAR BAY", "NEAR OCEAN"])[
        random.randint(0, 4, count)
    ]
    numbers = random.lognormal(1.5, 0.5, (count, len(columns) - 2))
    target = (
        60_000
        + 35_000 * numbers[:, -1]
        + 50_000 * (categories != "INLAND")
        + random.normal(0, 20_000, count)
    )
    table = {
        name: [f"{number:.4f}" for number in numbers[:, index]]
        for index, name in enumerate(columns[:-2])
    }
    for row in random.choice(count, count // 100, replace=False):
        table["total_bedrooms"][row] = ""
    # As in the real table, prices are capped at 500,001.
    table[columns[-2]] = [f"{number:.0f}" for number in target.clip(15_000, 500_001)]
    table[columns[-1]] = categories.tolist()
    # Line numbers begin at 2, as in a file whose first line is the header.
    from dlrun.data.tabular.csv_file import CsvTable

    return CsvTable("the synthetic sample", table, list(range(2, count + 2)))


def generate_shapes(
    split: str, channels: int, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Draw bright discs (0) and crosses (1) of any color, position and size on noise.

    Args:
        split: 'train', or any other name for test rows.
        channels: Channels C of the images.
        size: Height H and width W.

    Returns:
        Images uint8 (N, C, H, W), and classes (N,).
    """
    count, seed = (NUM_IMAGES, SEED) if split == "train" else (NUM_IMAGES // 3, SEED + 1)
    random = np.random.RandomState(seed)
    labels = np.arange(count) % 2
    ys, xs = np.mgrid[0 : size[0], 0 : size[1]]
    images = np.empty((count, channels, *size), np.uint8)
    for row, label in enumerate(labels):
        radius = random.uniform(0.15, 0.3) * min(size)
        # The order of the draws is part of the sample: other values come of another order.
        distances = (
            np.abs(ys - random.uniform(0.3, 0.7) * size[0]),
            np.abs(xs - random.uniform(0.3, 0.7) * size[1]),
        )
        cross = (np.minimum(*distances) < radius / 3) & (np.maximum(*distances) < 1.3 * radius)
        shape = cross if label else distances[0] ** 2 + distances[1] ** 2 < radius**2
        # Before noise, the brightest background is darker than the darkest shape.
        colors = (
            random.randint(0, 110, (channels, 1, 1)),
            random.randint(140, 256, (channels, 1, 1)),
        )
        noise = random.randint(-20, 21, size)
        images[row] = (np.where(shape, colors[1], colors[0]) + noise).clip(0, 255)
    return images, labels.astype(np.int64)


def generate_texts(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Draw sentences of common words, with words of praise or of blame: texts and classes (N,)."""
    count, seed = (DEV_ROWS, SEED) if split == "train" else (TEST_ROWS, SEED + 1)
    random = np.random.RandomState(seed)
    labels = np.arange(count) % 2
    texts = np.empty(count, object)
    for row, label in enumerate(labels):
        words = random.choice(COMMON_WORDS.split(), random.randint(15, 60))
        is_opinion = random.rand(len(words)) < 0.12
        words[is_opinion] = random.choice(OPINION_WORDS[label].split(), is_opinion.sum())
        breaks = sorted(random.choice(np.arange(3, len(words)), 2, replace=False))
        sentences = (" ".join(sentence) for sentence in np.split(words, breaks))
        texts[row] = " ".join(f"{sentence.capitalize()}." for sentence in sentences)
    return texts, labels.astype(np.int64)
