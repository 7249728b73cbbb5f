"""`policy check`: everything that is wrong with a folder of policy, found without running it."""
