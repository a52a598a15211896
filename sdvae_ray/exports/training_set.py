"""A folder of shards of latents, one shard per file of the run, and `facts.json`, which is written last."""

from collections.abc import Callable

from sdvae_ray.errors import DataError
from sdvae_ray.exports.contract import Exported, Request
from sdvae_ray.exports.latents import Batch, latents_of
from sdvae_ray.exports.rows import as_json
from sdvae_ray.storage import join

FACTS = "facts.json"
_EVERY = 50  # shards between two lines of progress


def write_shards(request: Request, suffix: str, encode: Callable[[Batch], bytes], folder: str = "") -> Exported:
    """Write `<folder>/train-000000<suffix>`, ... and facts.json. encode: returns the bytes of one shard.

    One shard is held in memory. Raises DataError if the run has no latent of the side.
    """
    latents, storage = latents_of(request), request.run.storage
    files: list[str] = []
    rows = 0
    for batch in latents.batches():
        name = join(folder, f"train-{len(files):06d}{suffix}") if folder else f"train-{len(files):06d}{suffix}"
        storage.write_bytes(join(request.output, name), encode(batch))
        files.append(name)
        rows += batch.rows.height
        if len(files) % _EVERY == 0:
            request.say(f"{rows} patches in {len(files)} shards")
    if not files:
        raise DataError(
            f"{request.run.output} has no latents of {latents.side} yet: `sdvae-ray encode --extend` adds them"
        )
    facts = latents.facts(rows)
    storage.write_bytes(join(request.output, FACTS), as_json(facts))
    return Exported(rows, f"patches, latents of {latents.side} in {len(files)} shards", [*files, FACTS], facts)
