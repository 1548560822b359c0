"""The commands of dlrun and what each is for, known without importing any of them."""

from __future__ import annotations

COMMANDS = {
    "workflow": "the book's seven steps, from data to tuned model",
    "final": "test a workflow's winner, once",
    "explain": "layers, memory and first loss, untrained",
    "show": "a sheet of training images, augmented",
    "lr": "a learning rate to use, from a range test",
    "resume": "go on with a cut run, or train it longer",
    "rerun": "the same run again, in a new folder",
    "evaluate": "measure a finished run",
    "predict": "predictions for your own images, texts, rows",
    "generate": "texts or images that a run makes",
    "neighbors": "words whose vectors are like a word's",
    "compare": "runs side by side, and whether they differ",
    "report": "one page of a run, or of several",
    "visualize": "a look inside an image model",
    "ledger": "test-set evaluations, with their reasons",
    "ls": "what there is to choose from",
    "completion": "TAB for bash, zsh or fish",
}
