"""How a stream cuts its fields of view: into pieces of work for the load pool, and into files of the tables."""

from sdvae_ray.config import RunConfig

_FOVS_PER_PIECE = 64  # of a stream of up to 2 million FOVs
_PIECES = 32_000  # about as many at most: the driver makes every piece before the first row, and handles it once


def piece_size(fovs: int, loaders: int) -> int:
    """Return the FOVs of a piece of work: few pieces for the driver, and enough that every load actor gets some."""
    return min(fovs_per_piece(fovs), max(1, fovs // (loaders * 8)))


def fovs_per_piece(fovs: int) -> int:
    """Return the most FOVs of a piece of work in a stream of `fovs` FOVs: 64, and 254 in one of 8.1 million."""
    return max(_FOVS_PER_PIECE, -(-fovs // _PIECES))


def rows_per_file(config: RunConfig, fovs: int) -> int:
    """Return the FOVs that a write of a stream of `fovs` FOVs waits for: a sixteenth of the stream, 1 to 256, or as configured."""
    rows = config.write.rows_per_file
    return min(256, max(1, fovs // 16)) if rows == "auto" else rows


def files_of_a_table(config: RunConfig, fovs: int) -> int:
    """Return the files of one table. A write gathers whole blocks of encode.batch_fovs rows until it has `rows_per_file`."""
    block = config.encode.batch_fovs
    rows = -(-rows_per_file(config, fovs) // block) * block
    return -(-fovs // rows)
