"""What runs the system: on one machine, in containers, on Kubernetes."""
