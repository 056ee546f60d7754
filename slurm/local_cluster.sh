#!/usr/bin/env bash
# A private two-node SLURM (n1, n2) on this host, unprivileged: slurm/local_cluster.sh up|down|status [DIR]
#
# `up` prints the line that points a shell at it (also in DIR/env.sh); `down` ends what `up` started, jobs included.
# DIR (default: a folder named after the user in the temporary folder) holds its configuration, state and logs; two
# folders are two clusters, each on ports of its own. Partitions: debug (default), and urgent, which takes debug's
# nodes: debug's jobs get their signal (--signal), 20 s later the end, and are requeued.
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin
ME=$(id -un)
LONGEST=70 # characters of DIR: a socket's path may have 107

fail() {
    echo "error: $*" >&2
    exit 1
}

# No pid file can be stale: a daemon, or a job's slurmstepd, is one that has a log in DIR open. (Their environment does
# not tell: slurmstepd writes its title over it.)
daemons() {
    local pid
    find /proc/[0-9]*/fd -lname "$DIR/*.log" 2>/dev/null | cut -d/ -f3 | sort -u | while read -r pid; do
        case $(cat "/proc/$pid/comm" 2>/dev/null) in munged | slurmctld | slurmd | slurmstepd) echo "$pid" ;; esac
    done || true
}

with_children() {
    local pid
    for pid in "$@"; do
        echo "$pid"
        # shellcheck disable=SC2046  # a list of numbers
        with_children $(cat "/proc/$pid/task/"*/children 2>/dev/null || true)
    done
}

living() { # of these; a zombie has no program
    local pid
    for pid in "$@"; do
        if readlink "/proc/$pid/exe" >/dev/null; then echo "$pid"; fi
    done
}

free_ports() { # three in a row; another program may take one meanwhile: then a daemon ends, and `up` says so
    local first port try
    for try in {1..50}; do
        first=$((20000 + (RANDOM + try) % 10000))
        for port in "$first" $((first + 1)) $((first + 2)); do
            (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null && continue 2
        done
        echo "$first" && return
    done
    fail "no free ports between 20000 and 30000"
}

write_conf() {
    local port=$1 host
    host=$(hostname -s)
    cat >"$DIR/slurm.conf" <<END
ClusterName=local
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmUser=$ME
SlurmdUser=$ME
AuthType=auth/munge
CredType=cred/munge
# a requeued job waits for cred_expire; 5 is the least, else it is 120
AuthInfo=socket=$DIR/munge.socket,cred_expire=5
StateSaveLocation=$DIR/state
SlurmdSpoolDir=$DIR/spool.%n
SlurmctldPidFile=$DIR/slurmctld.pid
SlurmdPidFile=$DIR/slurmd.%n.pid
SlurmctldLogFile=$DIR/slurmctld.log
SlurmdLogFile=$DIR/slurmd.%n.log
# no cgroups in containers
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
MinJobAge=3600
KillWait=30
ReturnToService=2
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
# more processors than there may be: the nodes are emulated
SlurmdParameters=config_overrides
NodeName=n[1-2] NodeHostname=$host NodeAddr=127.0.0.1 Port=[$((port + 1))-$((port + 2))] CPUs=4 RealMemory=8000
PartitionName=debug Nodes=n[1-2] Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=20
PartitionName=urgent Nodes=n[1-2] MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
END
}

start() {
    munged --force --key-file="$DIR/munge.key" --socket="$DIR/munge.socket" --pid-file="$DIR/munge.pid" \
        --log-file="$DIR/munge.log" --seed-file="$DIR/munge.seed" --num-threads=2 2>>"$DIR/munge.log" &&
        slurmctld -c -f "$DIR/slurm.conf" 2>>"$DIR/slurmctld.log" &&
        slurmd -f "$DIR/slurm.conf" -N n1 2>>"$DIR/slurmd.n1.log" &&
        slurmd -f "$DIR/slurm.conf" -N n2 2>>"$DIR/slurmd.n2.log"
}

idle_nodes() {
    timeout 5 sinfo --noheader --partition=debug --states=idle --format=%D 2>/dev/null || true
}

up() {
    local program
    for program in slurmctld slurmd munged sbatch; do
        command -v "$program" >/dev/null || fail "$program is missing; \
apt-get install -y --no-install-recommends slurmctld slurmd slurm-client munge"
    done
    [ "${#DIR}" -le $LONGEST ] || fail "$DIR is too long for a socket's path; name a folder of at most $LONGEST characters"
    case $DIR in *[!A-Za-z0-9_./-]*) fail "$DIR: use letters, digits, '.', '_', '-' and '/' alone" ;; esac
    if [ -n "$(daemons)" ]; then
        timeout 5 sinfo >/dev/null 2>&1 && cat "$DIR/env.sh" && return
        down # what is left of one that was killed
    fi
    [ ! -e "$DIR" ] || [ -e "$DIR/slurm.conf" ] || [ -z "$(ls -A "$DIR")" ] || fail "$DIR holds other files; name another folder"
    mkdir -p "$DIR/state"
    chmod 755 "$DIR"
    rm -f "$DIR/munge.key"
    (umask 077 && head -c 128 /dev/urandom >"$DIR/munge.key")
    write_conf "$(free_ports)"
    echo "export SLURM_CONF=$DIR/slurm.conf" >"$DIR/env.sh"
    start || { down && fail "a daemon did not start; see the logs in $DIR"; }
    for _ in {1..100}; do
        [ "$(idle_nodes)" = 2 ] && cat "$DIR/env.sh" && return
        sleep 0.1
    done
    down
    fail "the nodes did not come up within 10 s; see the logs in $DIR"
}

# shellcheck disable=SC2046,SC2086  # lists of numbers
down() {
    local pids signal
    pids=$(with_children $(daemons))
    for signal in TERM KILL; do
        kill -s $signal $(living $pids) 2>/dev/null || true
        for _ in {1..20}; do
            [ -z "$(living $pids)" ] && return
            sleep 0.1
        done
    done
    fail "these processes do not end: $(living $pids)"
}

show_status() {
    [ -n "$(daemons)" ] || { echo "down: $DIR" && exit 1; }
    cat "$DIR/env.sh"
    timeout 5 sinfo || fail "the daemons run, but slurmctld does not answer; see the logs in $DIR"
}

DIR=$(realpath -m "${2:-${TMPDIR:-/tmp}/unigen-slurm-$ME}")
export SLURM_CONF=$DIR/slurm.conf
case ${1:-} in
    up) up ;;
    down) down ;;
    status) show_status ;;
    *) fail "say slurm/local_cluster.sh up, down or status, and a folder if you like" ;;
esac
