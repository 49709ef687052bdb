/*
 * Two cached tables in one process of Larder, for Spin: two namespaces, transactions over both, one loop of audits for both.
 * One key of each table, one database whose epoch stays, one Redis that never changes its identity.  larder.pml has everything
 * else about the rules, and worlds.pml two namespaces of *one* table; docs/PROOF.md says how to run this file.
 *
 * Where each rule is
 *   R3 write          Writer: one COMMIT, then a publish for each table, in any order; `table`, Network
 *   R4 settle         Writer from `look` on: for each table whose publish proved nothing, by that table's audit row
 *   R2 fill           Loader, of table 1
 *   R5, R6 audit      Auditor, steps numbered as in the rule.  A cycle is of both tables, or of one that goes on alone; in a
 *                     cycle of both, each may fail by itself after any step, and the other goes on
 *
 * What is asserted: no hit is older than what was acknowledged before (`Reader`), for each table.
 *
 * Abstractions, beside those of larder.pml
 *   - A version is the number of the commit that wrote it, so one watermark is comparable with the rows of both tables.
 *   - A claim excludes nobody: any auditor runs at any moment, on whichever tables, so nothing here rests on it.
 *   - No transaction is open across a snapshot (larder.pml has OPEN_XIDS).
 *   - To hold no claim, to be locked and to lack a trigger are the same here: the table is not in the cycle, or leaves it.
 */
#ifndef CYCLES
#define CYCLES 2          /* announced, by all auditors; a cycle of both tables counts once */
#endif
#ifndef AUDITORS
#define AUDITORS 1
#endif
#ifndef TTL
#define TTL 1
#endif
#ifndef GOAL
#define GOAL 0
#endif
#define REACHED(goal) assert((goal) != GOAL)

#define NONE 255          /* no watermark */
#define EMPTY 0           /* else a lease, or from 16 on a value */
#define IS_VALUE(s) ((s) >= 16)
#define VALUE(v) (16 + (v))
#define STATE(s) ((s) - 16)
#define MAX(a, b) ((a) > (b) -> (a) : (b))
#ifdef M_SHARED_FENCE
#define FENCE(n) 0
#else
#define FENCE(n) (n)
#endif
#ifdef M_SHARED_WATERMARK
#define MARK(n) 0
#else
#define MARK(n) (n)
#endif
#ifdef M_SHARED_ROW
#define ROW(n) 0
#else
#define ROW(n) (n)
#endif

/* ---- PostgreSQL ------------------------------------------------------------------------------------------------------- */
byte commits, row[2];
byte announced[2], completed[2], fenced_left[2];

/* ---- Redis ------------------------------------------------------------------------------------------------------------ */
byte slot[2], fence_left[2], watermark[2];

/* ---- processes -------------------------------------------------------------------------------------------------------- */
#define WRITERS 2
#define AT(w, n) ((w) * 2 + (n))
byte w_state[WRITERS], w_left[WRITERS];
byte w_token[4], w_until[4], w_since[4];     /* by writer and table */
bit w_late[4], w_open[4];                    /* its publish may still land; its table is not proven yet */
bit w_told[WRITERS];
byte a_left[2], told;
byte acknowledged[2];
bool settle_wanted = true;

inline table(n, v, token) {
    settle_wanted = true;
    if
    :: watermark[MARK(n)] == NONE -> slot[n] = EMPTY
    :: else ->
        if
        :: slot[n] == EMPTY
        :: IS_VALUE(slot[n]) -> slot[n] = VALUE(MAX(STATE(slot[n]), v))
        :: slot[n] != EMPTY && slot[n] == token -> slot[n] = VALUE(v)
        :: else -> slot[n] = EMPTY
        fi;
        settle_wanted = (fence_left[FENCE(n)] == 0)
    fi
}

/* ---- R3, R4 ----------------------------------------------------------------------------------------------------------- */
#define WRITES(n) (both || (n) == 1)
inline forget(w) {
    if
    :: w_told[w] && !w_late[AT(w, 0)] && !w_late[AT(w, 1)] ->
        w_state[w] = 0; w_token[AT(w, 0)] = 0; w_token[AT(w, 1)] = 0
    :: else
    fi
}
inline lease(w, n) {
    if
    :: WRITES(n) && slot[n] == EMPTY -> slot[n] = 1 + w; w_token[AT(w, n)] = 1 + w; printf("W%d leases table %d\n", w, n)
    :: true
    fi
}
inline publish(w, n) {
    if
    :: table(n, w_state[w], w_token[AT(w, n)]);
        printf("W%d publishes to table %d: slot %d\n", w, n, slot[n]);
        if :: !settle_wanted -> w_open[AT(w, n)] = false :: true fi
    :: w_late[AT(w, n)] = true; printf("W%d gets no answer of table %d\n", w, n)
    fi;
    settle_wanted = true
}
inline look(w, n) {
    if
    :: w_open[AT(w, n)] -> w_since[AT(w, n)] = announced[ROW(n)]; w_until[AT(w, n)] = fenced_left[ROW(n)]
    :: else
    fi
}
#define SETTLED_BY_AUDIT(n) (completed[ROW(n)] > w_since[AT(w, n)])
#define DONE(n) (!w_open[AT(w, n)] || w_until[AT(w, n)] == 0 || SETTLED_BY_AUDIT(n))
#ifdef M_ONE_OF_TWO
#define ALL_DONE (DONE(0) || DONE(1))
#else
#define ALL_DONE (DONE(0) && DONE(1))
#endif
inline clear(w, n) { w_open[AT(w, n)] = false; w_until[AT(w, n)] = 0; w_since[AT(w, n)] = 0 }

proctype Writer(byte w; bit both) {
    bit sent[2];
    atomic { lease(w, 0); lease(w, 1) }
    atomic {
        commits++; w_state[w] = commits; w_left[w] = TTL;
        row[1] = commits; w_open[AT(w, 1)] = true;
        if :: both -> row[0] = commits; w_open[AT(w, 0)] = true :: else -> sent[0] = true fi;
        printf("W%d commits %d\n", w, commits)
    }
    do
    :: atomic { !sent[0] -> publish(w, 0); sent[0] = true }
    :: atomic { !sent[1] -> publish(w, 1); sent[1] = true }
    :: atomic { sent[0] && sent[1] -> sent[0] = false; sent[1] = false; break }
    od;
    if
    :: atomic {
#ifdef M_ONE_OF_TWO
        (both && !(w_open[AT(w, 0)] && w_open[AT(w, 1)])) || !(w_open[AT(w, 0)] || w_open[AT(w, 1)]) -> skip
#else
        !w_open[AT(w, 0)] && !w_open[AT(w, 1)] -> skip
#endif
       }
    :: atomic { w_open[AT(w, 0)] || w_open[AT(w, 1)] ->
        if :: both && !(w_open[AT(w, 0)] && w_open[AT(w, 1)]) -> REACHED(1) :: else fi;
        look(w, 0); look(w, 1); printf("W%d settles\n", w) }
       atomic { ALL_DONE -> if :: both && w_left[w] > 0 && w_open[AT(w, 0)] && w_open[AT(w, 1)] &&
                                  SETTLED_BY_AUDIT(0) && SETTLED_BY_AUDIT(1) -> REACHED(2) :: else fi }
    :: atomic { w_left[w] == 0 }  /* the largest TTL since the commit: needs no source */
    fi;
    atomic {
        printf("W%d acknowledges %d\n", w, w_state[w]);
        acknowledged[1] = MAX(acknowledged[1], w_state[w]);
        if :: both -> acknowledged[0] = MAX(acknowledged[0], w_state[w]) :: else fi;
        w_left[w] = 0; clear(w, 0); clear(w, 1);
        w_told[w] = true; forget(w)
    }
}

proctype Network() {
    do
    :: atomic { w_late[0] -> table(0, w_state[0], w_token[0]); w_late[0] = false; settle_wanted = true; forget(0) }
    :: atomic { w_late[1] -> table(1, w_state[0], w_token[1]); w_late[1] = false; settle_wanted = true; forget(0) }
    :: atomic { w_late[3] -> table(1, w_state[1], w_token[3]); w_late[3] = false; settle_wanted = true; forget(1) }
    od
}

/* ---- R1 (a miss), R2 -------------------------------------------------------------------------------------------------- */
proctype Loader() {
    byte loaded, token;
again:
    atomic {
        if
        :: slot[1] == EMPTY -> slot[1] = 8; token = 8
        :: true  /* a refresh */
        fi
    }
    atomic { loaded = row[1]; printf("L loads %d\n", loaded) }
    atomic {
        if
        :: table(1, loaded, token); printf("L fills with %d: slot %d\n", loaded, slot[1])
        :: true
        fi;
        settle_wanted = true; loaded = 0; token = 0
    }
    goto again
}

/* ---- R5, R6 ----------------------------------------------------------------------------------------------------------- */
inline announce(n) {
    if
    :: in[n] ->
        announced[ROW(n)]++; cycle[n] = announced[ROW(n)]; fenced_left[ROW(n)] = MAX(fenced_left[ROW(n)], TTL);
        printf("A%d announces %d of table %d\n", a, cycle[n], n)
    :: else
    fi
}
/* A table that is locked, or that changed in more rows than fit into one page, leaves a shared cycle. */
inline may_leave(n) {
    if
    :: in[n] && shared -> in[n] = false; printf("A%d: table %d fails\n", a, n)
    :: in[n]
    :: !in[n]
    fi
}
inline repair(n) {
    if
    :: in[n] && base[n] == NONE -> slot[n] = EMPTY  /* R6: a slot of another incarnation is as good as an empty one */
    :: in[n] && base[n] != NONE && seen_row[n] > base[n] && !(IS_VALUE(slot[n]) && STATE(slot[n]) >= seen_row[n]) -> slot[n] = EMPTY
    :: else
    fi;
    printf("A%d repairs table %d: slot %d\n", a, n, slot[n])
}
inline trust(n) {
    if
    :: in[n] && (watermark[MARK(n)] == base[n] || watermark[MARK(n)] != NONE) ->
        watermark[MARK(n)] = (watermark[MARK(n)] == NONE -> seen : MAX(watermark[MARK(n)], seen));
        if
        :: a_left[a] > 0 ->
            fence_left[FENCE(n)] = MAX(fence_left[FENCE(n)], a_left[a]);
            printf("A%d sets fence and watermark %d of table %d\n", a, seen, n)
        :: else -> in[n] = false; printf("A%d is late for table %d\n", a, n)
        fi
    :: in[n] -> in[n] = false
    :: !in[n]
    fi
}
inline complete(n) {
#ifdef M_FAILING_COMPLETES
    if :: cycle[n] > 0 -> completed[ROW(n)] = MAX(completed[ROW(n)], cycle[n]); printf("A%d completes %d of table %d\n", a, cycle[n], n) :: else fi
#else
    if :: in[n] -> completed[ROW(n)] = MAX(completed[ROW(n)], cycle[n]); printf("A%d completes %d of table %d\n", a, cycle[n], n) :: else fi
#endif
}

proctype Auditor(byte a) {
    byte base[2], cycle[2], seen_row[2], seen;
    bit in[2], shared;
again:
    atomic {  /* 1 */
        told < CYCLES;
        if
#ifdef APART
        :: a == 0 -> in[0] = true; in[1] = true; shared = true
        :: a == 1 -> in[1] = true
#else
        :: in[0] = true; in[1] = true; shared = true
        :: in[0] = true
        :: in[1] = true
#endif
        fi;
        a_left[a] = TTL;
        if :: in[0] -> base[0] = watermark[MARK(0)] :: else fi;
        if :: in[1] -> base[1] = watermark[MARK(1)] :: else fi;
        printf("A%d begins with tables %d %d\n", a, in[0], in[1])
    }
    atomic {  /* 2 */
        told < CYCLES -> told++;
        announce(0); announce(1)
    }
    if
    :: atomic {  /* 3, one snapshot for both */
        may_leave(0); may_leave(1);
        seen = commits; seen_row[0] = row[0]; seen_row[1] = row[1];
        printf("A%d takes its snapshot: %d\n", a, seen)
       }
    :: atomic { true -> goto give_up }
    fi;
    atomic { repair(0) }  /* 4 */
    atomic { repair(1); seen_row[0] = 0; seen_row[1] = 0 }
    atomic { trust(0) }  /* 5 */
    atomic { trust(1) }
    atomic {  /* 6 */
        if
        :: true ->
            complete(0); complete(1);
            if :: shared && in[0] && !in[1] -> REACHED(3) :: else fi;
            if :: !shared && in[1] && told > 1 && announced[0] > completed[0] -> REACHED(4) :: else fi
        :: true
        fi;
give_up:
        base[0] = 0; base[1] = 0; cycle[0] = 0; cycle[1] = 0; seen_row[0] = 0; seen_row[1] = 0; seen = 0;
        in[0] = false; in[1] = false; shared = false; a_left[a] = 0;
        goto again
    }
}

/* ---- time, faults ----------------------------------------------------------------------------------------------------- */
#define FALL(t) t = (t > 0 -> t - 1 : 0)
proctype Clock() {
    do
    :: d_step {
        fence_left[0] || fence_left[1] || fenced_left[0] || fenced_left[1] || w_left[0] || w_left[1] || a_left[0] || a_left[1] ||
        w_until[0] || w_until[1] || w_until[3];
        printf("tick\n");
        FALL(fence_left[0]); FALL(fence_left[1]); FALL(fenced_left[0]); FALL(fenced_left[1]);
        FALL(w_left[0]); FALL(w_left[1]); FALL(a_left[0]); FALL(a_left[1]);
        FALL(w_until[0]); FALL(w_until[1]); FALL(w_until[3])
       }
    od
}
proctype Fault() {
    do
#ifdef EVICT
    :: d_step { slot[1] != EMPTY -> slot[1] = EMPTY; printf("slot 1 is evicted\n") }
#endif
#ifdef EVICT_WATERMARK
    :: d_step { watermark[1] != NONE -> watermark[1] = NONE; printf("watermark 1 is evicted\n") }
#endif
#ifdef EVICT_FENCE
    :: d_step { fence_left[1] -> fence_left[1] = 0; printf("fence 1 is evicted\n") }
#endif
    :: false
    od
}

/* ---- G1 --------------------------------------------------------------------------------------------------------------- */
#define PAST(n) (fence_left[FENCE(n)] > 0 && IS_VALUE(slot[n]) && STATE(slot[n]) < acknowledged[n])
proctype Reader() { atomic { PAST(0) || PAST(1) -> assert(false) } }

init {
    atomic {
        slot[0] = VALUE(0); slot[1] = VALUE(0);
        fence_left[0] = TTL; fence_left[1] = TTL; fenced_left[0] = TTL; fenced_left[1] = TTL;
        run Reader(); run Network(); run Fault(); run Clock();
        run Writer(0, true);
#ifdef SECOND_WRITER
        run Writer(1, false);
#endif
#ifdef LOADER
        run Loader();
#endif
        run Auditor(0);
#if AUDITORS > 1
        run Auditor(1)
#endif
    }
}
