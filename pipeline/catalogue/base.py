"""What a run that attaches must have in common with its catalogue; checked before anything is written."""

from __future__ import annotations

from pathlib import Path

from ktex_model.radiometry import Scaling
from ktex_model.signature import SIGNATURE_VERSION
from pipeline.catalogue.store import is_new, read_catalogue
from pipeline.catalogue.values import Card, Catalogue
from pipeline.errors import InputError
from pipeline.legend import MAX_IDS
from pipeline.settings import Settings


def read_base(directory: Path | None) -> Catalogue | None:
    """Return the catalogue that a run attaches to; None where it begins one, or asks for none."""
    return None if directory is None or is_new(directory) else read_catalogue(directory)


def stored_scaling(settings: Settings, bands: tuple[str, ...], model: Scaling | None) -> Scaling | None:
    """Return the radiometric rule that a catalogue demands of a run; None where there is no catalogue yet.

    Parameters
    ----------
    settings, bands
        Of the run, and of its scene.
    model
        The rule of a given model.

    Raises
    ------
    InputError
        The catalogue cannot be read, or holds signatures that those of this run cannot be compared with.
    """
    base = read_base(settings.catalogue)
    if base is None:
        return None
    card, where = base.card, f"--catalogue {settings.catalogue}"
    highest = max((each.id for each in base.legend.everything), default=-1)
    if highest >= MAX_IDS[settings.label_dtype]:
        raise InputError(
            f"{where}: has ids up to {highest}, and {settings.label_dtype} labels can hold "
            f"{MAX_IDS[settings.label_dtype]}; give --label-dtype uint16"
        )
    if fault := misfit(card, bands, model or card.scaling):
        raise InputError(f"{where}: {fault}")
    if "scaling" in settings.model_fields_set and settings.scaling != card.scaling.name:
        raise InputError(
            f"{where}: was made with scaling {card.scaling.name}, and a run that attaches must use the same; got "
            f"{settings.scaling}; leave --scaling out"
        )
    return card.scaling


def misfit(card: Card, bands: tuple[str, ...], scaling: Scaling) -> str | None:
    """Return why a run's signatures cannot be compared with those of a catalogue; None where they can."""
    if card.features != SIGNATURE_VERSION:
        return (
            f"holds texture features of version {card.features}, this program measures version {SIGNATURE_VERSION}; "
            "begin a new catalogue"
        )
    if card.bands != bands:
        return f"holds classes of bands {','.join(card.bands)}, the scene has {','.join(bands)}; give --bands that fit"
    if card.scaling != scaling:
        return (
            f"holds signatures of pixels scaled by {_limits(card.scaling)}, this run scales by {_limits(scaling)}; "
            "train anew, or apply a model that was trained with this catalogue"
        )
    return None


def _limits(scaling: Scaling) -> str:
    low, high = (",".join(f"{value:.4g}" for value in side) for side in (scaling.low, scaling.high))
    return f"{scaling.name} from {low} to {high}"
