"""What judges: document, Cedar, Rego, combination, snapshot."""
