"""One run on disk: its folder, the journal and TensorBoard's event file as one record, and deciding on it anew.

The journal's own format is in `journal`; what people look at is made in `showing`.
Open `record` first: it is what a callback opens and closes; `replay` reads a record back into decisions.
"""
