"""Backends that a test adds are removed here."""

from feedrate.loaders.choosing import registry


def unregister(name):
    """Forget a registered backend or a custom loader."""
    for backends in (registry._BACKENDS, registry._CUSTOM):
        backends.pop(name, None)
