"""Options that many commands take, each written once: how to reach storage, and which run a command is about."""

import functools
import inspect
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer
from rich.console import Console

console = Console(soft_wrap=False, width=None if sys.stdout.isatty() else 120)  # of all commands

Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the run file; repeatable.")
]
Address = Annotated[
    str | None, typer.Option(help="A Ray cluster to connect to; default: the job's own, else this machine.")
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object in place of tables.")]
Output = Annotated[str, typer.Option("--output", "-o", help="Where to write it: a path, or s3://...")]
Limit = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="A trial: N fields of view, spread over the manifest.")
]
All = Annotated[bool, typer.Option("--all", help="Print all tables; default: one, and the verdicts.")]
_Place = Annotated[str, typer.Argument(metavar="RUN", help="A run file (YAML), or the output folder of a run.")]
_STORAGE = {
    "anonymous": Annotated[bool | None, typer.Option("--anonymous/--signed", help="Unsigned S3 requests, or signed.")],
    "endpoint_url": Annotated[str | None, typer.Option(metavar="URL", help="An S3 server other than AWS.")],
    "region": Annotated[str | None, typer.Option(help="AWS region.")],
    "profile": Annotated[str | None, typer.Option(help="Of the AWS credentials file.")],
}
_KEYWORD = inspect.Parameter.KEYWORD_ONLY


def opens_storage(command: Callable[..., None]) -> Callable[..., None]:
    """Return the command with the storage options. It takes them as `storage`: the keys of `storage:` that were given."""

    @functools.wraps(command)
    def wrapper(**given: Any) -> None:
        storage = _taken(given)
        command(storage=storage, **given)

    return _with_parameters(wrapper, command, "storage", [])


def opens_run(command: Callable[..., None]) -> Callable[..., None]:
    """Return the command with RUN, --set and the storage options. It takes them as `run`, an opened run."""

    @functools.wraps(command)
    def wrapper(place: str, set: list[str] | None, **given: Any) -> None:
        from sdvae_ray.run.run import Run

        storage = _taken(given)
        command(run=Run.open(place, set or [], storage), **given)

    place = inspect.Parameter("place", _KEYWORD, annotation=_Place)
    return _with_parameters(wrapper, command, "run", [place, _optional("set", Set)])


def _taken(given: dict[str, Any]) -> dict[str, Any]:
    """Return the storage options that were typed, and remove all storage options from `given`."""
    options = {name: given.pop(name) for name in _STORAGE}
    return {name: value for name, value in options.items() if value is not None}


def _optional(name: str, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, _KEYWORD, annotation=annotation, default=None)


def _with_parameters(
    wrapper: Callable[..., None], command: Callable[..., None], replaced: str, added: list[inspect.Parameter]
) -> Callable[..., None]:
    """Return the wrapper with the signature that typer reads: the command's, with `added` and the storage
    options for `replaced`.
    """
    own = [option for name, option in inspect.signature(command).parameters.items() if name != replaced]
    parameters = [*added[:1], *(option.replace(kind=_KEYWORD) for option in own), *added[1:]]
    parameters += [_optional(name, annotation) for name, annotation in _STORAGE.items()]
    wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapper.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return wrapper
