"""One pure parser per corpus: a `Corpus` that tells where the trials are and reads them into rows."""
