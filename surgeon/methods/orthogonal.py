"""New filters for those that RePr dropped: orthogonal to what each was, and to the filters that its layer kept.

A layer's filters often span all that there is to span, or leave less room than there are filters to place. Three
cases, from the exact to the best there is:

- There is room for all: the new filters are an orthonormal set, orthogonal to every kept and every dropped filter.
- The kept filters leave some room: every new filter lies in it, orthogonal to its own past; they are spread over it.
- They leave none: the new filters take the directions that are covered least.

How much rows cover a direction u (of norm 1) is the sum of their squared cosines with it, `u^T G u` with the Gram
matrix G of the normalized rows; so the directions covered least are the eigenvectors of its smallest eigenvalues.

Source: Prakash et al., RePr: Improved Training of Convolutional Filters, section 4 and algorithm 1; the paper finds the
null space by a QR decomposition, and does not say what to do where there is none.
"""

import torch
from torch import Tensor

SURVIVING = 0.25
"""A direction is good for a filter where so much of its squared norm is left without what the filter has to avoid.

Of the directions of a basis, the best always keeps one half or more, as no more than half of the dimensions are taken
at a time.
"""

SAME = 1 - 1e-9
"""Beyond this cosine two filters are the same."""

NOTHING = 1e-12
"""Below this length, in double precision, what is left of a vector of norm 1 has no direction."""


def orthogonal_filters(kept: Tensor, past: Tensor, generator: torch.Generator) -> Tensor:
    """Find new filters in the place of dropped ones.

    Each is orthogonal to all kept filters and to its own past wherever a direction is, except that no two of them get
    the only one there is: it goes to the first of those that have no other. In few dimensions, up to three, filters
    that have to overlap may coincide.

    Args:
        kept: `[m, n]`, the layer's other filters as they are now, m ≥ 0, of any floating-point type. Rows of zeros, or
            with values that are not finite, have no direction and stand in nobody's way.
        past: `[d, n]`, the dropped filters as they were, d ≥ 1, n ≥ 1; likewise.
        generator: on the CPU; the same state gives the same filters.

    Returns:
        float64 `[d, n]` on the CPU, rows of norm 1.

    Source: Prakash et al., RePr: Improved Training of Convolutional Filters, section 4.
    """
    kept, past = _directions(kept), _directions(past)
    count, size = past.shape
    if len(kept) + 2 * count <= size:
        return _with_room_for_all(torch.cat([kept, past]), count, generator)
    found = past.new_zeros(count, size)
    room = _null_space(kept)
    left = list(range(count))
    if room.shape[1]:
        # Where all of its directions are alike, the decompositions would take its axes.
        room = room @ _turn(room.shape[1], generator)
        placed, left = _spread(past @ room, generator)
        found = placed @ room.T
    _cover_least(found, left, kept, past, generator)
    return found


def _directions(rows: Tensor) -> Tensor:
    """Return rows of norm 1 in float64, or of zeros where there is no direction."""
    rows = rows.detach().to("cpu", torch.float64)
    rows = torch.where(rows.isfinite().all(1, keepdim=True), rows, 0.0)
    # The squares of numbers that a float64 holds may be too large or too small for it.
    largest = rows.abs().amax(1, keepdim=True)
    rows = torch.where(largest > 0, rows / largest, 0.0)
    return torch.nn.functional.normalize(rows, dim=1)


def _with_room_for_all(rows: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return `[count, n]` orthonormal rows, orthogonal to all rows `[r, n]`, r + count ≤ n."""
    spanned = torch.linalg.qr(rows.T).Q
    found = torch.randn(rows.shape[1], count, dtype=torch.float64, generator=generator)
    for _ in range(2):  # Once leaves the rounding errors of the part that was taken away.
        found = found - spanned @ (spanned.T @ found)
    return torch.linalg.qr(found).Q.T.contiguous()


def _null_space(rows: Tensor) -> Tensor:
    """Return an orthonormal basis `[n, q]` of what is orthogonal to all rows `[m, n]`, q ≥ 0.

    What counts as zero is what the rounding of the decomposition can make of zero; a Gram matrix would square it.
    """
    count, size = rows.shape
    if not count:
        return torch.eye(size, dtype=torch.float64)
    if count > size:
        rows = torch.linalg.qr(rows, mode="r").R
    _, values, directions = torch.linalg.svd(rows, full_matrices=True)
    tolerance = values[0] * max(count, size) * torch.finfo(torch.float64).eps
    return directions[int((values > tolerance).sum()) :].T


def _spread(own: Tensor, generator: torch.Generator) -> tuple[Tensor, list[int]]:
    """Place filters in the room that the kept ones left, each orthogonal to its own past, far from each other.

    They are placed a few at a time, in the directions that all pasts and the filters placed before cover least.

    Args:
        own: `[d, q]`, in coordinates of the room, the part of each filter's past that lies there; at most of norm 1.
        generator: on the CPU.

    Returns:
        The filters `[d, q]` in the same coordinates, of norm 1, and the numbers of those for which no direction was
        left, whose rows are zero.
    """
    count, size = own.shape
    covered = own.T @ own
    placed, left = own.new_zeros(count, size), []
    for batch in torch.arange(count).split(max(1, size // 2)):
        basis = _least_covered(covered, len(batch), generator)
        pasts, before = own @ basis, placed @ basis
        first = int(batch[0])
        for number in batch.tolist():
            chance = torch.randn(size, dtype=torch.float64, generator=generator)
            found = _free_direction(pasts[number], before[first:number], chance, before[:number])
            if found is None:
                left.append(number)
            else:
                before[number] = found * _signs(1, generator)
        placed[batch] = before[batch] @ basis.T
        covered = covered + placed[batch].T @ placed[batch]
    return placed, left


def _free_direction(past: Tensor, neighbours: Tensor, chance: Tensor, others: Tensor) -> Tensor | None:
    """Return the first good axis, or a direction by chance, less what a filter has to avoid; None if none is new.

    Args:
        past: `[q]`, what the filter was.
        neighbours: `[k, q]` of norm 1 (or 0) and orthogonal to each other, k < q / 2 or 0; it gets orthogonal to them.
        chance: `[q]`, another direction.
        others: `[p, q]` of norm 1 (or 0), none of which it may be.
    """
    avoided = torch.cat([neighbours, _unit(_without(past, neighbours))[None]])
    good = (1 - avoided.square().sum(0) >= SURVIVING).nonzero()
    axis = torch.zeros_like(past)
    axis[good[:1]] = 1
    for direction in (axis, chance):
        # Once leaves the rounding errors of the part that was taken away.
        found = _unit(_without(_unit(_without(direction, avoided)), avoided))
        if found.any() and not (others @ found).abs().gt(SAME).any():
            return found
    return None


def _cover_least(found: Tensor, numbers: list[int], kept: Tensor, past: Tensor, generator: torch.Generator) -> None:
    """Fill the named rows of `found` with directions that kept filters, own pasts and new filters cover least.

    Args:
        found: `[d, n]`, the new filters so far, zeros in the rows to fill.
        numbers: of these rows.
        kept: `[m, n]` of norm 1 or 0.
        past: `[d, n]` likewise.
        generator: on the CPU.
    """
    if not numbers:
        return
    covered = kept.T @ kept + found.T @ found
    for batch in torch.tensor(numbers).split(max(1, found.shape[1] // 2)):
        own = covered + past[batch].T @ past[batch]
        basis = _least_covered(own, len(batch), generator)
        found[batch] = _signs(len(batch), generator)[:, None] * basis[:, : len(batch)].T
        covered = covered + found[batch].T @ found[batch]


def _least_covered(covered: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return a Gram matrix's eigenvectors `[n, n]`, the least covered first, the first `count` turned among themselves.

    Turned, they are covered no more in sum, and batch after batch can take the same room without repeating a filter.
    """
    basis = torch.linalg.eigh(covered).eigenvectors
    if count > 1:
        basis[:, :count] = basis[:, :count] @ _turn(count, generator)
    return basis


def _turn(size: int, generator: torch.Generator) -> Tensor:
    """Return a random orthogonal matrix `[size, size]`."""
    return torch.linalg.qr(torch.randn(size, size, dtype=torch.float64, generator=generator)).Q


def _signs(count: int, generator: torch.Generator) -> Tensor:
    return 2.0 * torch.randint(2, (count,), generator=generator).double() - 1


def _without(vector: Tensor, rows: Tensor) -> Tensor:
    """Return a vector `[q]` less its parts along orthonormal rows (or zeros) `[k, q]`."""
    return vector - (rows @ vector) @ rows


def _unit(vector: Tensor) -> Tensor:
    norm = vector.norm()
    return vector / norm if norm > NOTHING else torch.zeros_like(vector)
