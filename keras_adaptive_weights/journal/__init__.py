"""The record of truth: every step's observation and every decision, one JSON object a line. Open `lines` first.

A text file rather than a database: it is only ever appended to, so that a kill costs its last second and never the
rest; anybody reads it with `grep`, `tail -f` or three lines of any language, today and in ten years; and it is safe on
the shared file systems that trainings write to, where SQLite's locks and its journal of its own are not. What a
database would give, an overview of a million steps in a second, the lines that sum up others give (`blocks`).

In a store that cannot append, where the path is a URL, the same lines are there in closed pieces: see `pieces` for how
they are named and read as one file, `appended_pieces` and `outbox` for how they get there while training goes on,
`places` for what a URL is to the rest. A piece is stored eight seconds after its first line at the latest, sooner at an
event, where the model is saved, at a mebibyte and at the end; so at most the last ten seconds are missing after a kill,
longer only where the store itself fails. There is no lock.

`lines` and `header` say what is written and check what is read, `writer` appends behind a `backlog`, `continuation`
goes on where a run was resumed; `reader` reads a journal whole, `scan` only what is no step, from which `index` answers
for an overview or a window; `terms` tells what lines about several terms say of one. The folder around the file is the
business of `recording`, what people look at that of `showing`.

Six kinds of lines, told apart by `kind`, which comes first; their fields are the classes in `lines`:

- `header`: one at the start of each `fit`: `format`, `version` of the package, `run` (an id that a resumed run keeps),
  the `step` it goes on from, whether it is a `shadow` run, the `process` (its id and host) that writes, and all `terms`
  of the loss, in its order, with their (base) `weight` and, of an adaptive one, the `config` of its controller and the
  `state` to go on from (so that a replay is exact after a resume).
- `step`: one per training step: the raw `losses` of all terms of which there was something to measure, and what else
  was seen of it (`JointObservation`). The last step of an execution also carries what was `decided` for each adaptive
  term after it: action, reason, and the figures that led there, in the order of `lines.OUTCOME_FIGURES`. Where a weight
  has changed, after a header and every 256 steps it carries all adaptive `weights` in force on it; in a shadow run the
  `proposed_weights`, too.
- `event`: the whole `Decision` where it was anything but a HOLD, with the `term` it is about, its `advice` and
  `wall_time`. In a shadow run its weights are proposals, and `held_weight` is the one in force.
- `block`: a summary of the last 256 steps (see `blocks`), for whoever wants an overview only.
- `saved`: the model was saved at this `step`, to a checkpoint from which the run may be resumed.
- `end`: the writer was closed in an orderly way; with `interrupted`, because an exception ended `fit`.

Format 1 was about one `term`, which its header named with `base_weight`, `config` and `state`: a step had a `weight`
and a `loss`, its outcome stood beside them by name, and an event named no term. It is read as ever. A resumed run of
that format goes on in today's, in the same file: each header says which lines follow it.

The steps of a journal are consecutive also where the run was killed and resumed: see `continuation`. It holds one run:
what a second one might have added is not read.

Numbers that JSON has no word for are the strings "nan", "inf" and "-inf". What is to be written waits in a backlog, and
a thread writes it at every event, after 256 executions, and at least once a second: many lines at once cost a fraction
of what they cost one by one between two training steps. So at most the last second is missing after the process was
killed, and nothing that was asked for by hand, for which the training waits; a last line that was cut off is left out
by the reader and reported. While the writer lives, it also touches the file once a second, so that the file's time
tells a training that is slow from one that is gone.
"""
