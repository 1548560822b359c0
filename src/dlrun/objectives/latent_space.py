"""Codes in a latent space: drawn, laid out on a grid, walked between, and decoded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from dlrun.config.constraints import Count, Fraction, Natural, Positive
from dlrun.core.artifacts import ImageGrid, ScatterPlot
from dlrun.core.errors import UserError, format_names
from dlrun.objectives.display_rows import DisplayRows, build_point_groups, find_target_with_labels


@dataclass(frozen=True)
class LatentCodes:
    """Makers over rows that are held out, or over training rows where none are.

    encode: rows (B, *shape) → codes (B, latent). decode: codes → values as those of the rows. damage: what is done to
    rows before they are encoded, where an encoder has learnt to undo something.
    """

    rows: DisplayRows
    encode: Callable[[Tensor], Tensor]
    decode: Callable[[Tensor], Tensor]
    damage: Callable[[Tensor], Tensor] | None = None

    def reconstructions(self, *, count: Count = 10) -> Iterator[ImageGrid]:
        """Pictures above, what comes back of them below; between them what was encoded, where it was damaged."""
        rows = self.rows.pick_evenly(count)
        x = self.rows.get_inputs(rows)
        shown, about = (
            [x],
            f"above: {len(x)} {self.rows.description}; below: what comes back of their codes",
        )
        if self.damage is not None:
            shown.append(self.damage(x))
            about = about.replace("; below", "; between: what was encoded; below")
        yield ImageGrid(torch.cat([*shown, self.decode(self.encode(shown[-1]))]), len(x), about)

    def interpolation(
        self, *, first: Natural = 0, last: Natural = 1, steps: Count = 10
    ) -> Iterator[ImageGrid]:
        """What lies between the codes of two rows, by their numbers, on a straight line of so many steps."""
        start, end = self.encode(self.rows.get_inputs(self.rows.to_indices([first, last])))
        weights = torch.linspace(0, 1, max(2, steps), device=start.device)[:, None]
        about = f"from row {first} to row {last} of the {self.rows.description}, on a straight line between their codes"
        yield ImageGrid(self.decode(torch.lerp(start, end, weights)), len(weights), about)

    def concept(
        self,
        *,
        label: str,
        against: str = "",
        row: Natural = 0,
        strength: list[float] = [-1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0],  # noqa: B006
        target: str = "",
    ) -> Iterator[ImageGrid]:
        """A row with a direction of the codes added, so many times: from the mean code of the rows of label `against`
        (all others where none is said) to that of `label`. target: whose labels, where there are several."""
        name = find_target_with_labels(self.rows.fields, target)
        rows = self.rows.pick_evenly(self.rows.MAX_ROWS)
        of, names = self.rows.get_label_groups(name, rows)
        codes = self.encode_rows(rows)
        where = mean_difference(codes, *label_masks(of, names, label, against))
        code = self.encode(self.rows.get_inputs(self.rows.to_indices([row])))
        amounts = torch.tensor(strength or [1.0], device=code.device)[:, None]
        than = against or "all others"
        about = f"row {row} of the {self.rows.description} with the direction '{name}' {label} less {than}, times {strength}"
        yield ImageGrid(self.decode(code + amounts * where), len(amounts), about)

    def plane(self, *, count: Count = 2000, target: str = "") -> Iterator[ScatterPlot]:
        """The codes of so many rows as points, a colour for each label; more than two numbers by their principal
        components."""
        rows = self.rows.pick_evenly(count)
        of, names, said = build_point_groups(self.rows, target, rows)
        positions, axes, how = project_to_plane(self.encode_rows(rows))
        yield ScatterPlot(
            positions, of, names, axes, f"codes of {len(rows)} {self.rows.description}{said}{how}"
        )

    def clusters(
        self, *, k: Natural = 0, count: Count = 2000, target: str = ""
    ) -> Iterator[ScatterPlot]:
        """The codes of so many rows in k groups (k-means; 0: as many as there are labels, or 8), and how good they are:
        the silhouette, and how well they agree with the labels, where there are some."""
        rows = self.rows.pick_evenly(count)
        codes = self.encode_rows(rows)
        of, labels, _ = build_point_groups(self.rows, target, rows, numbers=False)
        k = k or (len(labels) if len(labels) > 1 else 8)
        found, quality = cluster_codes(codes, of if len(labels) > 1 else None, k)
        positions, axes, how = project_to_plane(codes)
        about = f"codes of {len(rows)} {self.rows.description} in {k} clusters (k-means): {quality}{how}"
        yield ScatterPlot(
            positions, found, tuple(f"cluster {number + 1}" for number in range(k)), axes, about
        )

    def encode_rows(self, rows: Tensor) -> Tensor:
        """The codes of these rows (N, latent), a few hundred rows at a time."""
        return torch.cat([self.encode(self.rows.get_inputs(part)) for part in rows.split(256)])


def mean_difference(codes: Tensor, some: Tensor, others: Tensor) -> Tensor:
    """From the mean of the other codes to the mean of some; the two are masks (N,)."""
    return codes[some].mean(0) - codes[others].mean(0)


def label_masks(
    of: Tensor, names: tuple[str, ...], label: str, against: str
) -> tuple[Tensor, Tensor]:
    """The rows of a label, and those of another, or all others, as masks. Raises UserError where one has no row."""
    for name in filter(None, (label, against)):
        if name not in names:
            raise UserError(f"no label '{name}'; there are: {format_names(names, name)}")
    if label == against:
        raise UserError(f"label={label} against={against}: there is no way from a label to itself")
    some = of == names.index(label)
    others = of == names.index(against) if against else ~some
    for mask, name in ((some, label), (others, against or f"other than {label}")):
        if not mask.any():
            raise UserError(f"none of the {len(of)} rows looked at is {name}")
    return some, others


def project_to_plane(codes: Tensor) -> tuple[Tensor, tuple[str, str], str]:
    """Codes as positions in a plane (N, 2), what its axes are, and how that came about."""
    width = codes.shape[1]
    if width == 1:
        return torch.cat([codes, torch.zeros_like(codes)], 1), ("code 1", ""), ""
    if width == 2:
        return codes, ("code 1", "code 2"), ""
    from sklearn.decomposition import PCA  # type: ignore[import-untyped]

    if len(codes) < 2:
        raise UserError(f"{len(codes)} row: principal components need two or more")
    found = PCA(2).fit(codes.double().cpu().numpy())
    share = found.explained_variance_ratio_.sum()
    how = (
        f"; of {width} numbers the two principal components, which hold {share:.0%} of the variance"
    )
    return (
        torch.from_numpy(found.transform(codes.double().cpu().numpy())),
        ("component 1", "component 2"),
        how,
    )


def cluster_codes(codes: Tensor, labels: Tensor | None, k: int) -> tuple[Tensor, str]:
    """Which of k clusters each code is in, and how good they are. Raises UserError for fewer than 2 or too many."""
    from sklearn.cluster import KMeans  # type: ignore[import-untyped]
    from sklearn.metrics import adjusted_rand_score, silhouette_score  # type: ignore[import-untyped]

    if not 2 <= k < len(codes):
        raise UserError(f"k={k}: {len(codes)} rows can be put into 2 to {len(codes) - 1} clusters")
    points = codes.double().cpu().numpy()
    seed = int(torch.randint(2**31 - 1, ()))
    found = KMeans(k, n_init=10, random_state=seed).fit_predict(points)
    if len(set(found.tolist())) < 2:
        raise UserError("all codes are the same: there are no clusters in them")
    quality = f"silhouette {silhouette_score(points, found):.3f}"
    if labels is not None:
        quality += f", adjusted Rand index with the labels {adjusted_rand_score(labels.cpu().numpy(), found):.3f}"
    return torch.from_numpy(found).long(), quality


@dataclass(frozen=True)
class LatentSampler:
    """decode: codes (N, latent), on the device `place`, to pictures (N, C, H, W), pixels from 0 to 1."""

    decode: Callable[[Tensor], Tensor]
    latent: int
    device: torch.device

    def samples(
        self, *, count: Count = 64, columns: Count = 8, spread: Positive = 1.0
    ) -> Iterator[ImageGrid]:
        """Pictures of codes drawn at random, from a normal distribution of this spread (1 is what was trained for)."""
        codes = spread * torch.randn(count, self.latent)
        about = f"{count} pictures of codes drawn from a normal distribution of spread {spread:g}"
        yield ImageGrid(self.decode(codes.to(self.device)), columns, about)

    def grid(
        self,
        *,
        side: Count = 15,
        low: Fraction = 0.05,
        high: Fraction = 0.95,
        across: Count = 1,
        down: Count = 2,
    ) -> Iterator[ImageGrid]:
        """Pictures of a grid of codes, at the normal distribution's quantiles from low to high (book §8.4).

        across, down: which numbers of the code change, from 1 on; the others are 0.
        """
        if across == down or max(across, down) > self.latent:
            there = f"two different numbers of the code, from 1 to {self.latent}"
            raise UserError(f"across={across} down={down}: they must be {there}")
        if not 0 < low <= high < 1:
            raise UserError(
                f"low={low} high={high}: quantiles must lie between 0 and 1, the lower one first"
            )
        at = torch.distributions.Normal(0.0, 1.0).icdf(torch.linspace(low, high, side))
        codes = torch.zeros(side * side, self.latent)
        codes[:, across - 1], codes[:, down - 1] = (
            at.repeat(side),
            at.flip(0).repeat_interleave(side),
        )
        about = f"pictures of codes: number {across} grows to the right, {down} upwards, quantiles {low:g} to {high:g}"
        yield ImageGrid(self.decode(codes.to(self.device)), side, about)
