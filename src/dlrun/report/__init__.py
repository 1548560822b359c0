"""From a run folder to pages, tables and plots. Needs no torch."""
