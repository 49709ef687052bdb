"""The real servers of the tests: private ones, or those named by LARDER_DATABASE_URL and LARDER_REDIS_URL."""
