"""What docker-compose.yml runs before and beside the workers."""
