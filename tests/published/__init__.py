"""The published classes in plain PyTorch, in our words: names, attributes, formulas."""
