/*
 * Larder's cache protocol, for Spin.  One key, one namespace.
 * docs/PROOF.md says how to run this file and what each configuration and mutant is.
 *
 * Where each rule is
 *   R1 read       Reader (a hit), HandedOn (a hit that is answered later) and Loader (a miss)
 *   R2 fill       Loader, with `table`
 *   R3 write      Writer, `table` (the script), Network (a publish that lands late)
 *   policies      `through` is a Writer with a lease, `update` one without; `aside` (-DASIDE: by choice, -DASIDE_ALONE: always)
 *                 deletes by `table_for_deletion`; `around` is a Writer whose publish is lost
 *   R4 settle     Writer from `settle:` on, with the statement called "adopt"
 *   R5 audit      Auditor, steps 1 to 6 numbered as in the rule
 *   R6 no trust   Auditor, step 5 (a new incarnation); `table`, first branches
 *   R7 sharing    Loader: whoever shares a load began before its snapshot
 *   R8 delete     a tombstone is a version like any other; version 0 is "never existed"
 *   R9 flagged    not here: a flagged read promises nothing
 *   R10 answers   Writer: `unchanged` stands for a replay, a duplicate and a change of nothing
 *
 * What is asserted: G1, and of G4 that no hit is of an epoch which an audit has found to be over.  A hit is one atomic MGET, so the worst reader is the one that begins just before it.
 * `Reader` makes that check in every reachable state, for every connection to every server, so it stands for any number
 * of reading clients.  A miss reads the primary after the request began; its loads are the Loaders'.
 *
 * Names: M_... drops or breaks a rule (every one must be caught); H_... is a rule as it was first written, in which this
 * model found a hole (docs/PROOF.md); GOAL=n shows that something worth checking can happen at all.
 *
 * Abstractions
 *   - States of the key are numbers: epoch * 4 + version.  Their order is commit order: epochs first.
 *   - Time is countdowns to expiry; one tick takes 1 from all of them, at any moment.  Clocks run at one rate and the
 *     margins of the implementation cover their drift.  What waits never has to hurry: any step may be late for ever.
 *   - A transaction's commit is one step; its xid is taken before (-DOPEN_XIDS) or with it.
 *   - A slot's TTL and a lease's are evictions, possible at any moment; a lease whose owner is gone, or never knew that it
 *     got it, may appear on an empty slot at any moment (JUNK).
 *   - A crash is a process that takes no further step; an auditor may also give up and begin again.
 *   - A command that was answered late, or never, is a step taken late, without its answer.
 *   - A Redis snapshot and a lagging replica are one thing: a copy of node 0 made at any earlier moment.
 *   - Incarnations are counted, not random.
 */

/* ---- sizes -------------------------------------------------------------------------------------------------- */
#ifndef WRITERS
#define WRITERS 2
#endif
#ifndef LOADERS
#define LOADERS 1
#endif
#ifndef AUDITORS
#define AUDITORS 0
#endif
#ifndef CYCLES
#define CYCLES 3          /* audits announced, in all */
#endif
#ifndef NODES
#define NODES 1           /* Redis servers */
#endif
#ifndef TTL
#define TTL 1             /* of a fence, in ticks */
#endif
#ifndef TTL_MAX
#define TTL_MAX TTL       /* the largest that any instance may use */
#endif
#define VERSION_MAX 3
#if defined(TRUNCATE) || defined(RESTORE) || defined(PROMOTION)
#define RESETS
#endif
#ifndef GOAL              /* shows that something can happen: the run must fail there */
#define GOAL 0
#endif
#define REACHED(goal) assert((goal) != GOAL)

/* ---- words ---------------------------------------------------------------------------------------------------- */
#define EPOCH(s)   ((s) >> 2)
#define VERSION(s) ((s) & 3)
#define NEVER 255
#define NONE 255          /* no watermark */
/* A slot: EMPTY, a lease (its token), or a value (16 + state). */
#define EMPTY 0
#define JUNK 15
#define TOKEN_W(w) (1 + (w))
#define TOKEN_L(l) (8 + (l))
#define IS_VALUE(s) ((s) >= 16)
#define VALUE(s) (16 + (s))
#define STATE(s) ((s) - 16)
#define MAX(a, b) ((a) > (b) -> (a) : (b))
#if NODES > 1
#define NODE1(e) (e)
#else
#define NODE1(e) false
#endif
#if WRITERS > 1
#define WRITER1(e) (e)
#else
#define WRITER1(e) false
#endif
#if AUDITORS > 1
#define AUDITOR1(e) (e)
#else
#define AUDITOR1(e) false
#endif

/* What the mutants of "epoch in entries" and "server in the fence" no longer look at. */
#ifdef M_NO_EPOCH
#define OTHER_EPOCH(a, b) false
#else
#define OTHER_EPOCH(a, b) (EPOCH(a) != EPOCH(b))
#endif
#ifdef M_NO_EPOCH_IN_ENTRIES
#define OTHER_ENTRY(a, b) false
#else
#define OTHER_ENTRY(a, b) OTHER_EPOCH(a, b)
#endif
#ifdef M_NO_SERVER
#define NAMES(fence, connection) ((connection) != 0)
#else
#define NAMES(fence, connection) ((fence) == (connection) && (connection) != 0)
#endif

/* ---- Postgres ------------------------------------------------------------------------------------------------- */
byte row;                 /* state of the key: epoch and version */
byte announced, completed, fenced_left = TTL_MAX, other_left, audit_server = 1, audit_epoch;
byte session;             /* changes when the primary does: no session outlives it */
byte resets;
/* A watermark is epoch * 4 + the newest xid below the snapshot's xmin.  Without OPEN_XIDS an xid is a version. */
#ifdef OPEN_XIDS
byte xid_next, changed, open_xid[WRITERS];
#define XMIN_BEFORE (open_xid[0] && (!open_xid[1] || open_xid[0] < open_xid[1]) -> open_xid[0] - 1 : \
                    (open_xid[1] -> open_xid[1] - 1 : xid_next))
#define CHANGED changed
#else
#define XMIN_BEFORE VERSION(row)
#define CHANGED VERSION(row)
#endif

/* ---- Redis: server identity 0 means "not a master, or gone" ------------------------------------------------------ */
byte server[NODES];
byte reader_server[NODES];/* the identity that readers' connections to this node learned when they were made */
byte slot[NODES], fence_server[NODES], fence_epoch[NODES], fence_left[NODES], watermark[NODES];
byte before[NODES];       /* the server from which this one got all its data, 0 for none: master_replid2 */
byte watermark_server[NODES];
byte slot_g[NODES], fence_g[NODES], watermark_g[NODES];  /* incarnations; 0 without a slot, fence or watermark */
byte copy_slot, copy_fence_server, copy_fence_epoch, copy_fence_left, copy_watermark;
byte copy_server, copy_watermark_server, copy_slot_g, copy_fence_g, copy_watermark_g;
bit copied;
#ifndef COPIES
#define COPIES 0
#endif
byte redis_faults, copies;
#ifndef LEFT
#define LEFT 0
#endif
#ifdef MOVES              /* the nodes belong to a cluster; the key's partition changes its owner so many times */
byte owner, highest = 1, moves, left;
bit unaware;              /* the node that lost the partition does not know yet, and answers */
#define OWNS(n) (owner == (n) || unaware)
#else
#define OWNS(n) true
#endif
#if COPIES > 0 || defined(MOVES)
byte identities = 2;
#else
byte identities = 1;
#endif
byte incarnations = 1;    /* random numbers in the code, which never meet */

inline put(n, content, g) { slot[n] = content; slot_g[n] = g }
inline clear(n) { slot[n] = EMPTY; slot_g[n] = 0 }
inline no_watermark(n) { watermark[n] = NONE; watermark_server[n] = 0; watermark_g[n] = 0 }
inline no_fence(n) { fence_left[n] = 0; fence_server[n] = 0; fence_epoch[n] = 0; fence_g[n] = 0 }
#ifdef M_FENCE_PER_NODE
inline fence_and_watermark_of_node_1() {
    watermark[1] = watermark[0]; watermark_server[1] = 2; watermark_g[1] = watermark_g[0];
    fence_server[1] = 2; fence_epoch[1] = fence_epoch[0]; fence_left[1] = fence_left[0]; fence_g[1] = fence_g[0]
}
#endif
/* For publishes and leases a watermark counts only if it names this very server; for an audit also if it names the one before. */
#define OWN_WATERMARK(n) (watermark[n] != NONE && watermark_server[n] == server[n])
#ifdef M_WATERMARK_ANYWHERE
#define WATERMARK_COUNTS(n) (watermark[n] != NONE)
#else
#define WATERMARK_COUNTS(n) (OWN_WATERMARK(n) || (watermark[n] != NONE && before[n] != 0 && watermark_server[n] == before[n]))
#endif
#define VOID(n) (slot[n] != EMPTY && slot_g[n] != watermark_g[n])
#ifdef M_LEASE_WITHOUT_INCARNATION
#define VOID_LEASE(n) false
#define LEASABLE(n) (server[n] && OWNS(n) && slot[n] == EMPTY)
#else
#define VOID_LEASE(n) VOID(n)
#define LEASABLE(n) (server[n] && OWNS(n) && OWN_WATERMARK(n) && (slot[n] == EMPTY || VOID(n)))
#endif

/* ---- clients -------------------------------------------------------------------------------------------------- */
byte w_state[WRITERS], w_token[WRITERS], w_left[WRITERS], w_announced[WRITERS];
bit w_late[WRITERS];      /* a publish that nobody waits for any more */
bit w_told[WRITERS];
#if defined(ASIDE) || defined(ASIDE_ALONE)
bit w_aside[WRITERS];     /* deletes its slot instead of publishing */
#define IS_ASIDE(w) w_aside[w]
#else
#define IS_ASIDE(w) false
#endif
byte passed;              /* writers that have reached their commit */
byte a_left[AUDITORS + 1], a_other_left[AUDITORS + 1];
bit a_locks[AUDITORS + 1];/* the table, from before a snapshot until its rows are read */
bit busy0;
#if GOAL == 8
bit came_late;
#endif
byte acknowledged;        /* newest state that somebody was told, by a writer or by an audit (G4) */

/* ---- R3: the script that publishes, fills and refreshes ------------------------------------------------------------ */
bool settle_wanted = true;
inline table(n, s, token) {
    settle_wanted = true;
    if
#ifndef M_PUBLISH_WITHOUT_WATERMARK
    :: !OWN_WATERMARK(n) || OTHER_EPOCH(watermark[n], s) -> clear(n)
#endif
    :: else ->
        if
        :: slot[n] == EMPTY ->
#ifdef M_STORE_ON_EMPTY
            put(n, VALUE(s), watermark_g[n])
#else
            skip
#endif
        :: IS_VALUE(slot[n]) && VOID(n) ->
#ifdef M_REPLACE_OTHER_INCARNATION
            put(n, VALUE(s), watermark_g[n])
#else
            clear(n)
#endif
        :: IS_VALUE(slot[n]) && !VOID(n) ->
            if
#ifdef M_NO_VERSION_COMPARE
            :: true -> put(n, VALUE(s), watermark_g[n])
#endif
            :: OTHER_ENTRY(STATE(slot[n]), s) || VERSION(STATE(slot[n])) < VERSION(s) -> put(n, VALUE(s), watermark_g[n])
            :: else -> skip
            fi
        :: slot[n] != EMPTY && slot[n] == token && !VOID_LEASE(n) -> put(n, VALUE(s), watermark_g[n])
        :: else ->
#ifdef M_KEEP_FOREIGN_LEASE
            skip
#else
            clear(n)
#endif
        fi;
        settle_wanted = !(fence_left[n] > 0 && NAMES(fence_server[n], server[n]) && fence_g[n] == watermark_g[n])
    fi;
#ifdef M_ACK_WITHOUT_FENCE
    settle_wanted = false;
#endif
}

/* The same script for a deletion: no token, and "store" is "delete". */
inline table_for_deletion(n, s) {
    settle_wanted = true;
    if
    :: !OWN_WATERMARK(n) || OTHER_EPOCH(watermark[n], s) -> clear(n)
    :: else ->
        if
        :: IS_VALUE(slot[n]) && !VOID(n) && !OTHER_ENTRY(STATE(slot[n]), s) && VERSION(STATE(slot[n])) >= VERSION(s)
#ifdef M_DELETION_SPARES_LEASE
        :: slot[n] != EMPTY && !IS_VALUE(slot[n])
#endif
        :: else -> clear(n)
        fi;
        settle_wanted = !(fence_left[n] > 0 && NAMES(fence_server[n], server[n]) && fence_g[n] == watermark_g[n])
    fi;
#ifdef M_ACK_WITHOUT_FENCE
    settle_wanted = false;
#endif
}
inline publish(n, w) {
    if
    :: IS_ASIDE(w) -> table_for_deletion(n, w_state[w])
    :: else -> table(n, w_state[w], w_token[w])
    fi
}

/* Some master is always up; which one a client talks to is open.  In a cluster, a node that does not own a partition refuses. */
inline pick(n) {
    if
    :: server[0] && OWNS(0) -> n = 0
#if NODES > 1
    :: server[1] && OWNS(1) -> n = 1
#endif
    fi
}
inline pick_empty(n) {
    if
    :: LEASABLE(0) -> n = 0
#if NODES > 1
    :: LEASABLE(1) -> n = 1
#endif
    fi
}

/* ---- R3, R4, R8, R10 -------------------------------------------------------------------------------------------- */
inline forget(w) {
    if
    :: w_told[w] && !w_late[w] -> w_state[w] = 0; w_token[w] = 0
#if defined(ASIDE) || defined(ASIDE_ALONE)
        ; w_aside[w] = 0
#endif
    :: else
    fi
}

#ifdef M_SETTLE_ON_RUNNING_AUDIT
#define AUDITED(w) (completed >= w_announced[w])
#else
#define AUDITED(w) (completed > w_announced[w])
#endif

#ifdef M_SETTLE_ON_ANY_EPOCH
#define ROW_IS_CURRENT true
#else
#define ROW_IS_CURRENT (audit_epoch == EPOCH(row))
#endif

proctype Writer(byte w) {
    byte n;
    atomic {  /* before COMMIT: a lease, if the slot is empty and the reply comes */
        if
#ifndef ASIDE_ALONE
        :: pick_empty(n); put(n, TOKEN_W(w), watermark_g[n]); w_token[w] = TOKEN_W(w); printf("W%d takes the lease on node %d\n", w, n); n = 0
        :: true
#endif
#if defined(ASIDE) || defined(ASIDE_ALONE)
        :: w_aside[w] = true; printf("W%d will delete its slot\n", w)
#ifdef M_DELETE_BEFORE_COMMIT
           ; pick(n); clear(n); printf("W%d deletes the slot of node %d\n", w, n); n = 0
#endif
#endif
        fi
    }
#ifdef OPEN_XIDS
    atomic { xid_next++; open_xid[w] = xid_next }
#endif
    atomic {
        passed == w;  /* writers are alike: the first to get here is called 0 */
        passed++;
        if
        :: VERSION(row) < VERSION_MAX -> row++
#ifdef OPEN_XIDS
           ; changed = open_xid[w]
#endif
#ifdef UNCHANGED
        :: w > 0  /* a replay, a duplicate, a change of nothing: answers with the row as it is */
#ifdef M_ANSWER_WITHOUT_PUBLISH
           -> w_state[w] = row; goto told
#endif
#endif
        fi;
#ifdef OPEN_XIDS
        open_xid[w] = 0;
#endif
        w_state[w] = row;
        w_left[w] = TTL_MAX;
        printf("W%d: the row is %d.%d after its commit, or as it found it\n", w, EPOCH(row), VERSION(row))
    }
    atomic {
        if
#ifdef M_DELETE_BEFORE_COMMIT
        :: IS_ASIDE(w) -> goto told
#endif
        :: pick(n); publish(n, w);
            printf("W%d publishes %d.%d on node %d: slot %d\n", w, EPOCH(w_state[w]), VERSION(w_state[w]), n, slot[n]); n = 0;
            if
            :: !settle_wanted -> settle_wanted = true; goto told
            :: true  /* the answer is settle, or is lost */
            fi
        :: w_late[w] = true; printf("W%d gets no answer to its publish\n", w)  /* lands later, or never */
        fi;
        settle_wanted = true
#ifdef M_NO_SETTLE
        ; goto told
#endif
    }
    atomic {  /* R4: one statement; from here on the writer only waits */
        if
        :: ROW_IS_CURRENT -> w_announced[w] = announced; w_left[w] = fenced_left
        :: else ->
#ifdef ADOPT
            announced++;
            audit_epoch = EPOCH(row);
            fenced_left = MAX(fenced_left, TTL_MAX);
#ifndef H_ADOPT_TRUSTS_ROW
            other_left = MAX(other_left, TTL_MAX);
#endif
            w_announced[w] = announced;
            w_left[w] = fenced_left
#else
            w_announced[w] = NEVER  /* and w_left: the largest TTL since the commit */
#endif
        fi;
        printf("W%d settles: announced %d, completed %d, fenced for %d\n", w, w_announced[w], completed, w_left[w])
    }
    atomic {
        if
        :: w_announced[w] != NEVER && AUDITED(w) -> REACHED(1); if :: EPOCH(w_state[w]) > 0 -> REACHED(2) :: else fi
        :: w_left[w] == 0 -> REACHED(3)
        fi;
told:   printf("W%d acknowledges %d.%d\n", w, EPOCH(w_state[w]), VERSION(w_state[w]));
        acknowledged = MAX(acknowledged, w_state[w]);
        w_left[w] = 0;
        w_announced[w] = 0;
        w_told[w] = true;
        forget(w)
    }
}


/* A publish whose writer stopped waiting.  It may land on any server: more than TCP allows. */
proctype Network() {
    byte n, w;
    do
    :: atomic {
        if
        :: w_late[0] -> w = 0
#if WRITERS > 1
        :: w_late[1] -> w = 1
#endif
        fi;
        pick(n);
        publish(n, w);
        if :: IS_VALUE(slot[n]) && STATE(slot[n]) == w_state[w] && w_told[w] -> REACHED(4) :: else fi;
        printf("W%d: its late publish of %d.%d lands on node %d: slot %d\n", w, EPOCH(w_state[w]), VERSION(w_state[w]), n, slot[n]);
        settle_wanted = true;
        w_late[w] = false;
        forget(w);
        n = 0; w = 0
       }
    od
}

/* ---- R1 (a miss), R2, R7 ------------------------------------------------------------------------------------------ */
proctype Loader(byte l) {
    byte n, loaded, token;
#ifdef M_TOKEN_SENT_TWICE
    bit duplicate;
#endif
again:
    if
    :: atomic {
        pick_empty(n);
#ifndef M_FILL_WITHOUT_LEASE
        put(n, TOKEN_L(l), watermark_g[n]); token = TOKEN_L(l);
#endif
        printf("L%d takes the lease on node %d\n", l, n);
        n = 0
#ifdef M_TOKEN_SENT_TWICE
        ; duplicate = true  /* this was the second SET; the first is still under way */
#endif
       }
       atomic { loaded = row; printf("L%d loads %d.%d\n", l, EPOCH(row), VERSION(row)) }
    :: loaded = row  /* a refresh: no token */
#ifdef M_LEASE_AFTER_LOAD
    :: loaded = row; atomic { LEASABLE(0) -> put(0, TOKEN_L(l), watermark_g[0]); token = TOKEN_L(l) }
#endif
    fi;
#ifdef M_TOKEN_SENT_TWICE
    if
    :: atomic { duplicate && LEASABLE(0) -> put(0, token, watermark_g[0]); duplicate = false }
    :: true
    fi;
#endif
    atomic {
        if
        :: pick(n);
#ifdef M_FILL_WITHOUT_LEASE
            if
            :: slot[n] == EMPTY && OWN_WATERMARK(n) -> put(n, VALUE(loaded), watermark_g[n])
            :: else -> table(n, loaded, token)
            fi;
#else
            table(n, loaded, token);
            if :: token && slot[n] == VALUE(loaded) && fence_left[n] -> REACHED(5) :: else fi;
#endif
            printf("L%d fills or refreshes with %d.%d on node %d: slot %d\n", l, EPOCH(loaded), VERSION(loaded), n, slot[n])
        :: true  /* gives up */
        fi;
#ifdef M_SHARE_RUNNING_LOAD
        assert(loaded >= acknowledged);  /* somebody joined just now */
#endif
        loaded = 0; token = 0; n = 0; settle_wanted = true
    }
    goto again
}

/* ---- R5, R6 ----------------------------------------------------------------------------------------------------- */
#if AUDITORS > 0
#ifdef M_WATERMARK_IS_LAST_XID
#define XMIN_BEFORE_OR_LAST xid_next
#else
#define XMIN_BEFORE_OR_LAST XMIN_BEFORE
#endif
/* "One connection": the next step goes to the server that the cycle began with, or is not taken. */
#if defined(M_REDIS_RECONNECTS) || defined(H_AUDIT_OUTLIVES_DEMOTION)
#define SAME_SERVER (server[n] != 0 && OWNS(n))
#elif defined(M_FENCE_PER_NODE)
#define SAME_SERVER (server[n] == connection)
#else
#define SAME_SERVER (server[n] == connection && OWNS(n))
#endif
#ifdef M_POSTGRES_RECONNECTS
#define SAME_SESSION true
#else
#define SAME_SESSION (session == my_session)
#endif

#ifdef M_RELATIVE_EXPIRY
#define IN_TIME true
#else
#define IN_TIME (a_left[a] > 0)
#endif
#ifdef M_LATE_ON_ANY_SERVER
#define MAY_TRUST (SAME_SERVER || (server[n] && !IN_TIME))
#else
#define MAY_TRUST SAME_SERVER
#endif
/* Of this server, epoch and incarnation. */
#define SAME_WATERMARK (known && watermark[n] != NONE && !OTHER_EPOCH(watermark[n], seen_xmin) && \
                        watermark_server[n] == connection && watermark_g[n] == base_g)
#ifdef M_WATERMARK_UNCONDITIONAL
#define AS_IT_WAS true
#else
#define AS_IT_WAS ((watermark[n] == base && watermark_server[n] == base_server && watermark_g[n] == base_g) || SAME_WATERMARK)
#endif
#define SAME_FENCE (fence_server[n] == connection && fence_epoch[n] == EPOCH(seen_xmin) && fence_g[n] == watermark_g[n])
#ifdef H_COMPLETE_ANY_ROW
#define ROW_OF_THIS_CYCLE true
#else
#define ROW_OF_THIS_CYCLE (audit_epoch == my_epoch && announced >= cycle)
#endif

inline snapshot_row() { seen_row = row; seen_xmin = EPOCH(row) * 4 + XMIN_BEFORE_OR_LAST; seen_changed = CHANGED;
    printf("A%d takes its snapshot: %d.%d\n", a, EPOCH(row), VERSION(row)) }
/* TRUNCATE, and DROP TABLE in a restore, empty a table for older snapshots, too: they would see no row and the old epoch. */
#if defined(RESETS) && !defined(H_TRUNCATE_AFTER_SNAPSHOT)
#define LOCKED (a_locks[0] || AUDITOR1(a_locks[1]))
inline lock_table() { a_locks[a] = true }
#else
#define LOCKED false
inline lock_table() { skip }
#endif
inline read_pages() {
    a_locks[a] = false;
    if
    :: EPOCH(row) != EPOCH(seen_xmin) -> seen_changed = 0; printf("A%d finds the table empty\n", a)
    :: else
    fi
}
/* R3's table without a token, where "store" is "delete": the audit reads no payloads. */
inline table_for_audit(n) {
    if
    :: IS_VALUE(slot[n]) && !OTHER_ENTRY(STATE(slot[n]), seen_row) && VERSION(STATE(slot[n])) >= VERSION(seen_row)
#ifdef M_AUDIT_KEEPS_LEASES
    :: slot[n] != EMPTY && !IS_VALUE(slot[n])
#endif
    :: else -> clear(n)
    fi
}
inline repair(n) {
    if
    :: !known || OTHER_EPOCH(base, seen_row) -> known = false  /* R6: step 5 begins a new incarnation */
    :: else ->
        if
        :: seen_changed > VERSION(base) -> table_for_audit(n)
        :: else
        fi
    fi
}
/* An audit is the first to know of another epoch: nobody trusts the old one from here on, whatever becomes of the cycle. */
inline distrust(n) {
    SAME_SERVER ->
#ifndef H_OLD_FENCE_STAYS
    no_watermark(n);
    no_fence(n);
    base = NONE; base_server = 0; base_g = 0; known = false;
    printf("A%d takes fence and watermark of node %d away\n", a, n);
#endif
#if NODES == 1 && !defined(EVICT_WATERMARK)  /* G4 makes an exception of servers in trouble */
    acknowledged = MAX(acknowledged, my_epoch * 4)
#else
    skip
#endif
}
proctype Auditor(byte a) {
    byte base_server, base_g;
    bit known;
    byte n, connection, base, ttl, cycle, my_epoch, my_session, seen_row, seen_xmin, seen_changed;
again:
    atomic {  /* 1 */
        announced < CYCLES && (a == 0 || busy0);  /* auditors are alike: 1 runs only beside 0 */
        if :: a == 0 -> busy0 = true :: else fi;
#ifndef M_FENCE_PER_NODE
        pick(n);
#endif
        connection = server[n];
        base = watermark[n]; base_server = watermark_server[n]; base_g = watermark_g[n];
        known = WATERMARK_COUNTS(n);
        ttl = TTL_MAX;
#if TTL < TTL_MAX
        if :: ttl = TTL :: true fi;
#endif
        a_left[a] = ttl;
        printf("A%d begins on node %d, server %d, watermark %d\n", a, n, connection, base)
    }
#ifdef M_SNAPSHOT_BEFORE_ANNOUNCE
    atomic { snapshot_row() }
#endif
    atomic {  /* 2 */
#ifndef M_TAKE_OVER
        if  /* the incumbent: another server's fence may live, of this epoch; the refusal changes nothing */
        :: audit_server != connection && fenced_left > 0 && audit_epoch == EPOCH(row) -> goto give_up
        :: else
        fi;
#endif
        if
        :: audit_epoch != EPOCH(row) ->
#ifndef H_ANNOUNCE_TRUSTS_ROW
            fenced_left = MAX(fenced_left, TTL_MAX);  /* the row may be an old one: its times say nothing */
            other_left = MAX(other_left, TTL_MAX)
#endif
        :: else
        fi;
        announced++;
        cycle = announced;
        audit_server = connection;
        audit_epoch = EPOCH(row);
        my_epoch = EPOCH(row);
        my_session = session;
#ifndef M_NO_OTHER_UNTIL
        a_other_left[a] = other_left;
#endif
#ifdef M_ANNOUNCE_WITHOUT_GREATEST
        fenced_left = ttl;
#else
        fenced_left = MAX(fenced_left, ttl);
#endif
        ttl = 0;
        printf("A%d announces %d, fenced for %d\n", a, cycle, fenced_left)
    }
#ifdef RESETS
    if
    :: atomic { base != NONE && OTHER_EPOCH(base, my_epoch * 4) -> distrust(n) }
    :: atomic { base == NONE || !OTHER_EPOCH(base, my_epoch * 4) }
    :: atomic { true -> goto give_up }
    fi;
#endif
#ifndef M_SNAPSHOT_BEFORE_ANNOUNCE
    if  /* A cycle may stop after any step.  Steps 1, 3 leave no trace: to stop after them is to stop before. */
    :: atomic { SAME_SESSION -> lock_table(); snapshot_row() }  /* 3 */
    :: atomic { true -> goto give_up }
    fi;
#ifdef RESETS
    atomic { SAME_SESSION -> read_pages() }
#endif
#endif
#ifdef M_FENCE_PER_NODE  /* one after the other; a node that does not own the key refuses the comparison */
    atomic { if :: OWNS(1) -> repair(1) :: else fi; printf("A%d repairs node 1: slot %d\n", a, slot[1]) }
    atomic {
        if :: OWNS(0) -> repair(0) :: else fi; seen_row = 0; seen_changed = 0;
#else
    atomic {  /* 4 */
        SAME_SERVER -> repair(n); seen_row = 0; seen_changed = 0;
#endif
        printf("A%d repairs node %d: slot %d\n", a, n, slot[n])
    }
    if
    :: atomic {  /* 5 */
        MAY_TRUST && a_other_left[a] == 0 && AS_IT_WAS ->
        watermark[n] = (SAME_WATERMARK -> MAX(watermark[n], seen_xmin) : seen_xmin);
#ifdef M_LATE_ON_ANY_SERVER
        watermark_server[n] = server[n];
#else
        watermark_server[n] = connection;
#endif
        if
        :: known -> watermark_g[n] = base_g
#ifdef M_SAME_INCARNATION
        :: else -> watermark_g[n] = 1
#else
        :: else -> incarnations++; watermark_g[n] = incarnations; printf("A%d begins incarnation %d\n", a, incarnations)
#endif
        fi;
        if
        :: IN_TIME
        :: else ->  /* the next cycle begins from here; nobody trusts anything yet */
            printf("A%d is late: it sets watermark %d on node %d, no fence\n", a, watermark[n], n);
#if GOAL == 8
            came_late = true;
#endif
            goto give_up
        fi;
#if GOAL == 8
        assert(!(came_late && known));
#endif
#ifdef M_RELATIVE_EXPIRY
        fence_left[n] = TTL_MAX;
#else
        fence_left[n] = (SAME_FENCE -> MAX(fence_left[n], a_left[a]) : a_left[a]);
#endif
        fence_server[n] = connection; fence_epoch[n] = EPOCH(seen_xmin); fence_g[n] = watermark_g[n];
#ifdef M_FENCE_PER_NODE
        if :: server[1] == 2 -> fence_and_watermark_of_node_1() :: else fi;
#endif
        if :: !known -> REACHED(6) :: else fi;
        if :: known && base_server != connection -> REACHED(9) :: else fi;
        if :: n == 1 -> REACHED(7) :: else fi;
        printf("A%d sets watermark %d and fence on node %d for %d\n", a, watermark[n], n, fence_left[n]);
        a_left[a] = 0; a_other_left[a] = 0; n = 0; connection = 0; base = 0; base_server = 0; base_g = 0; known = false; seen_xmin = 0
       }
    :: atomic { true -> goto give_up }
    fi;
    atomic {
        if
        :: SAME_SESSION && ROW_OF_THIS_CYCLE ->  /* 6 */
            completed = MAX(completed, cycle); printf("A%d completes %d\n", a, cycle)
        :: true
        fi;
give_up:
        n = 0; connection = 0; base = 0; base_server = 0; base_g = 0; known = false; ttl = 0; cycle = 0; my_epoch = 0; my_session = 0;
        seen_row = 0; seen_xmin = 0; seen_changed = 0; a_left[a] = 0; a_other_left[a] = 0; a_locks[a] = false;
        if :: a == 0 -> busy0 = false :: else fi;
        goto again
    }
}
#endif

/* ---- time --------------------------------------------------------------------------------------------------------- */
#define FALL(t) t = (t > 0 -> t - 1 : 0)
inline fence_falls(n) {
    FALL(fence_left[n]);
    if
    :: fence_left[n] == 0 -> fence_server[n] = 0; fence_epoch[n] = 0; fence_g[n] = 0
    :: else
    fi
}

proctype Clock() {
    do
    :: d_step {
        fenced_left || other_left || copy_fence_left || fence_left[0] || NODE1(fence_left[1]) || w_left[0] ||
        WRITER1(w_left[1]) || a_left[0] || a_other_left[0] || AUDITOR1(a_left[1] || a_other_left[1]);
        printf("tick\n");
        FALL(fenced_left); FALL(other_left); FALL(w_left[0]); FALL(a_left[0]); FALL(a_other_left[0]);
        fence_falls(0);
        FALL(copy_fence_left);
        if
        :: copy_fence_left == 0 -> copy_fence_server = 0; copy_fence_epoch = 0; copy_fence_g = 0
        :: else
        fi;
#if NODES > 1
        fence_falls(1);
#endif
#if WRITERS > 1
        FALL(w_left[1]);
#endif
#if AUDITORS > 1
        FALL(a_left[1]); FALL(a_other_left[1]);
#endif
       }
    od
}

/* ---- faults ------------------------------------------------------------------------------------------------------- */
/* A copy of everything, as of one moment: a snapshot, or a replica. */
inline keep_copy() {
    copy_slot = slot[0]; copy_slot_g = slot_g[0]; copy_server = server[0];
    copy_watermark = watermark[0]; copy_watermark_server = watermark_server[0]; copy_watermark_g = watermark_g[0];
    copy_fence_server = fence_server[0]; copy_fence_epoch = fence_epoch[0]; copy_fence_left = fence_left[0]; copy_fence_g = fence_g[0]
}
inline drop_copy() {
    copy_slot = 0; copy_slot_g = 0; copy_server = 0; copy_watermark = 0; copy_watermark_server = 0; copy_watermark_g = 0;
    copy_fence_server = 0; copy_fence_epoch = 0; copy_fence_left = 0; copy_fence_g = 0
}
inline load_copy(n) {
    slot[n] = copy_slot; slot_g[n] = copy_slot_g; before[n] = copy_server;
    watermark[n] = copy_watermark; watermark_server[n] = copy_watermark_server; watermark_g[n] = copy_watermark_g;
    fence_server[n] = copy_fence_server; fence_epoch[n] = copy_fence_epoch; fence_left[n] = copy_fence_left; fence_g[n] = copy_fence_g;
    drop_copy()
}

#ifdef MOVES
inline copy_watermark_of_owner() {
    watermark[1 - owner] = watermark[owner]; watermark_server[1 - owner] = watermark_server[owner]; watermark_g[1 - owner] = watermark_g[owner]
}
inline copy_fence_of_owner() {
    fence_server[1 - owner] = fence_server[owner]; fence_epoch[1 - owner] = fence_epoch[owner];
    fence_left[1 - owner] = fence_left[owner]; fence_g[1 - owner] = fence_g[owner]
}
#endif

inline old_audit_row() {
    announced = 0; completed = 0; fenced_left = 0; other_left = 0; audit_epoch = 0;
    if
    :: audit_server = 1
#if NODES > 1
    :: audit_server = 2
#endif
    fi
}

inline another_epoch(version) {
    resets++;
    row = (EPOCH(row) + 1) * 4 + version;
    printf("Postgres: the row is %d.%d, announced %d, session %d\n", EPOCH(row), VERSION(row), announced, session)
}

proctype Fault() {
    do
#ifdef EVICT
    :: d_step { slot[0] != EMPTY -> clear(0); printf("node 0 evicts\n") }
    :: d_step { LEASABLE(0) -> put(0, JUNK, watermark_g[0]); printf("a lease of nobody on node 0\n") }
#if NODES > 1
    :: d_step { server[1] && slot[1] != EMPTY -> clear(1) }
    :: d_step { LEASABLE(1) -> put(1, JUNK, watermark_g[1]) }
#endif
#endif
#ifdef EVICT_FENCE
    :: d_step { fence_left[0] -> no_fence(0); printf("node 0 loses the fence\n") }
#endif
#ifdef EVICT_WATERMARK
    :: d_step { watermark[0] != NONE -> no_watermark(0); printf("node 0 loses the watermark\n") }
#endif
#ifdef RESTART
    :: d_step { !copied -> keep_copy(); copied = true; printf("copy of node 0\n") }
    :: d_step { copied && redis_faults < RESTART ->  /* from the snapshot */
        redis_faults++; load_copy(0); copied = false; printf("node 0 restarts from the copy\n"); identities++; server[0] = identities; reader_server[0] = identities }
    :: d_step { redis_faults < RESTART ->  /* empty */
        redis_faults++; drop_copy(); load_copy(0); printf("node 0 restarts empty\n"); no_watermark(0); copied = false;
        identities++; server[0] = identities; reader_server[0] = identities }
#endif
#ifdef FAILOVER
    :: d_step { !copied -> keep_copy(); copied = true; printf("copy of node 0\n") }
    :: d_step { copied && redis_faults == 0 ->  /* the replica is promoted; node 0 may go on as a master */
        redis_faults = 1; load_copy(1); printf("node 1 is promoted with the copy\n"); identities++; server[1] = identities; reader_server[1] = identities }
    :: d_step { redis_faults == 1 && server[1] ->  /* node 0 is demoted, gets node 1's data, loses its clients */
        redis_faults = 2; server[0] = 0; printf("node 0 is demoted to a replica of node 1\n");
#ifndef H_CONNECTIONS_OUTLIVE_DEMOTION
        reader_server[0] = 0;
#endif
        slot[0] = slot[1]; slot_g[0] = slot_g[1]; before[0] = server[1];
        watermark[0] = watermark[1]; watermark_server[0] = watermark_server[1]; watermark_g[0] = watermark_g[1];
        fence_server[0] = fence_server[1]; fence_epoch[0] = fence_epoch[1]; fence_left[0] = fence_left[1]; fence_g[0] = fence_g[1] }
    :: d_step { redis_faults == 2 ->  /* node 0 is promoted again, node 1 demoted */
        printf("node 0 is promoted again\n");
        redis_faults = 3; server[1] = 0; reader_server[1] = 0; clear(1); no_watermark(1); no_fence(1); before[1] = 0;
#ifdef M_RUN_ID_ONLY
        server[0] = 1;
#else
        identities++; server[0] = identities;
#endif
        reader_server[0] = server[0] }
#endif
#if COPIES > 0  /* Keys are copied one by one to node 1, another master: a broken MIGRATE, or a tool. */
    :: d_step { !copied && copies < COPIES && slot[0] != EMPTY ->
        copies++; copied = true; copy_slot = slot[0]; copy_slot_g = slot_g[0]; printf("the slot of node 0 is read\n") }
    :: d_step { copied -> copied = false; put(1, copy_slot, copy_slot_g); drop_copy(); printf("and written to node 1\n") }
    :: d_step { copies < COPIES && watermark[0] != NONE -> copies++; printf("the watermark is copied to node 1\n");
        watermark[1] = watermark[0]; watermark_server[1] = watermark_server[0]; watermark_g[1] = watermark_g[0] }
    :: d_step { copies < COPIES && fence_left[0] > 0 -> copies++; printf("the fence is copied to node 1\n");
        fence_server[1] = fence_server[0]; fence_epoch[1] = fence_epoch[0]; fence_left[1] = fence_left[0]; fence_g[1] = fence_g[0] }
#endif
#ifdef MOVES  /* Key by key, in any order, and whatever the answers; an atomic move is one of these orders. */
#define OTHER (1 - owner)
#define MAY_MOVE (moves < MOVES && !unaware)
    :: d_step { MAY_MOVE && slot[owner] != EMPTY ->
        put(OTHER, slot[owner], slot_g[owner]); clear(owner); printf("the slot moves to node %d\n", OTHER) }
#ifndef M_FENCE_PER_NODE
    :: d_step { MAY_MOVE && watermark[owner] != NONE ->
        copy_watermark_of_owner(); no_watermark(owner); printf("the watermark moves to node %d\n", OTHER) }
    :: d_step { MAY_MOVE && fence_left[owner] > 0 ->
        copy_fence_of_owner(); no_fence(owner); printf("the fence moves to node %d\n", OTHER) }
    :: d_step { left < LEFT && !unaware && watermark[owner] != NONE ->
        left++; copy_watermark_of_owner(); printf("a copy of the watermark stays on node %d\n", OTHER) }
    :: d_step { left < LEFT && !unaware && fence_left[owner] > 0 ->
        left++; copy_fence_of_owner(); printf("a copy of the fence stays on node %d\n", OTHER) }
#endif
    :: d_step { left < LEFT && !unaware && slot[owner] != EMPTY ->
        left++; put(OTHER, slot[owner], slot_g[owner]); printf("a copy of the slot stays on node %d\n", OTHER) }
    :: d_step { MAY_MOVE ->
        moves++; owner = OTHER;
        /* The new owner raises its configuration epoch, unless that is the highest already. */
        if
#ifndef M_IDENTITY_WITHOUT_EPOCH
        :: highest != owner -> highest = owner; identities++; server[owner] = identities; reader_server[owner] = identities
#endif
        :: else
        fi;
#ifdef UNAWARE
        unaware = true;
#endif
        printf("node %d owns the partition, as server %d\n", owner, server[owner]) }
#ifdef UNAWARE
    :: d_step { unaware -> unaware = false; clear(OTHER); no_watermark(OTHER); no_fence(OTHER); printf("node %d hears of it\n", OTHER) }
#endif
#endif
#ifdef TRUNCATE
    :: atomic { resets == 0 && !LOCKED -> another_epoch(0) }
#endif
#ifdef RESTORE  /* of a dump as old as the beginning; sessions go on */
    :: atomic { resets == 0 && !LOCKED -> old_audit_row(); another_epoch(0) }
#endif
#ifdef PROMOTION  /* of a standby that may lag */
    :: atomic { resets == 0 -> session++; if :: old_audit_row() :: true fi; if :: another_epoch(0) :: another_epoch(VERSION(row)) fi }
#endif
    :: false
    od
}

/* ---- G1 ----------------------------------------------------------------------------------------------------------- */
#ifdef M_ANY_INCARNATION
#define OF_THE_FENCE(n) true
#else
#define OF_THE_FENCE(n) (slot_g[n] == fence_g[n])
#endif
#define HIT(n)                                                                                                        \
    (OWNS(n) && OF_THE_FENCE(n) && fence_left[n] > 0 && NAMES(fence_server[n], reader_server[n]) && IS_VALUE(slot[n]) && !OTHER_ENTRY(STATE(slot[n]), fence_epoch[n] * 4))
#define HIT_OF_THE_PAST(n) (HIT(n) && STATE(slot[n]) < acknowledged)

proctype Reader() {
    atomic {
        HIT_OF_THE_PAST(0) || NODE1(HIT_OF_THE_PAST(1)) -> assert(false)
    }
}

#ifdef HANDED_ON
/* The hot read hands its reading on to the endpoint, which answers later and from it alone.  The request began before the
 * MGET.  A reading that found no hit needs no process: the Loader takes its lease only if the slot is empty then, and loads
 * after that, whatever an earlier reading found. */
proctype HandedOn() {
    byte n, held, floor;
again:
    atomic { pick(n); HIT(n) -> held = STATE(slot[n]); floor = acknowledged; printf("H reads %d.%d on node %d\n", EPOCH(held), VERSION(held), n) }
    atomic {
#ifdef M_READING_OF_AN_EARLIER_REQUEST
        floor = acknowledged;  /* this request begins only now */
#endif
        printf("H answers %d.%d\n", EPOCH(held), VERSION(held));
        assert(held >= floor);
        held = 0; floor = 0; n = 0
    }
    goto again
}
#endif

init {
    atomic {
        server[0] = 1; reader_server[0] = 1; put(0, VALUE(0), 1);
#ifdef COLD
        watermark[0] = NONE;
#else
        watermark_server[0] = 1; watermark_g[0] = 1;
        fence_server[0] = 1; fence_left[0] = TTL_MAX; fence_g[0] = 1;
#endif
#if COPIES > 0 || defined(MOVES)
        server[1] = 2; reader_server[1] = 2; no_watermark(1);
#endif
#ifdef M_FENCE_PER_NODE
        fence_and_watermark_of_node_1();
#endif
        run Reader(); run Network(); run Fault();
#ifdef HANDED_ON
        run HandedOn();
#endif
#ifndef STILL
        run Clock();
#endif
        run Writer(0);
#if LOADERS > 0
        run Loader(0);
#endif
#if WRITERS > 1
        run Writer(1);
#endif
#if LOADERS > 1
        run Loader(1);
#endif
#if AUDITORS > 0
        run Auditor(0);
#endif
#if AUDITORS > 1
        run Auditor(1)
#endif
    }
}
