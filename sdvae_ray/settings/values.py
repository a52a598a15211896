"""Shared by the sections of a run file: frozen models that refuse unknown keys, and the types of their values."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, allow_inf_nan=False)]  # CPUs or GPUs of one actor

# words of a table that mean "nothing", as pandas reads them; "none" is not one of them (CPJUMP1 has anomaly: none)
MISSING_WORDS = ("NA", "N/A", "n/a", "NaN", "nan", "NULL", "Null", "null", "None", "<NA>", "#N/A")


def _least_first(actors: Any) -> Any:
    if isinstance(actors, tuple) and actors[0] > actors[1]:
        raise ValueError(f"[least, most] is wanted, got {list(actors)}")
    return actors


Actors = Annotated[Count | tuple[Count, Count] | Literal["auto"], AfterValidator(_least_first)]


class Section(BaseModel):
    """A section of a run file, frozen; an unknown key is an error. The text below a key is its description in the docs."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
