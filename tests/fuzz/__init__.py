"""What reads files of others, fed with bytes that a fuzzer chooses; `python -m tests.fuzz`."""
