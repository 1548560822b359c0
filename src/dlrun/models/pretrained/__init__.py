"""Models that start from published weights, or from an earlier run."""
