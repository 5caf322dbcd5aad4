"""`atpar bench`: what each part costs, measured beside the raw limit in the same run."""
