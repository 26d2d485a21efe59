from watchfiles import watch

# An empty set is given when nothing happened for a while: by then it watches.
ready = False
for changes in watch(".", rust_timeout=100, yield_on_timeout=True):
    if not ready:
        print("ready", flush=True)
        ready = True
    for change, path in changes:
        print(change.name, path, flush=True)
