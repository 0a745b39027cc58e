"""The version of moesaic, written here alone: no metadata of an installation is needed to know it."""

VERSION = "0.1.0"
