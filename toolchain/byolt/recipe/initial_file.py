"""Which file on this machine `model.init_file` names."""

from pathlib import Path

from byolt.installed import package_folder
from byolt_export.errors import InputError

_PACKAGE = "package:"


def initial_file(init_file: Path) -> Path:
    """``init_file`` itself, of a run's folder its encoder, of ``package:NAME/PATH`` a file in an installed package.

    Raises:
        InputError: It is a folder without an encoder, or the package has no such file.
        MissingPart: The package is not installed.
    """
    text = str(init_file)
    if text.startswith(_PACKAGE):
        name, _, inside = text.removeprefix(_PACKAGE).partition("/")
        if not name.isidentifier():
            raise InputError(f"model.init_file {text}: a file in a package is written package:NAME/PATH")
        file = package_folder(name, f"model.init_file {text}") / inside
        if not file.is_file():
            raise InputError(f"model.init_file {text}: the package {name} holds no file {inside!r}")
        return file
    if not init_file.is_dir():
        return init_file
    file = init_file / "encoder.safetensors"
    if not file.is_file():
        raise InputError(
            f"model.init_file {init_file} is a folder without encoder.safetensors; give the folder of a finished run, "
            "or a file of weights"
        )
    return file
