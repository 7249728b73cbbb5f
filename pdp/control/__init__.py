"""Sessions and what they may spend: rules, and their SQL."""
