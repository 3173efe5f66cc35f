"""Objects by URL, as in S3, GCS or Azure: stores, listings, requests, and retries."""
