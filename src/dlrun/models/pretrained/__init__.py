"""Models that stand on published weights, or on an earlier run."""
