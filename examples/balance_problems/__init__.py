"""Parts of `balance.py`: the problems, the contestants, one run, the results, and what is made of them."""
