"""What tests of the whole share."""

from tests.support.system_fixtures import (
    bench,
    cache,
    cleaned,
    helper,
    hub,
    measured,
    out,
    s3,
    s3_server,
    shapes_unchecked,
)

__all__ = ["bench", "cache", "cleaned", "helper", "hub", "measured", "out", "s3", "s3_server", "shapes_unchecked"]
