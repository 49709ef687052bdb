/*
 * More than one world around Larder's cache protocol, for Spin: two primaries, two databases, two namespaces, two releases.
 * One key, one Redis that never changes its identity.  larder.pml has everything else about the rules; docs/PROOF.md says
 * how to run this file and what each configuration and mutant is.
 *
 * Worlds
 *   PRIMARIES   source 0 is an old primary that goes on, source 1 a standby of it that was promoted (a higher timeline)
 *   DATABASES   sources 0 and 1 are two databases: no order between their epochs
 *   FINISH      source 0 is the database as an old release sees it, until the finish of a migration; source 1 is the same
 *               database after that.  From then on source 0 answers nothing: old processes load, commit, announce, look, and take
 *               snapshots no more, but a publish, a fill, a trust or a wait that they began goes on
 *   NAMESPACES=2  one source, two namespaces with slot, fence and watermark each; the audit rows are in one table
 *
 * Where each rule is
 *   R1 own epoch      `Reader` and `Answers`: which fences a process counts
 *   timeline guard    Auditor, step 1 (`meets`), `AFTER`; who has no claim marks: Auditor, `no claim`
 *   R3 write          Writer, `table`, Network;  R2 fill: Loader, `table`
 *   R4 settle         Writer from `settle:` on, with the statement called "adopt"
 *   R5, R6 audit      Auditor, steps 1 to 6 numbered as in the rule; the mark is `distrust`
 *
 * What is asserted: no hit is older than what was acknowledged before, for each reader that may be there (`Reader`): one that
 * was told epoch 0, one that was told epoch 1, and one that belongs to source 1 but has not asked since: that one only from
 * the moment on at which a mark of source 1 is in Redis.
 *
 * Abstractions, beside those of larder.pml
 *   - A claim excludes nobody: any auditor runs at any moment, so nothing here rests on it.
 *   - An old primary's processes commit, load and fill as long as they like.  That a deposed process stops is not needed for
 *     safety, but for its auditor, which is modelled.
 *   - Snapshot and rows of an audit are one step (larder.pml has the table's lock).
 *   - The second primary or database is there from the start, as old as the first one was then; the finish comes at any moment.
 */
#ifndef CYCLES
#define CYCLES 2          /* announced, by each auditor; with two namespaces: by both */
#endif
#ifndef WRITES
#define WRITES 1          /* writers of each source that has any */
#endif
#ifndef NAMESPACES
#define NAMESPACES 1
#endif
#ifndef TTL
#define TTL 1
#endif
#if NAMESPACES > 1
#define SOURCES 1
#else
#define SOURCES 2
#endif
#define PLACES 2          /* audit rows: source * NAMESPACES + namespace */
#define PLACE(s, n) ((s) * NAMESPACES + (n))
#ifndef GOAL
#define GOAL 0
#endif
#define REACHED(goal) assert((goal) != GOAL)

#ifdef M_SCHEMA_NOT_IN_EPOCH
#define EPOCH(s) 0
#else
#define EPOCH(s)   (((s) >> 2) & 1)
#endif
#define OLD_PAYLOAD 8     /* in a state that a release made which does not know the payload's schema */
#define VERSION(s) ((s) & 3)
#define VERSION_MAX 3
#define NONE 255          /* no watermark */
#define MARK(epoch) (128 + (epoch))
#define IS_MARK(w) ((w) >= 128 && (w) < NONE)
#define EPOCH_OF(w) ((w) >= 128 -> (w) - 128 : EPOCH(w))
#define EMPTY 0
#define IS_VALUE(s) ((s) >= 16)
#define VALUE(s) (16 + (s))
#define STATE(s) ((s) - 16)
#define MAX(a, b) ((a) > (b) -> (a) : (b))
/* Whether an epoch is of a higher timeline of the same system.  HASHED: epochs as before the finish, which show no timeline. */
#if defined(PRIMARIES) && !defined(HASHED)
#define AFTER(a, b) ((a) > (b))
#else
#define AFTER(a, b) false
#endif

/* ---- sources: PostgreSQL ---------------------------------------------------------------------------------------------- */
byte row[SOURCES];
byte announced[PLACES], completed[PLACES], fenced_left[PLACES], other_left[PLACES], row_epoch[PLACES];
bit finished, reset;
#ifdef FINISH
#define OPEN(s) ((s) == finished)
#else
#define OPEN(s) true
#endif
/* Rows of the table that have the present epoch, or are looked at as if they had. */
#define PRESENT(s, n) (row_epoch[PLACE(s, n)] == EPOCH(row[s]))
#if NAMESPACES > 1
#define ANY_PRESENT(s) (PRESENT(s, 0) || PRESENT(s, 1))
#define RIVAL(n) (fenced_left[1 - (n)] > 0)
#else
#define ANY_PRESENT(s) PRESENT(s, 0)
#define RIVAL(n) false
#endif

/* ---- Redis ------------------------------------------------------------------------------------------------------------ */
byte slot[NAMESPACES], fence_epoch[NAMESPACES], fence_left[NAMESPACES], watermark[NAMESPACES];

/* ---- processes ---------------------------------------------------------------------------------------------------------- */
#define PARTIES 2         /* writers, auditors */
byte w_state[PARTIES], w_token[PARTIES], w_home[PARTIES], w_left[PARTIES];
byte w_until[PARTIES * NAMESPACES], w_announced[PARTIES * NAMESPACES];
bit w_late[PARTIES], w_told[PARTIES];
byte a_left[PARTIES];
byte acknowledged[2];     /* newest state that somebody of each source was told */
bit marked;               /* a mark or a fence of source 1 has been in Redis */
byte own = 1;             /* epoch of a process that was told 1, then perhaps an old answer */

inline table(n, s, token) {
    settle_wanted = true;
    if
    :: watermark[n] == NONE || IS_MARK(watermark[n]) || EPOCH(watermark[n]) != EPOCH(s) -> slot[n] = EMPTY
    :: else ->
        if
        :: slot[n] == EMPTY
        :: IS_VALUE(slot[n]) ->
            if
            :: EPOCH(STATE(slot[n])) != EPOCH(s) || VERSION(STATE(slot[n])) < VERSION(s) -> slot[n] = VALUE(s)
            :: else
            fi
        :: slot[n] != EMPTY && slot[n] == token -> slot[n] = VALUE(s)
        :: else -> slot[n] = EMPTY
        fi;
        settle_wanted = !(fence_left[n] > 0 && fence_epoch[n] == EPOCH(s))
    fi
}
bool settle_wanted = true;

inline forget(w) {
    if
    :: w_told[w] && !w_late[w] -> w_state[w] = 0; w_token[w] = 0
    :: else
    fi
}

/* ---- R3, R4 ----------------------------------------------------------------------------------------------------------- */
#define SETTLED_BY_AUDIT(n) (PRESENT(s, n) && completed[PLACE(s, n)] > w_announced[w * NAMESPACES + n])
#define SETTLED(n) (w_until[w * NAMESPACES + n] == 0 || SETTLED_BY_AUDIT(n))
#if NAMESPACES == 1
#define ALL_SETTLED SETTLED(0)
#elif defined(M_SETTLE_OWN_ROW)
#define ALL_SETTLED SETTLED(home)
#else
#define ALL_SETTLED (SETTLED(0) && SETTLED(1))
#endif
#if defined(M_SETTLE_OWN_ROW)
#define KNOWN_EPOCH(s, n) PRESENT(s, n)
#else
#define KNOWN_EPOCH(s, n) ANY_PRESENT(s)
#endif
inline look(w, s, n) {
    if
    :: PRESENT(s, n) -> w_announced[w * NAMESPACES + n] = announced[PLACE(s, n)]; w_until[w * NAMESPACES + n] = fenced_left[PLACE(s, n)]
    :: else -> w_announced[w * NAMESPACES + n] = 0; w_until[w * NAMESPACES + n] = 0
    fi
}

proctype Writer(byte w, s, home) {
    atomic {
        if
        :: slot[home] == EMPTY -> slot[home] = 1 + w; w_token[w] = 1 + w; printf("W%d takes the lease\n", w)
        :: true
        fi
    }
    atomic {
        OPEN(s) && VERSION(row[s]) < VERSION_MAX -> row[s]++;
        w_state[w] = row[s]; w_left[w] = TTL; w_home[w] = home;
        printf("W%d commits %d.%d\n", w, EPOCH(row[s]), VERSION(row[s]))
    }
    atomic {
        if
        :: table(home, w_state[w], w_token[w]); printf("W%d publishes: slot %d\n", w, slot[home]);
            if
            :: !settle_wanted -> goto told
            :: true
            fi
        :: w_late[w] = true; printf("W%d gets no answer to its publish\n", w)
        fi;
        settle_wanted = true
    }
    /* settle: */
    if
    :: atomic { OPEN(s) ->
        if
        :: KNOWN_EPOCH(s, home)
        :: else ->  /* adopt */
            announced[PLACE(s, home)]++; row_epoch[PLACE(s, home)] = EPOCH(row[s]);
            fenced_left[PLACE(s, home)] = MAX(fenced_left[PLACE(s, home)], TTL); other_left[PLACE(s, home)] = MAX(other_left[PLACE(s, home)], TTL);
            printf("W%d adopts the epoch %d\n", w, EPOCH(row[s]))
        fi;
        look(w, s, 0);
#if NAMESPACES > 1
        look(w, s, 1);
#endif
        printf("W%d settles\n", w)
       }
       atomic { (OPEN(s) && ALL_SETTLED) || w_left[w] == 0 }
    :: atomic { w_left[w] == 0 }  /* the largest TTL since the commit: needs no source */
    fi;
    atomic {
        skip;
told:   settle_wanted = true; printf("W%d acknowledges %d.%d\n", w, EPOCH(w_state[w]), VERSION(w_state[w]));
#if NAMESPACES > 1
        acknowledged[0] = MAX(acknowledged[0], w_state[w]);
#else
        acknowledged[s] = MAX(acknowledged[s], w_state[w]);
#endif
        w_left[w] = 0; w_until[w * NAMESPACES] = 0; w_announced[w * NAMESPACES] = 0;
#if NAMESPACES > 1
        w_until[w * NAMESPACES + 1] = 0; w_announced[w * NAMESPACES + 1] = 0;
#endif
        w_told[w] = true; forget(w)
    }
}

proctype Network() {
    byte w;
    do
    :: atomic {
        if
        :: w_late[0] -> w = 0
        :: w_late[1] -> w = 1
        fi;
        table(w_home[w], w_state[w], w_token[w]);
        printf("W%d: its late publish lands: slot %d\n", w, slot[w_home[w]]);
        if :: finished && w_state[w] < 4 && w_told[w] -> REACHED(4) :: else fi;
        settle_wanted = true; w_late[w] = false; forget(w); w = 0
       }
    od
}

/* ---- R1 (a miss), R2 ------------------------------------------------------------------------------------------------------ */
proctype Loader(byte id, s, home) {
    byte loaded, token;
again:
    atomic {
        if
        :: slot[home] == EMPTY -> slot[home] = id; token = id
        :: true  /* a refresh */
        fi
    }
#ifdef M_OLD_RELEASE_LOADS
    atomic { loaded = (finished && s == 0 -> OLD_PAYLOAD + row[1] : row[s]); printf("L%d loads %d.%d\n", id, EPOCH(loaded), VERSION(loaded)) }
#else
    atomic { OPEN(s) -> loaded = row[s]; printf("L%d loads %d.%d\n", id, EPOCH(row[s]), VERSION(row[s])) }
#endif
    atomic {
        if
        :: table(home, loaded, token); printf("L%d fills with %d.%d: slot %d\n", id, EPOCH(loaded), VERSION(loaded), slot[home])
        :: true
        fi;
        settle_wanted = true; loaded = 0; token = 0
    }
    goto again
}

/* ---- R5, R6 ------------------------------------------------------------------------------------------------------------- */
#define SAME_EPOCH (watermark[home] != NONE && EPOCH_OF(watermark[home]) == EPOCH(seen))
#define SAME_XIDS (SAME_EPOCH && !IS_MARK(watermark[home]))
#ifdef M_DISTRUST_DELETES
#define NEW_MARK NONE
#elif defined(HASHED)
#define NEW_MARK NONE
#else
#define NEW_MARK MARK(my_epoch)
#endif
#ifdef M_DISTRUST_DELETES
#define STANDS true       /* where the mark would stand */
#else
#define STANDS (watermark[home] != NONE && EPOCH_OF(watermark[home]) == 1)
#endif
inline first_half() {
#ifdef H_FENCE_THEN_MARK
    fence_left[home] = 0; fence_epoch[home] = 0; printf("A%d deletes the fence\n", a)
#else
    watermark[home] = NEW_MARK; printf("A%d sets its mark\n", a)
#endif
}
inline second_half() {
#ifdef H_FENCE_THEN_MARK
    watermark[home] = NEW_MARK; printf("A%d sets its mark\n", a);
#else
    fence_left[home] = 0; fence_epoch[home] = 0; printf("A%d deletes the fence\n", a);
#endif
    if :: my_epoch == 1 && STANDS -> marked = true :: else fi
}

#if NAMESPACES > 1
byte told;                /* by both auditors */
#endif
proctype Auditor(byte a, s, home) {
    byte base, cycle, my_epoch, seen;
#if NAMESPACES == 1
    byte told;
#endif
    bit deposed, known;
again:
    atomic {  /* 1 */
        told < CYCLES && OPEN(s) && !deposed;
        base = watermark[home];
        a_left[a] = TTL;
        printf("A%d begins, watermark %d\n", a, base);
        my_epoch = EPOCH(row[s]);
        if
        :: base != NONE && AFTER(EPOCH_OF(base), my_epoch) ->
#ifndef M_OLD_PRIMARY_GOES_ON
            deposed = true; REACHED(2); printf("A%d is deposed\n", a); goto give_up
#endif
        :: else
        fi
    }
#ifndef M_NO_MARK_WITHOUT_CLAIM
    if
    :: base != NONE && AFTER(my_epoch, EPOCH_OF(base)) ->  /* no claim: it marks, and no more */
        atomic { first_half() }
        atomic { second_half(); goto give_up }
    :: true
    fi;
#endif
#if NAMESPACES > 1
    atomic {  /* 2: the statement sees what was committed before it; two announcements at once do not see each other */
#ifndef M_OTHER_NAMESPACE_UNSEEN
        if
        :: RIVAL(home) -> printf("A%d is refused: the other namespace has the trust\n", a); goto give_up
        :: else
        fi;
#endif
        known = KNOWN_EPOCH(s, home)
    }
#endif
    atomic {  /* 2 */
        OPEN(s) && told < CYCLES ->
        my_epoch = EPOCH(row[s]);
#if NAMESPACES == 1
        known = KNOWN_EPOCH(s, home);
#endif
        if
        :: !known ->  /* nothing is known of the fences that may live */
            fenced_left[PLACE(s, home)] = MAX(fenced_left[PLACE(s, home)], TTL);
            other_left[PLACE(s, home)] = MAX(other_left[PLACE(s, home)], TTL)
        :: else
        fi;
        known = false;
        announced[PLACE(s, home)]++; told++;
        cycle = announced[PLACE(s, home)];
        row_epoch[PLACE(s, home)] = my_epoch;
        fenced_left[PLACE(s, home)] = MAX(fenced_left[PLACE(s, home)], TTL);
        printf("A%d announces %d\n", a, cycle);
        seen = other_left[PLACE(s, home)]
    }
    if
    :: atomic { base != NONE && EPOCH_OF(base) != my_epoch -> first_half() }
        atomic { second_half(); base = NEW_MARK }
    :: atomic { base == NONE || EPOCH_OF(base) == my_epoch }
    :: atomic { true -> goto give_up }
    fi;
    atomic { if :: seen > 0 -> printf("A%d waits for other fences\n", a); goto give_up :: else fi }
    if
    :: atomic {  /* 3 */
        OPEN(s) ->
#ifdef POOLER
        if :: s = 0 :: s = 1 fi;  /* the pooler's switch, before the snapshot */
#endif
        seen = row[s];
        printf("A%d takes its snapshot: %d.%d\n", a, EPOCH(seen), VERSION(seen));
#if !defined(M_OTHER_NAMESPACE_UNSEEN) && !defined(M_OTHER_NAMESPACE_SEEN_TOO_EARLY)
        if :: RIVAL(home) -> printf("A%d sees the other namespace in its snapshot\n", a); goto give_up :: else fi;
#endif
#ifndef M_SNAPSHOT_EPOCH_UNCHECKED
        if :: EPOCH(seen) != my_epoch -> printf("A%d: another epoch than announced\n", a); goto give_up :: else fi
#endif
       }
    :: atomic { true -> goto give_up }
    fi;
    atomic {  /* 4 */
        if
        :: base == NONE || IS_MARK(base) || EPOCH(base) != EPOCH(seen) -> slot[home] = EMPTY  /* R6 */
        :: else ->
            if
            :: VERSION(seen) > VERSION(base) && !(IS_VALUE(slot[home]) && EPOCH(STATE(slot[home])) == EPOCH(seen) &&
                                                  VERSION(STATE(slot[home])) >= VERSION(seen)) -> slot[home] = EMPTY
            :: else
            fi
        fi;
        printf("A%d repairs: slot %d\n", a, slot[home])
    }
    if
    :: atomic {  /* 5 */
        watermark[home] == base || SAME_EPOCH ->
        watermark[home] = (SAME_XIDS -> MAX(watermark[home], seen) : seen);
        if
        :: a_left[a] > 0
        :: else -> printf("A%d is late: watermark only\n", a); goto give_up
        fi;
        fence_left[home] = (fence_left[home] && fence_epoch[home] == EPOCH(seen) -> MAX(fence_left[home], a_left[a]) : a_left[a]);
        fence_epoch[home] = EPOCH(seen);
        if :: seen >= 4 -> marked = true; REACHED(1) :: else fi;
        if :: a == 1 -> REACHED(3) :: else fi;
        printf("A%d sets watermark and fence of epoch %d for %d\n", a, EPOCH(seen), fence_left[home])
       }
    :: atomic { true -> goto give_up }
    fi;
    atomic {  /* 6 */
        if
        :: OPEN(s) && row_epoch[PLACE(s, home)] == my_epoch && announced[PLACE(s, home)] >= cycle ->
            completed[PLACE(s, home)] = MAX(completed[PLACE(s, home)], cycle); printf("A%d completes %d\n", a, cycle)
        :: true
        fi;
give_up:
        base = 0; cycle = 0; my_epoch = 0; seen = 0; known = false; a_left[a] = 0;
#ifdef POOLER
        s = a;
#endif
        goto again
    }
}

/* ---- time, faults ----------------------------------------------------------------------------------------------------------- */
#define FALL(t) t = (t > 0 -> t - 1 : 0)
inline fence_falls(n) {
    FALL(fence_left[n]);
    if :: fence_left[n] == 0 -> fence_epoch[n] = 0 :: else fi
}
#if NAMESPACES > 1
#define OTHER_TIMES fence_left[1] || w_until[2] || w_until[3]
#else
#define OTHER_TIMES false
#endif
proctype Clock() {
    do
    :: d_step {
        fence_left[0] || fenced_left[0] || fenced_left[1] || other_left[0] || other_left[1] || w_left[0] || w_left[1] || a_left[0] || a_left[1] ||
        w_until[0] || w_until[1] || OTHER_TIMES;
        printf("tick\n");
        fence_falls(0);
        FALL(fenced_left[0]); FALL(fenced_left[1]); FALL(other_left[0]); FALL(other_left[1]);
        FALL(w_left[0]); FALL(w_left[1]); FALL(a_left[0]); FALL(a_left[1]); FALL(w_until[0]); FALL(w_until[1]);
#if NAMESPACES > 1
        fence_falls(1); FALL(w_until[2]); FALL(w_until[3]);
#endif
       }
    od
}
proctype Fault() {
    do
#ifdef FINISH
    :: d_step { !finished -> finished = true; row[1] = 4 + VERSION(row[0]); printf("the migration is finished\n");
        announced[1] = announced[0]; completed[1] = completed[0]; fenced_left[1] = fenced_left[0]; other_left[1] = other_left[0];
        row_epoch[1] = row_epoch[0] }
#endif
#ifdef TRUNCATE
    :: d_step { !reset -> reset = true; row[0] = 4; printf("TRUNCATE\n") }
#endif
#ifdef RESTORE  /* of a dump as old as the beginning, with its audit rows */
    :: d_step { !reset -> reset = true; row[0] = 4; printf("restored\n");
        announced[0] = 0; completed[0] = 0; fenced_left[0] = 0; other_left[0] = 0; row_epoch[0] = 0;
        announced[1] = 0; completed[1] = 0; fenced_left[1] = 0; other_left[1] = 0; row_epoch[1] = 0 }
#endif
#ifdef EVICT
    :: d_step { slot[0] != EMPTY -> slot[0] = EMPTY; printf("slot 0 is evicted\n") }
#if NAMESPACES > 1
    :: d_step { slot[1] != EMPTY -> slot[1] = EMPTY; printf("slot 1 is evicted\n") }
#endif
#endif
#ifdef EVICT_WATERMARK  /* the promise to readers that have not asked ends with the mark */
    :: d_step { watermark[0] != NONE -> watermark[0] = NONE; marked = false; printf("the watermark is evicted\n") }
#endif
    :: false
    od
}

/* ---- own epoch: answers of the own source -------------------------------------------------------------------------------------- */
#ifdef ANSWERS
/* A process asked source 0 before it was led to source 1; that answer comes when source 1's has come already. */
proctype Answers() {
    atomic {
#ifdef M_LATE_ANSWER_COUNTS
        if
        :: AFTER(1, 0)  /* the timeline guard refuses it, too */
        :: else -> own = 0
        fi;
#endif
        printf("the late answer comes\n")
    }
}
#endif

/* ---- G1 -------------------------------------------------------------------------------------------------------------------------- */
#ifdef M_ANY_EPOCH
#define COUNTS(fence, mine) true
#else
#define COUNTS(fence, mine) ((fence) == (mine))
#endif
/* A slot's epoch is compared with the fence's in any case. */
#define LIVE(n) (fence_left[n] > 0 && IS_VALUE(slot[n]) && EPOCH(STATE(slot[n])) == fence_epoch[n])
#if NAMESPACES > 1
/* One order of states: whichever epoch a reader was told, it may not see less than was acknowledged. */
#define PAST(n) (LIVE(n) && STATE(slot[n]) < acknowledged[0])
#define BAD (PAST(0) || PAST(1))
#else
#define TOLD_0 (COUNTS(fence_epoch[0], 0) && fence_epoch[0] == 0 && STATE(slot[0]) < acknowledged[0])
#ifdef DATABASES
#define TOLD_1 (COUNTS(fence_epoch[0], 1) && (fence_epoch[0] == 0 || STATE(slot[0]) < acknowledged[1]))
#define NOT_ASKED false
#elif defined(FINISH)
/* What the new release told, or may: no old payload, and nothing older than acknowledged; readers of the old release, too. */
#define TOLD_1 (finished && COUNTS(fence_epoch[0], EPOCH(4)) && (STATE(slot[0]) < 4 || STATE(slot[0]) >= OLD_PAYLOAD || STATE(slot[0]) < acknowledged[1]))
#define NOT_ASKED (STATE(slot[0]) < acknowledged[1])
#else
#define TOLD_1 (COUNTS(fence_epoch[0], own) && STATE(slot[0]) < acknowledged[1])
#define NOT_ASKED (marked && STATE(slot[0]) < acknowledged[1])
#endif
#define BAD (LIVE(0) && (TOLD_0 || TOLD_1 || NOT_ASKED))
#endif
proctype Reader() { atomic { BAD -> assert(false) } }

init {
    atomic {
#if SOURCES > 1 && !defined(FINISH)
        row[1] = 4;
#endif
        slot[0] = VALUE(0); fence_left[0] = TTL; fenced_left[0] = TTL;
#if NAMESPACES > 1
        watermark[1] = NONE;  /* the newcomer's namespace is empty */
#endif
        run Reader(); run Network(); run Fault(); run Clock();
#ifdef ANSWERS
        run Answers();
#endif
#if NAMESPACES > 1
        run Writer(0, 0, 0); run Loader(8, 0, 1); run Auditor(0, 0, 0); run Auditor(1, 0, 1);
#ifdef WRITER_IN_BOTH
        run Writer(1, 0, 1);
#endif
#else
        run Writer(1, 1, 0); run Auditor(0, 0, 0); run Auditor(1, 1, 0);
#ifdef OLD_WRITER
        run Writer(0, 0, 0);
#endif
#ifdef OLD_LOADER
        run Loader(8, 0, 0);
#endif
#ifdef NEW_LOADER
        run Loader(9, 1, 0);
#endif
#endif
    }
}
