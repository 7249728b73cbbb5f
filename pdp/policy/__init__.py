"""What helps those who write policy: findings, coverage, explanations. Nothing here decides."""
