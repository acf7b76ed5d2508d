"""The version of the package, for everything that writes it down."""

VERSION = "0.2.0"
