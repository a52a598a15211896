"""What a score stands between: the quantities of scores/floors and scores/estimates, and the columns that show them."""

from sdvae_ray.report.facts.table import Column

MEANINGS = {
    "posing": "controls posing as compounds, standing on their plates as the compounds do: retrieved at the score's own p",
    "posing_shuffled": "the same wells, a compound's wells apart: the difference is the position effect",
    "labels_within_treated": "labels permuted among the treated wells of a plate",
    "labels_within_all": "labels and roles permuted among all wells of a plate",
    "position_matched": "negatives at the query's own position on other plates",
    "full": "fit on all controls, which are the negatives",
    "half_same": "fit on half of the controls, the same half are the negatives",
    "half_other": "fit on half, the other half are the negatives: less than half_same by the leak",
}
FLOORS = {
    column.key: column
    for column in (
        Column("posing", "posing, as compounds stand", 3),
        Column("posing_shuffled", "posing, shuffled", 3),
        Column("labels_within_treated", "permuted, treated", 3, in_terminal=False),
        Column("labels_within_all", "permuted, all", 3, in_terminal=False),
        Column("position_matched", "position matched", 3, in_terminal=False),
    )
}
ESTIMATES = {
    column.key: column
    for column in (
        Column("full", "all, all", 3),
        Column("half_same", "half fit, same half", 3),
        Column("half_other", "half fit, other half", 3),
    )
}
