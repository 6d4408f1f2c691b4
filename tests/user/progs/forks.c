/* Processes: fork storms, vfork, exec with arguments and environment, pipes, exit status. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;
static void *idle(void *a)
{
    pause();
    return a;
}
int main(int argc, char **argv)
{
    char *const child[] = {argv[0], "child", "a b", "", NULL};
    char *const no[] = {"/nonexistent", NULL};
    pthread_t t;
    int st, sum = 0;
    pid_t p;

    if (argc > 1) {
        printf("child %d [%s] [%s] %s\n", argc, argv[2], argv[3], getenv("MARK"));
        return 9;
    }
    setvbuf(stdout, NULL, _IONBF, 0);
    setenv("MARK", "marked", 1);
    pthread_create(&t, NULL, idle, NULL);
    for (int i = 0; i < 50; i++)
        if (!fork())
            _exit(i);
    for (int i = 0; i < 50; i++) {
        wait(&st);
        sum += WEXITSTATUS(st);
    }
    printf("sum %d\n", sum);
    p = vfork();
    if (!p) {
        execv(argv[0], child);
        _exit(1);
    }
    waitpid(p, &st, 0);
    printf("status %d\n", WEXITSTATUS(st));
    st = posix_spawn(&p, argv[0], NULL, NULL, child, environ);
    sum = st;
    waitpid(p, &st, 0);
    printf("spawn %d\n", sum);
    printf("status %d\n", WEXITSTATUS(st));
    printf("spawn of nothing %d\n", posix_spawn(&p, no[0], NULL, NULL, no, environ));
    printf("exec of nothing %d", execv(no[0], no));
    printf(" errno %d\n", errno);
    return system("exit 4") >> 8;
}
