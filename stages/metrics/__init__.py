"""How good drawings are: measures between sets of drawings, and what each of them means. Plain arrays in and out."""
