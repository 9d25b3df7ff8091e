"""Typed configuration: compose, validate, build."""
