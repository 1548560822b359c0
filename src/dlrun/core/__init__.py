"""What every room stands on: types, errors, files, the run folder, devices, seeds."""
