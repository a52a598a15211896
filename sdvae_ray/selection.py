"""Selects rows by a small expression over columns, read safely: wells by their metadata, fields of view by their numbers.

    Metadata_control_type == 'negcon'
    Metadata_JCP2022 in ['JCP2022_800001', 'JCP2022_800002'] and Metadata_Plate != 'P1'
    qc_saturated_DNA > 0.05 or qc_zero == 1

It compares columns with text by ==, !=, in and not in, or with a number by ==, !=, <, <=, > and >=, and combines comparisons by
and, or, not and brackets. A null equals no text, and no comparison with a number holds for it.
"""

import ast
from collections.abc import Callable, Sequence
from typing import Any

import polars as pl

from sdvae_ray.errors import ConfigError, did_you_mean


def select(expression: str, columns: Sequence[str], where: str) -> pl.Expr:
    """Return the expression as a polars predicate without nulls.

    Raises ConfigError, naming `where`, for an expression of another form and for a column that is not in `columns`.
    """

    def comparison(node: ast.expr) -> pl.Expr:
        return _comparison_with_text(node, columns, where)

    return _predicate(_parsed(expression, where, "Metadata_control_type == 'negcon'"), comparison)


def select_numbers(expression: str, columns_of: Callable[[str], Sequence[str]], where: str) -> pl.Expr:
    """Return the expression over numbers as a polars predicate without nulls.

    columns_of: returns the columns of a name; a comparison holds if it holds for one of them. Raises ConfigError, naming `where`,
    for an expression of another form, and what `columns_of` raises.
    """

    def comparison(node: ast.expr) -> pl.Expr:
        if isinstance(node, ast.Compare) and len(node.ops) == 1 and isinstance(node.left, ast.Name):
            number, compare = _number(node.comparators[0]), _COMPARISONS.get(type(node.ops[0]))
            if number is not None and compare is not None:
                parts = [compare(pl.col(column), number).fill_null(False) for column in columns_of(node.left.id)]
                return pl.any_horizontal(parts)
        allowed = "a comparison of a column with a number by ==, !=, <, <=, > or >="
        raise ConfigError(f"{where}: {ast.unparse(node)!r} is not {allowed}")

    return _predicate(_parsed(expression, where, "qc_zero > 0.99"), comparison)


_COMPARISONS: dict[type[ast.cmpop], Callable[[pl.Expr, float], pl.Expr]] = {
    ast.Eq: pl.Expr.eq, ast.NotEq: pl.Expr.ne, ast.Lt: pl.Expr.lt, ast.LtE: pl.Expr.le, ast.Gt: pl.Expr.gt, ast.GtE: pl.Expr.ge,
}  # fmt: skip


def _number(node: ast.expr) -> float | None:
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        positive = _number(node.operand)
        return None if positive is None else -positive
    value: Any = node.value if isinstance(node, ast.Constant) else None
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _parsed(expression: str, where: str, example: str) -> ast.expr:
    try:
        return ast.parse(expression.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ConfigError(f"{where}: cannot read {expression!r}; such as {example}") from error


def _predicate(node: ast.expr, comparison: Callable[[ast.expr], pl.Expr]) -> pl.Expr:
    if isinstance(node, ast.BoolOp):
        parts = [_predicate(value, comparison) for value in node.values]
        return pl.all_horizontal(parts) if isinstance(node.op, ast.And) else pl.any_horizontal(parts)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return ~_predicate(node.operand, comparison)
    return comparison(node)


def _comparison_with_text(node: ast.expr, columns: Sequence[str], where: str) -> pl.Expr:
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
