"""Why a training did not learn."""
