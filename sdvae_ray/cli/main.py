"""sdvae-ray: the command line. Thin: arguments in, a call of `commands`, errors as one line and an exit code.

Exit codes: 0 done, 1 the run failed, 2 something that the user can mend, 130 stopped by Ctrl-C, 143 by SIGTERM.
What needs torch and ray imports them.
"""

import sys
from typing import Annotated

import typer
from rich.console import Console

from sdvae_ray.cli import data, public_benchmarks, questions, runs, signals
from sdvae_ray.console import print_line
from sdvae_ray.errors import SdvaeRayError
from sdvae_ray.version import VERSION

_WHAT_NEXT = """sdvae-ray: does the phenotype survive Stable Diffusion's VAE?
Cell Painting images in; latents, embeddings and retrieval scores out.

  sdvae-ray demo                     the whole job on this machine: synthetic plates, scores, a report; no downloads

  sdvae-ray init LOAD_DATA...        your images: a run file for them, and what to type next
  sdvae-ray manifest LOAD_DATA...    one row per field of view
  sdvae-ray check RUN                a few fields through every stage; hours and dollars
  sdvae-ray run RUN                  encode, score and report; the same line again resumes
  sdvae-ray conclude RUN             the verdicts: what is kept, what is lost by name, what is uncertain

  sdvae-ray retrieve PROFILES...     scores a table of profiles that you have already

RUN is a run file (YAML) or the output folder of a run. All commands: sdvae-ray -h. One of them: sdvae-ray COMMAND -h."""

app = typer.Typer(
    name="sdvae-ray",
    help="Does the phenotype survive Stable Diffusion's VAE? Cell Painting images in; latents, embeddings, retrieval scores out.",
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(VERSION)
        raise typer.Exit


@app.callback()
def _root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(_WHAT_NEXT)


for _command in (
    runs.demo,
    data.init,
    data.manifest,
    data.photographs,
    data.pack,
    data.calibrate,
    runs.plan,
    runs.check,
    runs.bench,
    runs.encode,
    runs.status,
    runs.retry,
    runs.verify,
    runs.compact,
    runs.score,
    runs.report,
    runs.run,
):
    app.command()(_command)
for _command in (
    questions.conclude,
    data.retrieve,
    questions.compare,
    questions.published,
    questions.search,
    questions.browse,
    questions.decode,
    questions.export,
    data.models,
):
    app.command()(_command)
for _command in (public_benchmarks.cpjump1, public_benchmarks.stringency):
    app.command()(_command)


def main(arguments: list[str] | None = None) -> None:
    """Run a command and exit with its code. A SIGTERM unwinds as Ctrl-C does, so that leases and clusters are released.

    arguments: of a caller that goes on afterwards, with its own handlers of signals; None: those of this process.
    """
    signals.install()
    errors = Console(stderr=True)
    try:
        ended = app(args=arguments, standalone_mode=False)
        code = ended if isinstance(ended, int) else 0  # typer gives the code of an exit back, that of Ctrl-C too
    except SdvaeRayError as error:
        print_line(errors, f"error: {error}", "red")
        code = error.exit_code
    except (typer.Abort, KeyboardInterrupt):
        code = 130
    except Exception as error:
        if not hasattr(error, "format_message"):  # a wrong option: typer carries a click of its own, unnamed
            raise
        print_line(errors, f"error: {error.format_message()}", "red")
        code = 2
    signals.ignore() if arguments is None else signals.restore()
    if code == 130:
        code = signals.exit_code()
        print_line(errors, "stopped; the same command goes on where it left off")
    sys.stdout.flush()
    sys.stderr.flush()
    sys.exit(code)


if __name__ == "__main__":
    main()
