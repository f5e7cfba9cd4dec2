"""Calibration data, in the forms people have it."""
