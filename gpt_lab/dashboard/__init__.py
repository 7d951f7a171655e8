"""The run store in a browser: mirrors into trackio or TensorBoard that follow runs while they train.

follow.py       finds runs and reads what is new in them
mirror.py       where a mirror lies, who writes it, the loop
grouped.py      trackio's page, opened with the runs grouped by arm
trackio_mirror.py  rows into trackio's database, and its page
tensorboard.py  rows into event files, and TensorBoard's page
"""
