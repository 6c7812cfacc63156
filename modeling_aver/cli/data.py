"""`aver data …`: datasets built, checked and pushed."""

from pathlib import Path
from typing import Annotated

import typer

data_app = typer.Typer(no_args_is_help=True, help="Build, check and push datasets.")

Private = Annotated[bool, typer.Option("--private", help="For a repository that is made now.")]


@data_app.command("build")
def data_build(
    corpus: Annotated[str, typer.Argument(help="crema_d, ravdess, or clips of one's own.")],
    data_dir: Annotated[Path, typer.Argument(help="The official folder; for clips, a CSV of file,label,speaker.")],
    out: Annotated[Path, typer.Option(help="Folder for Parquet files and card.")],
    action_units_folder: Annotated[str | None, typer.Option(help="Tables of features; '' builds sound alone.")] = None,
    num_proc: Annotated[int | None, typer.Option(min=1, help="Processes that read clips.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first bad clip.")] = False,
    download: Annotated[
        bool, typer.Option("--download", help="First fetch what is missing from its authors.")
    ] = False,
):
    """Builds every configuration of a corpus, and says how many clips of each emotion each part has."""
    from datasets_scripts.downloads import download_corpus
    from datasets_scripts.hub.build import build_corpus
    from datasets_scripts.hub.build_table import print_build

    if download:
        download_corpus(corpus, data_dir)
    config = {} if action_units_folder is None else {"action_units_folder": action_units_folder}
    print_build(build_corpus(corpus, data_dir, out, num_proc=num_proc, strict=strict, **config))


@data_app.command("validate")
def data_validate(
    folder: Annotated[Path, typer.Argument(help="What `aver data build` wrote; with --corpus, what it would read.")],
    corpus: Annotated[str | None, typer.Option(help="crema_d, ravdess or clips: check the official folder.")] = None,
):
    """Reads every clip of a built or an official folder, and lists what is wrong; of a built one the splits too."""
    from datasets_scripts.hub.build import validate_build, validate_corpus

    problems = validate_build(folder) if corpus is None else validate_corpus(corpus, folder)
    for name, found in problems.items():
        typer.echo(f"{name}: {'; '.join(found)}")
    typer.echo(f"Problems: {len(problems)}." if problems else "No problem.")
    if problems:
        raise typer.Exit(1)


@data_app.command("push")
def data_push(
    folder: Annotated[Path, typer.Argument(help="What `aver data build` wrote.")],
    repo_id: Annotated[str, typer.Argument(help="Such as org/crema-d-au.")],
    private: Private = False,
    yes: Annotated[bool, typer.Option("--yes", help="The licence was read: ask nothing.")] = False,
):
    """Uploads a built folder with its card, every configuration at once."""
    from datasets_scripts.hub.record import Build, push_build

    if Build.read(folder).corpus == "ravdess" and not yes:
        typer.confirm(
            "RAVDESS is CC BY-NC-SA 4.0: its recordings may be shared with attribution, under the same licence, and "
            f"not commercially. Push them to {repo_id}?",
            abort=True,
        )
    typer.echo(push_build(folder, repo_id, private=private))
