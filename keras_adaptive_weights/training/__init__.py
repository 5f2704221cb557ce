"""What happens inside `fit`: the train step, its telemetry, the callbacks, and the way back to a good snapshot.

The only wing that knows a Keras model. Private names of Keras and TensorFlow are in `runtime`, what is decided in
`deciding`, what is written in `recording`.
Open `train_step` first, then `callback`, which carries what it measured to the weight and the record.
"""
