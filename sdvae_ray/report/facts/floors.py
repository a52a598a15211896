"""Floors of a score: the number that the same code gives if there is nothing to find, by the quantity of scores/floors."""

from sdvae_ray.report.facts.table import Column

MEANINGS = {
    "half_same": "fit on half of the controls, the same half are the negatives",
    "half_other": "fit on half, the other half are the negatives: less than half_same by the leak",
    "posing_position": "controls posing as compounds, one position on all plates each",
    "posing_shuffled": "controls posing as compounds, positions shuffled",
    "labels_within_treated": "labels permuted among the treated wells of a plate",
    "labels_within_all": "labels and roles permuted among all wells of a plate",
    "position_matched": "negatives at the query's own position on other plates",
}
FLOORS = {
    column.key: column
    for column in (
        Column("half_same", "half fit, same half", 3),
        Column("half_other", "half fit, other half", 3),
        Column("posing_position", "posing, position", 3),
        Column("posing_shuffled", "posing, shuffled", 3),
        Column("labels_within_treated", "permuted, treated", 3),
        Column("labels_within_all", "permuted, all", 3, in_terminal=False),
        Column("position_matched", "position matched", 3, in_terminal=False),
    )
}
