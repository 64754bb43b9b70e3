"""One file a corpus: where its clips and labels lie."""
