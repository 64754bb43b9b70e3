#!/usr/bin/env bash
# Run the demo: recipes/demo.sh. It says first what the demo does, and at the end what the demo made.
set -euo pipefail
cd "$(dirname "$0")/.."

# The times are of a run on two cores, from one output to the next.
cat <<'END'
demo: runs all stages on synthetic speech, from corpora to a report. It takes about 20 minutes on two cores.
The first run downloads two small models, 0.2 GB. DVC skips each stage that is up to date and runs the others:

  stage             about   what it does
  synthesise        10 s    reads sentences aloud: a corpus of plain speech and a corpus of emotional speech
  ingest            10 s    writes a manifest of each corpus, a row for each utterance
  split             10 s    assigns the speakers to train, dev and test
  leaks             10 s    looks for speakers, sentences and recordings that test shares with train
  sentences         5 s     chooses sentences for an emotion prompt, if there is one; the demo has none
  check             10 s    checks that the LLM can be trained: a small copy of it takes a few steps
  generate          2 min   lets the LLM continue the transcripts
  generate-told     5 s     lets the LLM continue the test transcripts for each emotion
  generate-sentences  5 s   lets the LLM continue these sentences for each emotion
  filter            5 s     drops continuations that are not usable as targets
  pack              15 s    writes token ids and audio for training
  fit-semantic      7 min   trains the adapter, so that the LLM continues speech as it continues the transcript
  fit-emotion       3.5 min trains P-LoRA, the encoder and the emotion head on emotional speech
  fit-prompt        5 s     learns an emotion prompt from these sentences
  probe             20 s    recognises emotion with a linear classifier on the frozen encoder
  transcribe        40 s    lets Whisper write down test clips, as the yardstick of what the model hears
  respond-semantic  40 s    compares continuations of test speech with those of its transcripts
  respond-emotion   4 min   lets the trained model and the baselines name emotions, and scores own answers
  semantics         1 min   lets the models repeat and answer test clips, in a given form, beside the LLM alone
  judge             5 s     lets an LLM mark the answers, if there is a judge; the demo has none
  score             10 s    computes the scores and their intervals
  report            10 s    writes the report

END
dvc repro
cat <<'END'
demo: made results/report.html, results/metrics.json and the trained models in models/semantic and models/emotion
demo: open results/report.html in a browser; the report shows scores, losses and ten clips with their answers
demo: next, change params.yaml and run dvc repro in .venv, or read "Your own runs" in README.md for other corpora
END
