"""Score what was trained: metrics with intervals, baselines, slices, calibration."""
