"""Services' OpenAPI documents: fetched and kept (`documents`), compiled (`compiling`), and what is wrong with a
request by them (`faults`). Used by the policy `validated`."""
