"""The tables of scores/: `score` writes them, the report and `compare` read them."""

from dataclasses import MISSING, dataclass, field, fields

import polars as pl

from sdvae_ray.errors import DataError
from sdvae_ray.run.table_files import read_table, write_table
from sdvae_ray.storage import Storage, join


@dataclass(frozen=True)
class Scores:
    """The tables that `score` writes, one file of scores/ per table. All of them have `random_weights`.

    summary          per extractor, side, group: wells, controls, compounds, mean_map, fraction_retrieved, retrieval_status (why
                     there is no fraction), least_p_corrected, splits (of the controls; 0: none), p_valid, status,
                     replicate_recall_at_<k>, reconstruction_recall (share of reconstructions whose nearest original is their own),
                     recall_queries, features, normalisation (the record of every step, JSON)
    compounds        per extractor, side, group, compound: replicates, map, normalised_map, p, p_corrected, retrieved, status
    wells            per extractor, side, group, treated well: ap, normalised_ap, n_positives, n_negatives, status
    floors           per extractor, side, group, quantity (retrieval.floors): fraction_retrieved, mean_map, ..., status
    estimates        the same columns for what the fit does: full, half_same, half_other; these are no floors
    over_floor       per extractor, side, group: fraction_retrieved, plates_low, plates_high (FR with a plate left out, in one
                     split), floor, over_floor = (FR - floor) / (1 - floor), low, high, compounds, poses, normalised_map,
                     floor_normalised_map, ceiling_normalised_map, map_between, cut (the p up to which a compound is retrieved),
                     status
    ceilings         per extractor, the originals, group, halves (wells, plates, sites): normalised_map, fraction_retrieved,
                     retrieved, kept, gained, kept_share, status
    tasks            per extractor, side, group, task (distinctiveness, consistency, cross_side): queries, groups, mean_map,
                     mean_normalised_map, fraction_retrieved, status, floor_*; and of transfer (retrieval.tasks.transfer), whose
                     group is the group queried: column, source, target, zero_norm, position_*
    stringency       per extractor, side, group, task, rung (retrieval.audits.stringency): queries, groups, mean_map,
                     mean_normalised_map, recall_at_<k>, floor_*, status
    neighbours       per extractor, side, group, shared (replicates, plate, row, column, batch, source), k: queries, share, chance,
                     over_chance, floor_share, floor_over_chance, status
    enrichment       per extractor, side, group, column, label (null: all tests), k: compounds, tests, hits, expected, odds_ratio,
                     enriched, least_p_corrected, floor_odds_ratio, floor_enriched, status
    probes           per extractor, side, group, column: balanced_accuracy, chance, floor_balanced_accuracy, wells, compounds,
                     labels, folds, status
    differences      per extractor, side, group, quantity: estimate, low, high over compounds; and the side's estimate minus the
                     originals' over the same compounds, with its interval
    distributions    per extractor, side, by (group or slice), slice, part (RGB pass or stain): n_image, n_side, dimensions,
                     sampled, fid, kid, kid_paired, cmmd, precision, recall, density, coverage; a distance is null with a `reason`
    references       the columns of distributions, for parts of the originals against each other (n_image: the first part), and
                     `reference`: sites, plates, controls (negative controls against compounds that the originals retrieve)
    metrics          per side, metric, part (stain or RGB pass), band (null if the metric has none): patches, mean, sd, median,
                     q05, q95 over patches; quantile_error (of the quantiles, relative, at most; 0: they are values of patches); the
                     rates (schema.RATES), bits per patch, are among the metrics
    latents          per side, group: passes, channels, units, active_units, effective_rank of the stored latents
    latent_channels  per side, group, channel: passes, mean, sd, skewness, kurtosis, min, max
    """

    summary: pl.DataFrame
    compounds: pl.DataFrame
    wells: pl.DataFrame
    floors: pl.DataFrame
    estimates: pl.DataFrame
    over_floor: pl.DataFrame
    ceilings: pl.DataFrame
    tasks: pl.DataFrame
    differences: pl.DataFrame
    distributions: pl.DataFrame
    metrics: pl.DataFrame
    latents: pl.DataFrame
    latent_channels: pl.DataFrame
    stringency: pl.DataFrame = field(default_factory=pl.DataFrame)
    neighbours: pl.DataFrame = field(default_factory=pl.DataFrame)
    enrichment: pl.DataFrame = field(default_factory=pl.DataFrame)
    probes: pl.DataFrame = field(default_factory=pl.DataFrame)
    references: pl.DataFrame = field(default_factory=pl.DataFrame)

    def write(self, output: str, storage: Storage) -> None:
        """Write every table under the run's output."""
        for table in fields(self):
            write_table(join(output, "scores", f"{table.name}.parquet"), getattr(self, table.name).to_arrow(), storage)


def read_scores(output: str, storage: Storage) -> Scores:
    """Return the tables of scores/; one that an earlier version did not write is empty. Raises DataError if the run has not been
    scored.
    """
    tables = {}
    for table in fields(Scores):
        try:
            tables[table.name] = pl.DataFrame(read_table(join(output, "scores", f"{table.name}.parquet"), storage))
        except FileNotFoundError as error:
            if table.default_factory is MISSING:
                raise DataError(f"{output} has no scores yet: run `sdvae-ray score` first") from error
    return Scores(**tables)
