"""What tests of the whole share."""

from tests.support.system_fixtures import *  # noqa: F403
