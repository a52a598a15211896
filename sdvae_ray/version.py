"""The version, in a module that imports nothing, so that a job started from a bare working directory knows it too."""

VERSION = "0.1.0"
