"""Calibration: this machine's finetuning speed, measured with the real worker and kept as a hardware profile."""

from ftmeta.calibration.calibrate import calibrate

__all__ = ["calibrate"]
