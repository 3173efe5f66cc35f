import pytest
from feedrate.harness.cluster.labels import matches, parse_selectors
from feedrate.loaders.base.errors import InputError

LABELS = {"disk": "nvme", "ray.io/accelerator-type": "H100"}


@pytest.mark.parametrize(
    ("text", "selected"),
    [
        ("disk=nvme", True),
        ("disk=ssd", False),
        ("disk=!ssd", True),
        ("disk=in(ssd,nvme)", True),
        ("disk=!in(ssd, nvme)", False),
        ("disk=nvme, ray.io/accelerator-type=!H100", False),
        ("zone=!b", True),  # as Ray does: a node without the label has another value
        ("zone=b", False),
    ],
)
def test_labels_select_nodes_as_in_ray(text, selected):
    assert matches(parse_selectors(text), LABELS) is selected


@pytest.mark.parametrize("text", ["", "disk", "disk=", "=nvme", "disk=nvme zone=b", "disk=in(a"])
def test_what_is_no_selector_is_an_error_with_the_forms(text):
    with pytest.raises(InputError, match="label=value"):
        parse_selectors(text)
