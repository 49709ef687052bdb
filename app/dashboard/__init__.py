"""What the dashboard shows: samples, troubles and incidents, and the sentence that sums them up. Nothing here does I/O."""
