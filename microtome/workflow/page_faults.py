"""Whether what a study says of its page can be shown: its picture, its profile, its captions."""

from collections.abc import Iterator

from microtome.errors import MicrotomeError, nearest
from microtome.workflow.config import Studies, Study
from microtome.workflow.functions import functions
from microtome.workflow.pages import CAPTIONS, caption
from microtome.workflow.products import DATASETS
from microtome.workflow.schema import Fault

#: A study's page would lie where the start page does.
TAKEN = "index"


def page_faults(studies: Studies, study: Study) -> Iterator[Fault]:
    """Find the faults of a study's page.

    Args:
        studies: the studies.
        study: the study, of which all products have been judged.

    Raises:
        MicrotomeError: captions.py has a function for no figure, or one that takes what its figure
            does not.
    """
    path = ("studies", study.name, "page")
    figures = study.entries["figures"]
    datasets = [name for kind in DATASETS for name in study.entries[kind]]
    if study.name == TAKEN and study.models:
        yield path[:2], "is the name of the start page; choose another name"
    picture = study.page.get("picture")
    if picture is not None and picture not in figures:
        remedy = nearest(picture, list(figures)) if figures else "the study has none; take it out"
        yield (*path, "picture"), f"no figure {picture!r}; {remedy}"
    profile = study.page.get("profile")
    if profile and profile["statistic"] not in datasets:
        remedy = nearest(profile["statistic"], datasets) if datasets else "the study has none"
        yield (*path, "profile", "statistic"), f"no statistic {profile['statistic']!r}; {remedy}"
    elif profile:
        key = studies.dataset(study, profile["statistic"])
        if not studies.product(*key).of_model:
            fault = f"{profile['statistic']} is of no model; take a statistic that is"
            yield (*path, "profile", "statistic"), fault
    _refuse_strange_captions(studies, study)


def _refuse_strange_captions(studies: Studies, study: Study) -> None:
    """Refuse functions of captions.py that no figure could call."""
    file = study.folder / CAPTIONS
    drawn = functions(study.folder / "figures.py") if file.is_file() else {}
    for name in functions(file) if file.is_file() else ():
        if name not in drawn:
            remedy = nearest(name, list(drawn)) if drawn else "write it"
            raise MicrotomeError(f"{file}: figures.py has no function {name!r}; {remedy}")
    for figure in study.entries["figures"]:
        product = studies.product(study.name, "figures", figure)
        said = caption(product)
        if said is None:
            continue
        for kind, taken, known in (
            ("input", said.inputs, product.function.inputs),
            ("option", said.options, product.function.options),
        ):
            for name in taken:
                if name not in known:
                    remedy = nearest(name, list(known)) if known else "take it out"
                    raise MicrotomeError(
                        f"{said.file}: {said.name} takes {name!r}, which is no {kind} of the "
                        f"figure; {remedy}"
                    )
