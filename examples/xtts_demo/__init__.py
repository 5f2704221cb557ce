"""Parts of the main example, `train_xtts.py`: corpus, features, data set, model, fault injection and report."""
