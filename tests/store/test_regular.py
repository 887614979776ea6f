import pytest

from fmray.errors import DataError
from fmray.store.regular import open_regular, require_regular


@pytest.mark.parametrize("read", [open_regular, require_regular])
def test_a_link_that_leads_in_a_circle_is_refused_by_its_name(tmp_path, read):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(DataError, match="a is a link that leads in a circle"):
        read(tmp_path / "a")
