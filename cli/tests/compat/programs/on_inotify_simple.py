from inotify_simple import INotify, flags

inotify = INotify()
inotify.add_watch(".", flags.OPEN | flags.MODIFY | flags.CLOSE_WRITE | flags.CREATE | flags.MOVED_TO)
print("ready", flush=True)
while True:
    for event in inotify.read():
        print(*(flag.name for flag in flags.from_mask(event.mask)), event.name, flush=True)
