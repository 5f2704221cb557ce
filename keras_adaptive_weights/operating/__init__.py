"""The operator's side: the command line, and the switch by which it reaches a training in another process.

What the commands print about a run is gathered in `showing`; what a request does to the weight is in `deciding`.
Open `commands` first; `control` is the file through which requests and answers pass.
"""
