"""Optional packages: there, missing, or broken inside."""
import json

import pytest

from utils.errors import UserError
from utils.optional import import_optional


def test_a_package_that_is_there_is_itself():
    assert import_optional("json") is json and import_optional("os.path").join("a", "b")


def test_a_missing_package_names_its_command():
    with pytest.raises(UserError, match="^no_such_package is not installed: run `make extras`$"):
        import_optional("no_such_package.part")
    with pytest.raises(UserError, match="run `make setup`"):
        import_optional("no_such_package", command="make setup")


def test_what_a_package_itself_lacks_is_not_hidden(tmp_path, monkeypatch):
    (tmp_path / "half_a_package.py").write_text("import its_own_need")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="its_own_need"):
        import_optional("half_a_package")
