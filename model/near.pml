/*
 * Slots kept in a process, for Spin: copies that Redis takes back in the stream of the replies.  One key, one server, the reading
 * connection of one process, and everybody else who changes the slot.  larder.pml has everything else about the cache's rules;
 * docs/PROOF.md says how to run this file.
 *
 * Where each part is
 *   Redis          `changed`: an invalidation goes into the stream of the connection that has read the key, once
 *   the reader     Reader: a packet is the fence, with the slot unless there is a copy, and then the identity.  Other clients'
 *                  commands may come between the two.  Everything is used behind the reply to the second
 *   writes         Writer 0 is of the reader's own process, Writer 1 of another; a publish may be lost
 *   fills          Loader: a lease, a load, a publish with the token
 *   audits         Auditor: announce, snapshot, compare, fence, complete
 *
 * What is asserted: G1 for hits.
 *
 * Abstractions, beside those of larder.pml
 *   - The fence ends at any moment, and the writer sees it; time is larder.pml's.
 *   - A slot whose TTL has ended is there until somebody touches it.  Redis answers reads as if it were not.
 *   - A reconnection stands for every end of the connection: restarts and failovers, too, which change the identity.
 *   - Eviction and overflow of Redis's table of what it tracks are invalidations at any moment.
 */
#ifndef GOAL
#define GOAL 0
#endif
#define REACHED(goal) assert((goal) != GOAL)
#define MAX(a, b) ((a) > (b) -> (a) : (b))
#define EMPTY 0           /* of a slot and of a copy; else 1 + a version, or a lease */
#define LEASE 9
#define IS_VALUE(s) ((s) != EMPTY && (s) != LEASE)
#ifndef CYCLES
#define CYCLES 1
#endif

mtype = { invalidation, reply, identity };

/* ---- PostgreSQL ------------------------------------------------------------------------------------------------------- */
byte row, announced, completed, acknowledged;
bit busy;                 /* an audit is under way */

/* ---- Redis ------------------------------------------------------------------------------------------------------------ */
byte slot = 1;
bit over;                 /* the slot's TTL has ended */
bit fence = true;
bit tracked;              /* Redis remembers that the reader's connection has read the key */
chan stream = [6] of { mtype, byte, bit };  /* to the reader */
#if defined(M_BROADCAST) || defined(M_ANOTHER_CONNECTION)
bit apart;                /* an invalidation is not in the stream yet, or comes by another way */
#endif

inline changed(own) {
    if
#ifdef M_OWN_WRITES_NOT_TRACKED
    :: own -> skip
#endif
#ifdef M_ENDED_SLOT_NOT_TOLD
    :: over -> skip
#endif
    :: !tracked -> skip
    :: else -> tracked = false;
#if defined(M_BROADCAST) || defined(M_ANOTHER_CONNECTION)
        apart = true
#else
        stream ! invalidation(0, 0)
#endif
    fi;
    over = false
}
/* Whoever writes, leases or compares first removes a slot whose time is over. */
inline touch() {
    if
    :: over -> slot = EMPTY; changed(false)
    :: else
    fi
}

inline publish(state, token, own) {
    touch();
    if
    :: IS_VALUE(slot) && slot < 1 + state -> slot = 1 + state; changed(own)
    :: slot == LEASE && token -> slot = 1 + state; changed(own)
    :: slot == LEASE && !token -> slot = EMPTY; changed(own)
    :: else -> skip
    fi
}

proctype Writer(byte w) {
    byte state, seen;
    atomic { row++; state = row; printf("W%d commits %d\n", w, state) }
    atomic {
        if
        :: publish(state, false, w == 0); printf("W%d publishes %d: slot %d\n", w, state, slot);
            if
            :: fence -> goto told
            :: true
            fi
        :: true  /* the publish is lost */
        fi
    }
    atomic { seen = announced }
    if
    :: atomic { completed > seen }
    :: atomic { !fence && !busy }
    fi;
told:
    atomic { acknowledged = MAX(acknowledged, state); printf("W%d acknowledges %d\n", w, state); state = 0; seen = 0 }
}

proctype Loader() {
    byte loaded;
    bit token;
    do
    :: atomic { slot == EMPTY || over -> touch(); slot = LEASE; changed(false); token = true; printf("L takes the lease\n") }
       atomic { loaded = row }
       atomic { publish(loaded, token, false); printf("L fills with %d: slot %d\n", loaded, slot); loaded = 0; token = false }
    od
}

proctype Auditor() {
    byte seen, cycle;
    do
    :: atomic { announced < CYCLES -> busy = true; announced++; cycle = announced }
       atomic { seen = row }
       atomic {
            touch();
            if
            :: slot == LEASE || (IS_VALUE(slot) && slot < 1 + seen) -> slot = EMPTY; changed(false)
            :: else
            fi;
            seen = 0;
            fence = true
       }
       atomic { completed = MAX(completed, cycle); cycle = 0; busy = false; printf("A completes %d\n", completed) }
    od
}

proctype Fault() {
    do
    :: atomic { slot != EMPTY -> slot = EMPTY; changed(false); printf("evicted\n") }
    :: atomic { IS_VALUE(slot) && !over -> over = true; printf("the slot's time is over\n") }
    :: atomic { fence -> fence = false; printf("the fence ends\n") }
#ifndef M_ENDED_SLOT_NOT_TOLD
    :: atomic { tracked -> changed(false) }  /* Redis's table of names is full */
#endif
#ifdef M_BROADCAST
    :: atomic { apart && nfull(stream) -> apart = false; stream ! invalidation(0, 0) }  /* at the end of an iteration of its loop */
#endif
    od
}

proctype Reader() {
    byte copy, got, answer, floor;
    bit all, trusted, taken, kept_fence;
again:
    atomic { floor = acknowledged; printf("R begins, at least %d, copy %d\n", floor, copy) }
packet:
    atomic {
        all = all || copy == EMPTY;
        taken = false
#ifdef M_USED_BEFORE_THE_REPLY
        ; answer = copy
#endif
    }
    atomic {  /* MGET */
        if
        :: all -> tracked = true; stream ! reply((over -> EMPTY : slot), fence)
        :: else -> stream ! reply(EMPTY, fence)
        fi
    }
    atomic { stream ! identity(0, 0) }
    atomic {
        do
        :: stream ? invalidation(_, _) -> copy = EMPTY; taken = true
        :: stream ? reply(got, trusted)
        :: stream ? identity(_, _) -> break
        od;
#ifdef M_KEPT_FENCE
        if :: all -> kept_fence = trusted :: else -> trusted = kept_fence fi;
#endif
        if
        :: all -> all = false; answer = got;
            if
#ifdef M_KEPT_WHATEVER_CAME
            :: IS_VALUE(got) -> copy = got
#endif
            :: IS_VALUE(got) && !taken -> copy = got
            :: else
            fi
#ifdef M_USED_BEFORE_THE_REPLY
        :: else  /* the answer is the copy as it was then */
#else
        :: !all && copy == EMPTY -> REACHED(1); printf("R reads the slot anew\n"); all = true; got = EMPTY; trusted = false; goto packet
        :: !all && copy != EMPTY -> answer = copy;
            if :: answer == 3 && trusted -> REACHED(2) :: else fi;
            if :: over && trusted -> REACHED(3) :: else fi
#endif
        fi;
        if
        :: trusted && IS_VALUE(answer) -> printf("R answers %d\n", answer - 1); assert(answer - 1 >= floor)
        :: else
        fi;
        answer = EMPTY; got = EMPTY; floor = 0; trusted = false; taken = false
    }
    if
    :: true
    :: atomic {  /* the connection is lost, and another one opened */
        tracked = false;
        do :: stream ? _, _, _ :: empty(stream) -> break od;
#ifndef M_KEPT_OVER_A_RECONNECTION
        copy = EMPTY;
#endif
        printf("R connects anew\n")
       }
#ifdef M_ANOTHER_CONNECTION
    :: atomic { apart -> apart = false; copy = EMPTY }
#endif
    fi;
    goto again
}

init {
    atomic { run Reader(); run Writer(0); run Writer(1); run Loader(); run Auditor(); run Fault() }
}
