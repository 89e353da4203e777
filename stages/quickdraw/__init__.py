"""Quick, Draw!: which drawings are the first N, where their pixels come from, and doodles where there are none."""
