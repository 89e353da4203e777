"""The command `generate`: very many drawings of a trained model, as a folder that the pipeline learns from."""
