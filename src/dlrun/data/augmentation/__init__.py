"""Random changes of pictures while a model trains."""
