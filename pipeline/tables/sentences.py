"""The sentences from which emotion prompts are learnt: the table that the stage sentences writes."""

import pyarrow as pa

TRAIN, DEV = "train", "dev"

SCHEMA = pa.schema(
    [
        ("text", pa.string()),  # normalised as the transcripts of a manifest; each text once
        ("split", pa.string()),  # train or dev
    ]
)
