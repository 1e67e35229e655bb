"""What pytest checks every annotation of the packages with: shapes by jaxtyping, the rest by beartype."""

from beartype import BeartypeConf, beartype

check_types = beartype(conf=BeartypeConf(is_pep484_tower=True))  # PEP 484: an int is a float.
