"""From a config to objects, to fits, to scores; and inference with what was trained."""
