"""What curating a corpus decides, pair by pair and without Ray: usable texts, personal data, topic, duplicates."""
