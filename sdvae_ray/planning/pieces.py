"""How a stream cuts its fields of view: into pieces of work for the load pool, and into files of the tables."""

from sdvae_ray.config import RunConfig

FOVS_PER_PIECE = 64  # 8.1 M FOVs are then 127 k blocks, and a block takes the driver 10 to 15 ms


def piece_size(fovs: int, loaders: int) -> int:
    """Return the FOVs of a piece of work: few pieces for the driver, and enough that every load actor gets some."""
    return min(FOVS_PER_PIECE, max(1, fovs // (loaders * 8)))


def rows_per_file(config: RunConfig, fovs: int) -> int:
    """Return the FOVs that a write of a stream of `fovs` FOVs waits for: a sixteenth of the stream, 1 to 256, or as configured."""
    rows = config.write.rows_per_file
    return min(256, max(1, fovs // 16)) if rows == "auto" else rows


def files_of_a_table(config: RunConfig, fovs: int) -> int:
    """Return the files of one table. A write gathers whole blocks of encode.batch_fovs rows until it has `rows_per_file`."""
    block = config.encode.batch_fovs
    rows = -(-rows_per_file(config, fovs) // block) * block
    return -(-fovs // rows)
