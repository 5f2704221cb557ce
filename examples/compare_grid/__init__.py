"""Parts of `compare.py`: the grid, its contestants, one run, the results, and what is made of them."""
