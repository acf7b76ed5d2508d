"""What the situations share with the tests of the whole."""

from tests.support.system_fixtures import bench, cache, cleaned, helper, hub, measured, out, s3, s3_server

__all__ = ["bench", "cache", "cleaned", "helper", "hub", "measured", "out", "s3", "s3_server"]
