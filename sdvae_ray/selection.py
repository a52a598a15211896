"""Selects wells, such as the controls, by a small expression over metadata columns, read safely.

    Metadata_control_type == 'negcon'
    Metadata_JCP2022 in ['JCP2022_800001', 'JCP2022_800002'] and Metadata_Plate != 'P1'

It compares columns with text by ==, !=, in and not in, and combines comparisons by and, or, not and brackets. A null equals
no text.
"""

import ast
from collections.abc import Sequence

import polars as pl

from sdvae_ray.errors import ConfigError, did_you_mean


def select(expression: str, columns: Sequence[str], where: str) -> pl.Expr:
    """Return the expression as a polars predicate without nulls.

    Raises ConfigError, naming `where`, for an expression of another form and for a column that is not in `columns`.
    """
    try:
        tree = ast.parse(expression, mode="eval").body
    except SyntaxError as error:
        raise ConfigError(f"{where}: cannot read {expression!r}; such as Metadata_control_type == 'negcon'") from error
    return _predicate(tree, columns, where)


def _predicate(node: ast.expr, columns: Sequence[str], where: str) -> pl.Expr:
    if isinstance(node, ast.BoolOp):
        parts = [_predicate(value, columns, where) for value in node.values]
        return pl.all_horizontal(parts) if isinstance(node.op, ast.And) else pl.any_horizontal(parts)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return ~_predicate(node.operand, columns, where)
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and isinstance(node.left, ast.Name):
        column, (operator,), (right,) = node.left.id, node.ops, node.comparators
        if column not in columns:
            raise ConfigError(f"{where}: there is no column {column!r}{did_you_mean(column, columns)}")
        values = right.elts if isinstance(right, ast.List | ast.Tuple) else [right]
        texts = [value.value for value in values if isinstance(value, ast.Constant) and isinstance(value.value, str)]
        many = isinstance(operator, ast.In | ast.NotIn)
        if len(texts) == len(values) and many == isinstance(right, ast.List | ast.Tuple):
            matches = pl.col(column).is_in(texts).fill_null(False)
            if isinstance(operator, ast.Eq | ast.In):
                return matches
            if isinstance(operator, ast.NotEq | ast.NotIn):
                return ~matches
    raise ConfigError(
        f"{where}: {ast.unparse(node)!r} is not a comparison of a column with text by ==, !=, in or not in"
    )
