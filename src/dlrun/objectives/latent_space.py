"""Samples from a latent space: reconstructions, interpolations, grids, planes and clusters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from dlrun.config.annotations import Count, Fraction, Natural, Positive
from dlrun.core.errors import UserError, format_names
from dlrun.core.objective import ImageGrid, ScatterPlot
from dlrun.objectives.display_rows import DisplayRows, build_point_groups, find_target_with_labels


@dataclass(frozen=True)
class LatentCodes:
    """Sample generators over held-out rows, or over training rows where none are held out.

    Attributes:
        rows: The rows.
        encode: Rows (B, *shape) → codes (B, latent).
        decode: Codes → values like those of the rows.
        damage: What is done to rows before they are encoded, of a denoising autoencoder.
    """

    rows: DisplayRows
    encode: Callable[[Tensor], Tensor]
    decode: Callable[[Tensor], Tensor]
    damage: Callable[[Tensor], Tensor] | None = None

    def reconstructions(self, *, count: Count = 10) -> Iterator[ImageGrid]:
        """Images above, reconstructions below, and between them corrupted images, if any."""
        rows = self.rows.pick_evenly(count)
        inputs = self.rows.get_inputs(rows)
        image_rows = [inputs]
        description = (
            f"above: {len(inputs)} {self.rows.description}; below: what comes back of their codes"
        )
        if self.damage is not None:
            image_rows.append(self.damage(inputs))
            description = description.replace("; below", "; between: what was encoded; below")
        yield ImageGrid(
            torch.cat([*image_rows, self.decode(self.encode(image_rows[-1]))]),
            len(inputs),
            description,
        )

    def interpolation(
        self, *, first: Natural = 0, last: Natural = 1, steps: Count = 10
    ) -> Iterator[ImageGrid]:
        """Images on the straight line between the codes of two rows.

        Args:
            first: Number of the first row.
            last: Number of the last row.
            steps: Images on the line, both ends included.
        """
        start, end = self.encode(self.rows.get_inputs(self.rows.to_indices([first, last])))
        weights = torch.linspace(0, 1, max(2, steps), device=start.device)[:, None]
        description = (
            f"from row {first} to row {last} of the {self.rows.description}, on a straight line "
            "between their codes"
        )
        yield ImageGrid(self.decode(torch.lerp(start, end, weights)), len(weights), description)

    def concept(
        self,
        *,
        label: str,
        against: str = "",
        row: Natural = 0,
        strength: list[float] = [-1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0],  # noqa: B006
        target: str = "",
    ) -> Iterator[ImageGrid]:
        """A row with a concept vector added to its code, several times.

        The vector leads from the mean code of the rows of label `against` to that of `label`.

        Args:
            label: Label that is added.
            against: Label that is taken away; '' for all others.
            row: Number of the row.
            strength: How many times the vector is added, one image each.
            target: Whose labels, where there are several.
        """
        name = find_target_with_labels(self.rows.fields, target)
        rows = self.rows.pick_evenly(self.rows.MAX_ROWS)
        row_labels, names = self.rows.get_label_groups(name, rows)
        codes = self.encode_rows(rows)
        direction = mean_difference(codes, *label_masks(row_labels, names, label, against))
        code = self.encode(self.rows.get_inputs(self.rows.to_indices([row])))
        amounts = torch.tensor(strength or [1.0], device=code.device)[:, None]
        other_name = against or "all others"
        description = (
            f"row {row} of the {self.rows.description} with the direction '{name}' {label} less "
            f"{other_name}, times {strength}"
        )
        yield ImageGrid(self.decode(code + amounts * direction), len(amounts), description)

    def plane(self, *, count: Count = 2000, target: str = "") -> Iterator[ScatterPlot]:
        """The codes of so many rows as points, a color for each label.

        Longer codes by two components of PCA.
        """
        rows = self.rows.pick_evenly(count)
        groups, names, grouping = build_point_groups(self.rows, target, rows)
        positions, axes, projection = project_to_plane(self.encode_rows(rows))
        yield ScatterPlot(
            positions,
            groups,
            names,
            axes,
            f"codes of {len(rows)} {self.rows.description}{grouping}{projection}",
        )

    def clusters(
        self, *, k: Natural = 0, count: Count = 2000, target: str = ""
    ) -> Iterator[ScatterPlot]:
        """The codes of so many rows in k clusters (k-means), with silhouette and adjusted Rand
        index.

        Args:
            k: 0 for as many as there are labels, or 8.
            count: Rows.
            target: Whose labels.
        """
        rows = self.rows.pick_evenly(count)
        codes = self.encode_rows(rows)
        groups, labels, _ = build_point_groups(self.rows, target, rows, numbers=False)
        k = k or (len(labels) if len(labels) > 1 else 8)
        cluster_of_row, quality = cluster_codes(codes, groups if len(labels) > 1 else None, k)
        positions, axes, projection = project_to_plane(codes)
        description = (
            f"codes of {len(rows)} {self.rows.description} in {k} clusters (k-means): "
            f"{quality}{projection}"
        )
        yield ScatterPlot(
            positions,
            cluster_of_row,
            tuple(f"cluster {number + 1}" for number in range(k)),
            axes,
            description,
        )

    def encode_rows(self, rows: Tensor) -> Tensor:
        """The codes of these rows (N, latent), a few hundred rows at a time."""
        return torch.cat([self.encode(self.rows.get_inputs(chunk)) for chunk in rows.split(256)])


def mean_difference(codes: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """From the mean of the other codes to the mean of some; the two are masks (N,)."""
    return codes[first].mean(0) - codes[second].mean(0)


def label_masks(
    row_labels: Tensor, names: tuple[str, ...], label: str, against: str
) -> tuple[Tensor, Tensor]:
    """The rows of a label, and those of another, or all others, as masks (N,).

    Raises:
        UserError: if a label does not exist or has no row.
    """
    for name in filter(None, (label, against)):
        if name not in names:
            raise UserError(f"no label '{name}'; there are: {format_names(names, name)}")
    if label == against:
        raise UserError(f"label={label} against={against}: there is no way from a label to itself")
    first = row_labels == names.index(label)
    second = row_labels == names.index(against) if against else ~first
    for mask, name in ((first, label), (second, against or f"other than {label}")):
        if not mask.any():
            raise UserError(f"none of the {len(row_labels)} rows looked at is {name}")
    return first, second


def project_to_plane(codes: Tensor) -> tuple[Tensor, tuple[str, str], str]:
    """Codes as positions in a plane (N, 2), the names of its axes, a phrase on the projection."""
    width = codes.shape[1]
    if width == 1:
        return torch.cat([codes, torch.zeros_like(codes)], 1), ("code 1", ""), ""
    if width == 2:
        return codes, ("code 1", "code 2"), ""
    from sklearn.decomposition import PCA  # type: ignore[import-untyped]

    if len(codes) < 2:
        raise UserError(f"{len(codes)} row: principal components need two or more")
    pca = PCA(2).fit(codes.double().cpu().numpy())
    share = pca.explained_variance_ratio_.sum()
    description = (
        f"; of {width} numbers the two principal components, which hold {share:.0%} of the variance"
    )
    return (
        torch.from_numpy(pca.transform(codes.double().cpu().numpy())),
        ("component 1", "component 2"),
        description,
    )


def cluster_codes(codes: Tensor, labels: Tensor | None, k: int) -> tuple[Tensor, str]:
    """The cluster of each code (N,), and their quality in words.

    Raises:
        UserError: if k is below 2 or too large, or all codes are the same.
    """
    from sklearn.cluster import KMeans  # type: ignore[import-untyped]
    from sklearn.metrics import adjusted_rand_score, silhouette_score  # type: ignore[import-untyped]

    if not 2 <= k < len(codes):
        raise UserError(f"k={k}: {len(codes)} rows can be put into 2 to {len(codes) - 1} clusters")
    points = codes.double().cpu().numpy()
    # Drawn from torch's generator: a function of the sample's seed, as all else is.
    seed = int(torch.randint(2**31 - 1, ()))
    cluster_of_row = KMeans(k, n_init=10, random_state=seed).fit_predict(points)
    if len(set(cluster_of_row.tolist())) < 2:
        raise UserError("all codes are the same: there are no clusters in them")
    # No labels are needed for it: near 1 is well separated, below 0 misplaced.
    quality = f"silhouette {silhouette_score(points, cluster_of_row):.3f}"
    if labels is not None:
        agreement = adjusted_rand_score(labels.cpu().numpy(), cluster_of_row)
        quality += f", adjusted Rand index with the labels {agreement:.3f}"
    return torch.from_numpy(cluster_of_row).long(), quality


@dataclass(frozen=True)
class LatentSampler:
    """Sample generators that draw codes instead of encoding rows.

    Attributes:
        decode: Codes (N, latent) on the device → images (N, C, H, W), pixels from 0 to 1.
        latent: Numbers of a code.
        device: Of the decoder.
    """

    decode: Callable[[Tensor], Tensor]
    latent: int
    device: torch.device

    def samples(
        self, *, count: Count = 64, columns: Count = 8, spread: Positive = 1.0
    ) -> Iterator[ImageGrid]:
        """Images of random codes, from a normal distribution of this spread (trained for: 1)."""
        codes = spread * torch.randn(count, self.latent)
        description = (
            f"{count} images of codes drawn from a normal distribution of spread {spread:g}"
        )
        yield ImageGrid(self.decode(codes.to(self.device)), columns, description)

    def grid(
        self,
        *,
        side: Count = 15,
        low: Fraction = 0.05,
        high: Fraction = 0.95,
        across: Count = 1,
        down: Count = 2,
    ) -> Iterator[ImageGrid]:
        """Images of a grid of codes, at quantiles of the normal distribution (book §8.4).

        Args:
            side: Images on each side.
            low: Lowest quantile.
            high: Highest quantile.
            across: Number of the code, from 1, that changes along a row; numbers not named are 0.
            down: Number of the code that changes along a column.
        """
        if across == down or max(across, down) > self.latent:
            allowed = f"two different numbers of the code, from 1 to {self.latent}"
            raise UserError(f"across={across} down={down}: they must be {allowed}")
        if not 0 < low <= high < 1:
            raise UserError(
                f"low={low} high={high}: quantiles must lie between 0 and 1, the lower one first"
            )
        quantiles = torch.distributions.Normal(0.0, 1.0).icdf(torch.linspace(low, high, side))
        codes = torch.zeros(side * side, self.latent)
        codes[:, across - 1], codes[:, down - 1] = (
            quantiles.repeat(side),
            # Larger values are further up, as in a plot.
            quantiles.flip(0).repeat_interleave(side),
        )
        description = (
            f"images of codes: number {across} grows to the right, {down} upwards, quantiles "
            f"{low:g} to {high:g}"
        )
        yield ImageGrid(self.decode(codes.to(self.device)), side, description)
