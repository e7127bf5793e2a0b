"""What trainers call the layers of a model, and the tensors that they have for each."""
