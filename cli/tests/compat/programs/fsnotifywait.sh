# The kernel merges its events of one file: the last step alone can be counted.
exec fsnotifywait -m -r -e close_write --format '%e %f' .
