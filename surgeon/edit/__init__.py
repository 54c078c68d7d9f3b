"""How tensors change: the vocabulary of edits and the only code that writes weights."""
