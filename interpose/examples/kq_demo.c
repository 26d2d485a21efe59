/*
 * Watches files with kevent(2) and prints one line for each event.
 *
 *     kq_demo PATH...
 *
 * It prints "ready", then for example "src/main.c: EXTEND WRITE". A line on the standard input comes through
 * the same queue and is printed as "stdin: a line"; the end of the input ends the program. The program knows
 * nothing of AgentFS.
 *
 *     macOS   cc -o kq_demo kq_demo.c
 *     Linux   cc -o kq_demo kq_demo.c -L DIR -l agentfs_testkq_preload
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#ifdef __linux__
/* What <sys/event.h> has on macOS. */
#include <time.h>
#pragma pack(4)
struct kevent {
    uintptr_t ident;
    int16_t filter;
    uint16_t flags;
    uint32_t fflags;
    intptr_t data;
    void *udata;
};
#pragma pack()
int kqueue(void);
int kevent(int, const struct kevent *, int, struct kevent *, int, const struct timespec *);
enum { EVFILT_READ = -1, EVFILT_VNODE = -4, EVFILT_TIMER = -7, EVFILT_USER = -10 };
enum { EV_ADD = 1, EV_CLEAR = 0x20, EV_ONESHOT = 0x10, EV_EOF = 0x8000 };
#define NOTE_TRIGGER 0x01000000
#define EV_SET(k, a, b, c, d, e, f) (*(k) = (struct kevent){(a), (b), (c), (d), (e), (f)})
#else
#include <sys/event.h>
#endif
#ifndef O_EVTONLY
#define O_EVTONLY O_RDONLY
#endif

static const char *const NOTES[] = {"DELETE", "WRITE", "EXTEND", "ATTRIB", "LINK", "RENAME", "REVOKE"};

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static void print_notes(const struct kevent *event)
{
    printf("%s:", (const char *)event->udata);
    for (unsigned bit = 0; bit < sizeof NOTES / sizeof *NOTES; bit++)
        if (event->fflags & 1u << bit)
            printf(" %s", NOTES[bit]);
    printf("\n");
}

/* False at the end of the input. */
static int print_input(const struct kevent *event)
{
    char line[4096];
    ssize_t len = read(STDIN_FILENO, line, sizeof line);
    if (len <= 0)
        return !(event->flags & EV_EOF) && len < 0;
    for (ssize_t i = 0; i < len; i++)
        if (line[i] == '\n')
            printf("stdin: a line\n");
    return 1;
}

int main(int argc, char **argv)
{
    int kq = kqueue();
    if (kq < 0)
        fail("kqueue");
    struct kevent change;
    for (int i = 1; i < argc; i++) {
        int fd = open(argv[i], O_EVTONLY);
        if (fd < 0)
            fail(argv[i]);
        EV_SET(&change, fd, EVFILT_VNODE, EV_ADD | EV_CLEAR, 0x7F, 0, argv[i]);
        if (kevent(kq, &change, 1, NULL, 0, NULL) < 0)
            fail("kevent");
    }
    struct kevent own[3];
    EV_SET(&own[0], STDIN_FILENO, EVFILT_READ, EV_ADD, 0, 0, NULL);
    EV_SET(&own[1], 123, EVFILT_USER, EV_ADD | EV_CLEAR, NOTE_TRIGGER, 0, NULL);
    EV_SET(&own[2], 1, EVFILT_TIMER, EV_ADD | EV_ONESHOT, 0, 1, NULL);
    if (kevent(kq, own, 3, NULL, 0, NULL) < 0)
        fail("kevent");
    int own_events = 2;
    for (;;) {
        struct kevent events[8];
        int count = kevent(kq, NULL, 0, events, 8, NULL);
        if (count < 0)
            fail("kevent");
        for (int i = 0; i < count; i++) {
            if (events[i].filter == EVFILT_VNODE)
                print_notes(&events[i]);
            else if (events[i].filter == EVFILT_READ && events[i].ident == STDIN_FILENO) {
                if (!print_input(&events[i]))
                    return 0;
            } else if (events[i].filter == EVFILT_USER && events[i].ident == 123)
                own_events--;
            else if (events[i].filter == EVFILT_TIMER && events[i].ident == 1)
                own_events--;
            else
                printf("unexpected: filter %d\n", events[i].filter);
        }
        if (own_events == 0) {
            own_events = -1;
            printf("ready\n");
        }
        fflush(stdout);
    }
}
