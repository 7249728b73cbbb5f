"""The admission webhook that puts a sidecar beside each agent in Kubernetes."""
