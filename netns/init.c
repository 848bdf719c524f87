/* SPDX-License-Identifier: Apache-2.0
 *
 * The first process of a process namespace (pid_namespaces(7)): `launch.py` starts it and says why
 * there is one.
 *
 *   init STATUS USER PROC GROUPS DIRECTORY PROGRAM [ARGUMENT...]
 *
 * STATUS is a descriptor that is written to: whether the program runs (struct begun), then how it
 * has ended (wait(2), an int). When nobody can read it any more, all ends. USER is a number, user
 * and group of the program, without capabilities and without a way to any, with 1,024 open files at
 * most ("Lambda quotas"); or "-", and it is what this process is. PROC is "1" when /proc is to be mounted anew. GROUPS are descriptors of files
 * that list the members of control groups of version 1, with commas between; "-" for none. DIRECTORY
 * is the descriptor of a control group of version 2, which the program begins in; "-" for none.
 *
 * Statically linked: its environment is the program's, and nothing in that may have it load
 * anything.
 */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/sched.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum step { PROGRAM, GROUPS, PROC, USER, PROCESS };

struct begun {
    int error; /* errno, 0 when the program runs */
    int step;  /* what has failed */
};

extern char **environ;

static void report(int status, int step, int error)
{
    struct begun begun = {error, step};
    if (write(status, &begun, sizeof begun) != sizeof begun || error)
        _exit(1);
}

static void noted(int number)
{
    (void)number;
}

static int drop(const char *user)
{
    char *end;
    unsigned long id = strtoul(user, &end, 10);
    if (*end)
        return EINVAL;
    struct rlimit files = {1024, 1024};
    if (setrlimit(RLIMIT_NOFILE, &files))
        return errno;
    for (unsigned long capability = 0; capability < 64; capability++)
        if (prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) && errno != EINVAL)
            return errno;
    if (setgroups(0, NULL) || setresgid(id, id, id) || setresuid(id, id, id))
        return errno;
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        return errno;
    return 0;
}

/* execvp(3), but for what has no "#!" line: a shell is not tried. */
static int run(char **arguments)
{
    const char *name = arguments[0], *path = getenv("PATH");
    if (strchr(name, '/') || !path) {
        execve(name, arguments, environ);
        return errno;
    }
    int refused = 0;
    while (1) {
        size_t size = strcspn(path, ":");
        char file[4096];
        int length = snprintf(file, sizeof file, "%.*s%s%s", (int)size, path, size ? "/" : "", name);
        if (length >= (int)sizeof file)
            return ENAMETOOLONG;
        execve(file, arguments, environ);
        if (errno != ENOENT && errno != ENOTDIR && !refused)
            refused = errno;
        if (!path[size])
            return refused ? refused : ENOENT;
        path += size + 1;
    }
}

/* fork(2) into a control group: who joins one waits for all processors of the host, some 10 ms. */
static pid_t begin(int directory)
{
    if (directory < 0)
        return fork();
    struct clone_args arguments = {.flags = CLONE_INTO_CGROUP, .exit_signal = SIGCHLD};
    arguments.cgroup = (unsigned)directory;
    pid_t begun = (pid_t)syscall(SYS_clone3, &arguments, sizeof arguments);
    if (begun >= 0 || (errno != ENOSYS && errno != EINVAL && errno != E2BIG))
        return begun;
    /* Before Linux 5.7 this process is in it, too. */
    int members = openat(directory, "cgroup.procs", O_WRONLY | O_CLOEXEC);
    if (members < 0 || write(members, "0", 1) != 1)
        return -1;
    close(members);
    return fork();
}

int main(int count, char **words)
{
    if (count < 7)
        return 2;
    int status = atoi(words[1]);
    const char *user = words[2];
    fcntl(status, F_SETFD, FD_CLOEXEC);
    signal(SIGPIPE, SIG_IGN);
    if (strcmp(words[4], "-")) {
        for (char *rest = words[4]; *rest; rest += *rest == ',') {
            int group = (int)strtol(rest, &rest, 10);
            if (write(group, "0", 1) != 1)
                report(status, GROUPS, errno);
            close(group);
        }
    }
    int directory = strcmp(words[5], "-") ? atoi(words[5]) : -1;
    fcntl(directory, F_SETFD, FD_CLOEXEC);
    if (words[3][0] == '1' && mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL))
        report(status, PROC, errno);

    struct sigaction ended = {.sa_handler = noted, .sa_flags = SA_NOCLDSTOP};
    sigset_t waiting, before;
    sigemptyset(&waiting);
    sigaddset(&waiting, SIGCHLD);
    sigprocmask(SIG_BLOCK, &waiting, &before);
    sigaction(SIGCHLD, &ended, NULL);

    int failure[2];
    if (pipe2(failure, O_CLOEXEC))
        report(status, PROCESS, errno);
    pid_t program = begin(directory);
    if (program < 0)
        report(status, PROCESS, errno);
    if (!program) {
        int told[2] = {0, USER};
        setsid();
        signal(SIGPIPE, SIG_DFL);
        signal(SIGCHLD, SIG_DFL);
        sigprocmask(SIG_SETMASK, &before, NULL);
        if (!strcmp(user, "-") || !(told[0] = drop(user))) {
            told[1] = PROGRAM;
            told[0] = run(words + 6);
        }
        if (write(failure[1], told, sizeof told) < 0)
            _exit(126);
        _exit(127);
    }
    close(failure[1]);
    close(directory);
    /* What the program writes to ends with it. */
    for (int number = 0; number < 3; number++)
        close(number);
    int told[2];
    ssize_t got;
    while ((got = read(failure[0], told, sizeof told)) < 0 && errno == EINTR)
        ;
    close(failure[0]);
    if (got == sizeof told)
        report(status, told[1], told[0]);
    report(status, PROGRAM, 0);

    struct pollfd watched = {.fd = status, .events = 0};
    while (1) {
        int how;
        pid_t who;
        while ((who = waitpid(-1, &how, WNOHANG)) > 0)
            if (who == program)
                return write(status, &how, sizeof how) != sizeof how;
        if (ppoll(&watched, 1, NULL, &before) > 0)
            /* Nobody reads it. */
            return 1;
    }
}
