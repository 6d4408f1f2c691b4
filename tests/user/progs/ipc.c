/* SysV and POSIX inter-process communication: keys, permissions, limits, undo, notification, and the structures they
 * fill. */
#include "said.h"
#include <fcntl.h>
#include <mqueue.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

union semun {
    int val;
    struct semid_ds *buf;
    unsigned short *array;
    struct seminfo *info;
};

#define SLOT(id) ((id)&0x7fff) /* where the kernel has it, for SEM_STAT and its like */

static void semaphores(void)
{
    struct {
        struct semid_ds ds;
        unsigned guard;
    } any;
    int id = semget(IPC_PRIVATE, 3, 0640), status;
    unsigned short all[3] = {4, 5, 6};
    struct sembuf op[2] = {{0, 2, 0}, {1, -1, SEM_UNDO}}, wait0 = {2, -9, IPC_NOWAIT};
    struct timespec ts = {0, 20000000};
    struct semid_ds ds;
    struct seminfo info;

    SAY(semctl(id, 0, SETALL, (union semun){.array = all}));
    if (!fork())
        _exit(semop(id, op, 2));
    wait(&status);
    memset(all, 0, sizeof all);
    SAY(semctl(id, 0, GETALL, (union semun){.array = all}));
    printf("sem %d: %d %d %d\n", status, all[0], all[1], all[2]);
    SAY(semop(id, &wait0, 1));
    wait0.sem_flg = 0;
    SAY(semtimedop(id, &wait0, 1, &ts));
    SAY(semctl(id, 0, IPC_STAT, (union semun){.buf = &ds}));
    printf("semid_ds: %o %lu %d\n", ds.sem_perm.mode, (unsigned long)ds.sem_nsems, time(NULL) - ds.sem_ctime < 100);
    ds.sem_perm.mode = 0600;
    SAY(semctl(id, 0, IPC_SET, (union semun){.buf = &ds}));
    SAY(semctl(id, 1, SETVAL, (union semun){.val = 77}));
    SAY(semctl(id, 1, GETVAL));
    SAY(semctl(id, 1, GETPID) == getpid());
    SAY(semctl(id, 1, GETNCNT));
    SAY(semctl(id, 9, GETVAL));
    SAY(semctl(0, 0, IPC_INFO, (union semun){.info = &info}) >= 0 && info.semmsl > 0);
    any.guard = 4660;
    SAY(semctl(SLOT(id), 0, SEM_STAT_ANY, (union semun){.buf = &any.ds}) == id);
    printf("%lu %x\n", (unsigned long)any.ds.sem_nsems, any.guard);
    SAY(semctl(id, 0, IPC_RMID));
    SAY(semop(id, op, 1));
}

static void messages(void)
{
    struct {
        long type;
        char text[32];
    } m = {7, "seven"}, got;
    int id = msgget(IPC_PRIVATE, 0600);
    struct msqid_ds ds;
    struct msginfo info = {0};

    SAY(msgsnd(id, &m, 6, 0));
    m.type = 3;
    strcpy(m.text, "three");
    SAY(msgsnd(id, &m, 6, IPC_NOWAIT));
    SAY(msgctl(id, IPC_STAT, &ds));
    SAY(msgctl(0, IPC_INFO, (struct msqid_ds *)&info) >= 0 && info.msgmax > 0 && info.msgmnb > 0);
    memset(&ds, 0, sizeof ds);
    SAY(msgctl(SLOT(id), MSG_STAT_ANY, &ds) == id && ds.msg_qnum == 2);
    printf("msqid_ds: %lu %d %o\n", (unsigned long)ds.msg_qnum, ds.msg_lspid == getpid(), ds.msg_perm.mode);
    memset(&got, 0, sizeof got);
    SAY(msgrcv(id, &got, 32, -5, 0));
    printf("%ld %s\n", got.type, got.text);
    SAY(msgrcv(id, &got, 2, 7, 0));
    SAY(msgrcv(id, &got, 2, 7, MSG_NOERROR));
    printf("%ld %.2s\n", got.type, got.text);
    SAY(msgrcv(id, &got, 32, 0, IPC_NOWAIT));
    m.type = 0;
    SAY(msgsnd(id, &m, 6, 0));
    SAY(msgctl(id, IPC_RMID, NULL));
}

static void shared(void)
{
    int id = shmget(IPC_PRIVATE, 9000, 0600);
    struct shminfo limits = {0};
    struct shm_info used = {0};
    struct shmid_ds ds;
    char *p = shmat(id, NULL, 0), *q, *part[3];

    SAY_IF(p != (void *)-1);
    strcpy(p, "shared");
    if (!fork()) {
        p[0] = 'S';
        _exit(0);
    }
    wait(NULL);
    q = shmat(id, NULL, SHM_RDONLY);
    printf("%s %d\n", q, q != p);
    SAY(shmctl(id, IPC_STAT, &ds));
    SAY(shmctl(0, IPC_INFO, (struct shmid_ds *)&limits) >= 0 && limits.shmmax > 4096 && limits.shmmni > 0);
    SAY(shmctl(0, SHM_INFO, (struct shmid_ds *)&used) >= 0 && used.used_ids > 0 && used.shm_tot > 2);
    memset(&ds, 0, sizeof ds);
    SAY(shmctl(SLOT(id), SHM_STAT_ANY, &ds) == id && ds.shm_segsz == 9000);
    printf("shmid_ds: %lu %lu %d\n", (unsigned long)ds.shm_segsz, (unsigned long)ds.shm_nattch,
           ds.shm_cpid == getpid());
    SAY(shmdt(q));
    SAY(shmdt(q));
    for (int i = 0; i < 3; i++) /* beside each other, perhaps */
        SAY_IF((part[i] = shmat(id, NULL, 0)) != (void *)-1);
    SAY(shmdt(part[2]));
    SAY_IF((part[2] = shmat(id, NULL, 0)) != (void *)-1);
    SAY(shmdt(part[1]));
    SAY_IF((part[1] = shmat(id, NULL, 0)) != (void *)-1);
    SAY_IF((q = shmat(id, NULL, 0)) != (void *)-1);
    for (int i = 0; i < 3; i++) {
        printf("%s\n", part[i]);
        SAY(shmdt(part[i]));
    }
    SAY(shmdt(q));
    SAY(shmctl(id, IPC_RMID, NULL));
    p[8999] = 1;
    SAY(shmdt(p));
    SAY((long)shmat(id, NULL, 0));
    SAY(shmget(IPC_PRIVATE, 0, 0600));
}

static volatile int told;
static void on_note(int s, siginfo_t *i, void *c)
{
    told = i->si_code == SI_MESGQ ? i->si_value.sival_int : -1;
}

static void queues(void)
{
    struct mq_attr at = {.mq_maxmsg = 3, .mq_msgsize = 16}, old;
    struct sigaction sa = {.sa_sigaction = on_note, .sa_flags = SA_SIGINFO};
    struct sigevent ev = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1, .sigev_value.sival_int = 4711};
    struct timespec soon;
    char name[40], buf[16];
    unsigned prio = 0;
    mqd_t q;

    sprintf(name, "/lyre-%d", getpid());
    q = mq_open(name, O_RDWR | O_CREAT | O_EXCL, 0600, &at);
    if (q == -1 && errno == ENOSYS)
        return;
    sigaction(SIGUSR1, &sa, NULL);
    SAY(mq_notify(q, &ev));
    SAY(mq_send(q, "low", 4, 1));
    SAY(told);
    SAY(mq_send(q, "high", 5, 9));
    SAY(mq_getattr(q, &old));
    printf("mq_attr %ld %ld %ld %ld\n", old.mq_flags, old.mq_maxmsg, old.mq_msgsize, old.mq_curmsgs);
    SAY(mq_receive(q, buf, 16, &prio));
    printf("%s %u\n", buf, prio);
    SAY(mq_receive(q, buf, 3, NULL));
    SAY(mq_receive(q, buf, 16, NULL));
    clock_gettime(CLOCK_REALTIME, &soon);
    soon.tv_nsec = (soon.tv_nsec + 20000000) % 1000000000;
    SAY(mq_timedreceive(q, buf, 16, NULL, &soon));
    old.mq_flags = O_NONBLOCK;
    SAY(mq_setattr(q, &old, NULL));
    SAY(mq_receive(q, buf, 16, NULL));
    SAY(mq_close(q));
    SAY(mq_unlink(name));
    SAY(mq_unlink(name));
}

static void named(void)
{
    sem_t *s;
    char name[40];
    int v, fd;

    sprintf(name, "/lyre-s-%d", getpid());
    s = sem_open(name, O_CREAT | O_EXCL, 0600, 1);
    if (s == SEM_FAILED) {
        printf("no shm\n");
        return;
    }
    SAY(sem_trywait(s));
    SAY(sem_trywait(s));
    if (!fork())
        _exit(sem_post(s));
    SAY(sem_wait(s));
    wait(NULL);
    SAY(sem_getvalue(s, &v));
    SAY(v);
    SAY(sem_unlink(name));
    fd = shm_open(name, O_CREAT | O_RDWR, 0600);
    SAY(ftruncate(fd, 5000));
    SAY_IF(mmap(NULL, 5000, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
    SAY(shm_unlink(name));
}

int main(void)
{
    semaphores();
    messages();
    shared();
    queues();
    named();
    return 0;
}
