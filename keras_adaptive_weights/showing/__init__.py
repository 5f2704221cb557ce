"""For people: what a recorded run comes to, as text, as a picture and as a TensorBoard page.

Only reads what `recording` and `journal` hold; nothing here needs TensorFlow or touches a training.
Open `report` first; `explain` has the sentence for each reason, `dashboard` the page.
"""
