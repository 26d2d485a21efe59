exec inotifywait -m -r --format '%e %f' .
