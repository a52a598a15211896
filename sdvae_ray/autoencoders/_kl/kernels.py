"""The Triton kernels of `fused.py`: for activations (N, C, H, W) that lie in memory as (N, H, W, C).

The variance is of deviations: every value loses first a reference of its group (the value of its first pixel), and pieces of an
image are merged by the formula of Chan, Golub and LeVeque (1979). A float32 E[x^2] - mean^2 would lose every digit on dark fields.
Pieces depend on the shape of one image alone, and nothing is added atomically, so an image has the same bits in every batch.
"""

import triton
import triton.language as tl


@triton.jit
def combine(
    one,
    other,
    bias,
    out,
    reference,
    mean,
    deviation,
    height,
    width,
    channels,
    group,
    tiles,
    SUM: tl.constexpr,
    BIAS: tl.constexpr,
    STORE: tl.constexpr,
    PAD: tl.constexpr,
    MOMENTS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Read one piece of an image: `one`, or with SUM `one + other`, plus the bias. Write it (STORE) and its moments (MOMENTS).

    Every place of a tile keeps a running mean and sum of squared deviations over the tiles (Welford 1962), so that nothing is
    summed across threads before the end.
    """
    piece, image = tl.program_id(0), tl.program_id(1).to(tl.int64)
    column, lane = tl.arange(0, BLOCK), tl.arange(0, ROWS)
    inside, pixels = column < channels, height * width
    start = image * pixels * channels
    added, origin = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32)
    if BIAS:
        added += tl.load(bias + column, mask=inside, other=0.0)
    if MOMENTS:
        first = (column // group) * group
        origin += tl.load(one + start + first, mask=inside, other=0.0).to(tl.float32)
        if SUM:
            origin += tl.load(other + start + first, mask=inside, other=0.0).to(tl.float32)
        if BIAS:
            origin += tl.load(bias + first, mask=inside, other=0.0)
        if piece == 0:
            tl.store(reference + image * channels + column, origin, mask=inside)
    begin = piece * tiles * ROWS + lane
    centre, spread = tl.zeros([ROWS, BLOCK], tl.float32), tl.zeros([ROWS, BLOCK], tl.float32)
    for tile in range(tiles):
        row = begin + tile * ROWS
        mask = (row < pixels)[:, None] & inside[None, :]
        place = start + row.to(tl.int64)[:, None] * channels + column[None, :]
        value = tl.load(one + place, mask=mask, other=0.0).to(tl.float32)
        if SUM:
            value += tl.load(other + place, mask=mask, other=0.0).to(tl.float32)
        value += added[None, :]
        if STORE:
            target = row
            if PAD:
                target = (row // width) * (width + 1) + row % width
            area = (height + PAD) * (width + PAD)
            stored = value.to(out.dtype.element_ty)
            tl.store(
                out + image * area * channels + target.to(tl.int64)[:, None] * channels + column[None, :],
                stored,
                mask=mask,
            )
            value = stored.to(tl.float32)
        if MOMENTS:
            shifted = value - origin[None, :]
            delta = tl.where(mask, shifted - centre, 0.0)
            centre += delta / (tile + 1)
            spread += delta * (shifted - centre)
    if MOMENTS:
        count = tl.minimum(tl.maximum((pixels - begin + ROWS - 1) // ROWS, 0), tiles).to(tl.float32)[:, None]
        total = tl.maximum(tl.sum(count), 1.0)
        whole = tl.sum(centre * count, 0) / total
        whole += tl.sum((centre - whole[None, :]) * count, 0) / total  # the mean itself was rounded
        distance = centre - whole[None, :]
        place = (image * tl.num_programs(0) + piece) * channels + column
        tl.store(mean + place, whole, mask=inside)
        tl.store(deviation + place, tl.sum(spread + distance * distance * count, 0), mask=inside)


@triton.jit
def finalise(
    reference,
    mean,
    deviation,
    bias,
    weight,
    offset,
    scale,
    shift,
    norm_bias,
    pixels,
    piece_pixels,
    pieces,
    channels,
    group,
    eps,
    BIAS: tl.constexpr,
    PIECES: tl.constexpr,
    GROUP: tl.constexpr,
):
    """Merge the moments of a group of channels of an image, and write per channel: y = (x - offset) * scale + shift."""
    image = tl.program_id(1).to(tl.int64)
    piece, member = tl.arange(0, PIECES)[:, None], tl.arange(0, GROUP)[None, :]
    channel = tl.program_id(0) * group + member
    inside = member < group
    mask = (piece < pieces) & inside
    count = tl.where(piece < pieces, tl.minimum(pixels - piece * piece_pixels, piece_pixels), 0).to(tl.float32)
    place = (image * pieces + piece) * channels + channel
    means = tl.load(mean + place, mask=mask, other=0.0)
    total = (pixels * group).to(tl.float32)
    centre = tl.sum(tl.sum(means * count, 0), 0) / total
    centre += tl.sum(tl.sum(tl.where(mask, (means - centre) * count, 0.0), 0), 0) / total
    distance = tl.where(mask, means - centre, 0.0)
    spread = tl.load(deviation + place, mask=mask, other=0.0) + distance * distance * count
    inverse = 1.0 / tl.sqrt(tl.sum(tl.sum(spread, 0), 0) / total + eps)
    scales = tl.load(weight + channel, mask=inside, other=0.0) * inverse
    origin = tl.load(reference + image * channels + channel, mask=inside, other=0.0)
    if BIAS:
        origin -= tl.load(bias + channel, mask=inside, other=0.0)
    tl.store(offset + image * channels + channel, origin, mask=inside)
    tl.store(scale + image * channels + channel, scales, mask=inside)
    shifts = tl.load(norm_bias + channel, mask=inside, other=0.0) - centre * scales
    tl.store(shift + image * channels + channel, shifts, mask=inside)


@triton.jit
def apply(
    values,
    out,
    offset,
    scale,
    shift,
    pixels,
    channels,
    SILU: tl.constexpr,
    TILES: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write y = (x - offset) * scale + shift; with SILU y * sigmoid(y)."""
    image = tl.program_id(1).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < channels
    offsets = tl.load(offset + image * channels + column, mask=inside, other=0.0)[None, :]
    scales = tl.load(scale + image * channels + column, mask=inside, other=0.0)[None, :]
    shifts = tl.load(shift + image * channels + column, mask=inside, other=0.0)[None, :]
    for tile in range(TILES):
        rows = ((tl.program_id(0) * TILES + tile) * ROWS + tl.arange(0, ROWS))[:, None]
        mask = (rows < pixels) & inside[None, :]
        place = image * pixels * channels + rows.to(tl.int64) * channels + column[None, :]
        result = (tl.load(values + place, mask=mask, other=0.0).to(tl.float32) - offsets) * scales + shifts
        if SILU:
            result = result * tl.sigmoid(result)
        tl.store(out + place, result.to(out.dtype.element_ty), mask=mask)
