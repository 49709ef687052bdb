/*
 * The change feed, for Spin: marks, windows, and whoever reads what it was told.  One product, one database whose epoch stays,
 * one Redis that never changes its identity.  larder.pml has everything else about the cache's rules; docs/PROOF.md says how to
 * run this file.
 *
 * Where each part of R11 is
 *   transactions   Writer: an id, the row's lock and a version, COMMIT, a publish that may be late or never come
 *   audits         Auditor, steps numbered as in R5
 *   marks          `audited`, in the statement that completes an audit; Poller, while no fence can be alive
 *   windows        Follower: what one mark contains and an earlier one does not, by version
 *
 * What is asserted
 *   - no hit is older than what the follower was told (`Reader`)
 *   - versions are told in order, and none twice; everything that a mark contains was told when the follower is at it
 *
 * Abstractions, beside those of larder.pml
 *   - A snapshot is the set of the transactions that it contains.  Their ids exist for the mutant that looks at them.
 *   - An audit compares every row with its slot.  There are no leases and no fills: nothing is stored in an empty slot.
 *   - The follower is told a whole window at once.  Pages of it are in the order of versions.
 *   - One namespace.  tests/feed has the schedule of two.
 */
#ifndef CYCLES
#define CYCLES 2          /* announced, by all auditors */
#endif
#ifndef AUDITORS
#define AUDITORS 1
#endif
#ifndef MARKS
#define MARKS 5           /* the first one is there at the beginning */
#endif
#ifndef TTL
#define TTL 1
#endif
#ifndef GOAL
#define GOAL 0
#endif
#define REACHED(goal) assert((goal) != GOAL)
#define MAX(a, b) ((a) > (b) -> (a) : (b))
#define WRITERS 3
#define BIT(w) (1 << (w))
#define EMPTY 0           /* of a slot; else 1 + its version */

/* ---- PostgreSQL ------------------------------------------------------------------------------------------------------- */
byte ids, id[WRITERS];                    /* of transactions; an id is 0 before its transaction has one */
byte version[WRITERS], versions;          /* of the row, by the transaction that wrote it */
byte committed;                           /* a set of transactions */
byte lock;                                /* of the row: 1 + the writer that holds it */
byte announced, completed, fenced_left;
byte row_snapshot, row_horizon;           /* in the audit's row: of the last completed audit */
byte marks = 1, mark[MARKS], horizon[MARKS];

/* ---- Redis ------------------------------------------------------------------------------------------------------------ */
byte slot = 1, fence_left = TTL;

byte told, told_version, acknowledged;
bit by_audit[MARKS];
byte a_left[2];

/* The lowest id that is not over yet. Only the mutant has a use for it. */
#ifndef M_WINDOW_BY_XMIN
#define NEXT_ID 1
inline take_horizon(to) { skip }
#else
#define NEXT_ID (ids + 1)
inline take_horizon(to) {
    to = ids + 1;
    if :: id[0] && !(committed & BIT(0)) && id[0] < to -> to = id[0] :: else fi;
    if :: id[1] && !(committed & BIT(1)) && id[1] < to -> to = id[1] :: else fi;
    if :: id[2] && !(committed & BIT(2)) && id[2] < to -> to = id[2] :: else fi
}
#endif

/* ---- transactions ----------------------------------------------------------------------------------------------------- */
/* An id is there before the row's lock if the transaction locked another row first, and some write that other row alone. */
proctype Writer(byte w; bit writes) {
    atomic { id[w] = NEXT_ID; ids = id[w]; printf("T%d has id %d\n", w, ids) }
    if
    :: atomic { writes && lock == 0 -> lock = 1 + w; versions++; version[w] = versions; printf("T%d writes version %d\n", w, versions) }
    :: !writes
    fi;
    atomic {
        committed = committed | BIT(w);
        if :: writes -> lock = 0 :: else fi;
        printf("T%d commits\n", w)
    }
    if
    :: atomic { writes && slot != EMPTY -> slot = MAX(slot, 1 + version[w]); printf("T%d publishes: slot %d\n", w, slot) }
    :: true  /* lost */
    fi
}

/* ---- marks ------------------------------------------------------------------------------------------------------------ */
#ifdef M_MARK_NOT_BEYOND
#define NEWS(snapshot) ((snapshot) != mark[marks - 1])
#else
#define NEWS(snapshot) ((snapshot) & ~mark[marks - 1])
#endif
inline make_mark(snapshot, below, audit) {
    if
    :: marks < MARKS && NEWS(snapshot) ->
        mark[marks] = snapshot; horizon[marks] = below; by_audit[marks] = audit; marks++;
        printf("mark %d contains %d\n", marks - 1, snapshot)
    :: else
    fi
}
/* While no fence can be alive, no slot is used, and the next fence needs an audit that is announced later. */
proctype Poller() {
    byte below;
    do
    :: atomic {
#ifndef M_MARK_FROM_POLL
        fenced_left == 0 &&
#endif
        marks < MARKS && NEWS(committed) -> take_horizon(below); make_mark(committed, below, false); below = 0
       }
    /* The poller has seen no fence, and an audit was announced since: what the namespace completed last counts. */
    :: atomic { fenced_left > 0 && marks < MARKS && NEWS(row_snapshot) -> make_mark(row_snapshot, row_horizon, true) }
    od
}

/* ---- audits (R5) ------------------------------------------------------------------------------------------------------ */
#define OLDER(w) ((seen & BIT(w)) && version[w] && slot < 1 + version[w])
proctype Auditor(byte a) {
    byte seen, below, cycle;
again:
    atomic { announced < CYCLES -> a_left[a] = TTL; printf("A%d begins\n", a) }  /* 1 */
    atomic {  /* 2 */
        announced < CYCLES -> announced++; cycle = announced; fenced_left = MAX(fenced_left, TTL);
        printf("A%d announces %d\n", a, cycle)
    }
    atomic {  /* 3 */
        seen = committed; take_horizon(below); printf("A%d takes its snapshot: %d\n", a, seen);
#ifdef M_MARK_FROM_SNAPSHOT
        make_mark(seen, below, true)
#endif
    }
    atomic {  /* 4 */
        if :: slot != EMPTY && (OLDER(0) || OLDER(1) || OLDER(2)) -> slot = EMPTY :: else fi;
        printf("A%d repairs: slot %d\n", a, slot)
    }
    if
    :: atomic { a_left[a] > 0 -> fence_left = MAX(fence_left, a_left[a]); printf("A%d sets the fence\n", a) }  /* 5 */
    :: atomic { true -> goto give_up }
    fi;
    atomic {  /* 6, and the mark in the same statement */
        if
        :: cycle > completed ->
            completed = MAX(completed, cycle); row_snapshot = seen; row_horizon = below;
            printf("A%d completes %d\n", a, cycle);
            if
            :: fenced_left > 0 -> make_mark(row_snapshot, row_horizon, true)
            :: else -> take_horizon(below); make_mark(committed, below, false)
            fi
        :: else
        fi;
give_up:
        seen = 0; below = 0; cycle = 0; a_left[a] = 0;
        goto again
    }
}

/* ---- windows ---------------------------------------------------------------------------------------------------------- */
#ifdef M_WINDOW_BY_XMIN
#define IN_MARK(w, n) (id[w] && id[w] < horizon[n])
#else
#define IN_MARK(w, n) (mark[n] & BIT(w))
#endif
#define NEW(w) (version[w] && IN_MARK(w, to) && !IN_MARK(w, at))
inline tell(w, v) {
    if
    :: version[w] == v && NEW(w) ->
        printf("F is told version %d\n", v);
        assert(v > told_version);  /* in order, and not twice */
        told_version = v; told = told | BIT(w); acknowledged = MAX(acknowledged, v);
        if :: by_audit[to] -> REACHED(1) :: else -> REACHED(2) fi
    :: else
    fi
}
inline tell_version(v) { tell(0, v); tell(1, v); tell(2, v) }
#define LOST(w) (version[w] && IN_MARK(w, to) && !(told & BIT(w)))
proctype Follower() {
    byte at, to;
again:
    atomic {
        at + 1 < marks ->
        if :: to = at + 1 :: to = marks - 1 fi;
        if :: to > at + 1 -> REACHED(3) :: else fi;
        tell_version(1); tell_version(2); tell_version(3);
        assert(!LOST(0) && !LOST(1) && !LOST(2));
        at = to; to = 0
    }
    goto again
}

/* ---- time ------------------------------------------------------------------------------------------------------------- */
#define FALL(t) t = (t > 0 -> t - 1 : 0)
proctype Clock() {
    do
    :: d_step { fence_left || fenced_left || a_left[0] || a_left[1] ->
        printf("tick\n"); FALL(fence_left); FALL(fenced_left); FALL(a_left[0]); FALL(a_left[1]) }
    od
}

/* ---- R11 -------------------------------------------------------------------------------------------------------------- */
proctype Reader() { atomic { fence_left > 0 && slot != EMPTY && slot < 1 + acknowledged -> assert(false) } }

init {
    atomic {
        fenced_left = TTL;
#ifdef M_WINDOW_BY_XMIN
        horizon[0] = 1;
#endif
        run Reader(); run Clock(); run Poller(); run Follower();
        run Writer(0, true); run Writer(1, false);
#ifndef ONE_WRITER
        run Writer(2, true);
#endif
        run Auditor(0);
#if AUDITORS > 1
        run Auditor(1)
#endif
    }
}
