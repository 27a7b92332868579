"""What every process of the system needs and nothing else.

`defaults.install(app, ...)` gives a service its errors, logs, health pages, database, tokens and OpenAPI document.
This package imports neither the gateway nor a service.
"""

VERSION = "0.1.0"
