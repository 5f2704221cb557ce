"""What is decided, and why: pure Python, without TensorFlow, clock, files or randomness.

Here live the settings, the records that everything else passes around, the statistics, and the rule that turns
observations into decisions. What happens to a decision (the weight, a file, a page) lives in the wings above.
Open `guide_rule` first: its docstring is the algorithm; `envelope` is what keeps any rule safe. The same for several
weights at once: a `strategy` (`gradient_share` is one) says where they should be, `joint_envelope` keeps it safe.
"""
