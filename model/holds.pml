/*
 * Reservations, for Spin: what is decided about held units under the locks of their products, by one clock, and across the
 * finish of the migration that brings them.  PostgreSQL alone: to the cache a hold is a write of several rows, and those are in
 * the other models.  docs/PROOF.md says how to run this file, and docs/RESERVATIONS.md has the rules.
 *
 * Where each rule is
 *   locks, the moment, lines   Named and Needer: choose, lock products in order, read, decide and commit
 *   a hold that is over        Named: `over`, `give_back_all`
 *   units of others            Needer: `oldest`, `give_back`
 *   reserved_swept             `sweep`
 *   expand, then finish        Finish, OldSeller; Needer: `sharers`, `knows`
 *
 * What is asserted
 *   - a line ends once: as a sale, a release or an expiry (`end_line`)
 *   - what a product holds is what its open lines hold, and no more than its stock: nothing is both held and sold (`commit`)
 *   - a hold that was seen expired, or was over when its products were locked, is neither sold nor extended (`alive`)
 *   - nobody is refused units that only ended holds keep back (`refuse`)
 *   - the row of a hold says when nothing of it is open any more (`commit`, `note_end`)
 *
 * Abstractions
 *   - Two products, A and B.  Holds: 0 has a unit of A and a unit of B, 1 has two units of A, the others a unit each.
 *   - Locked rows and their lines do not change, so deciding, writing and COMMIT are one step.  A transaction may end before it.
 *   - The clock moves by steps, and once back to the beginning.  Of what a row knows of former moments there is only `reserved_swept`.
 *   - One request each.  Requests of one batch are those of one transaction after another without a step between them.
 */
#ifndef NAMED
#define NAMED 0           /* commands on hold 0 */
#endif
#ifndef NEEDERS
#define NEEDERS 1         /* sales, or new holds, of one unit */
#endif
#ifndef LAST_MOMENT
#define LAST_MOMENT 2
#endif
#ifndef GOAL
#define GOAL 0
#endif
#define REACHED(goal) assert((goal) != GOAL)
#define MAX(a, b) ((a) > (b) -> (a) : (b))

#define A 0
#define B 1
#define HOLDS 5           /* the two of the beginning, and one of each needer */
#define LINE(h, p) ((h) * 2 + (p))
#define UNITS(h) ((h) == 1 -> 2 : 1)
#define NOBODY 255

mtype = { nothing, open, ended, commit_all, commit_a, extend, release, sale, hold };

/* ---- PostgreSQL ------------------------------------------------------------------------------------------------------- */
byte stock[2], reserved[2], swept[2], lock[2];
mtype line[HOLDS * 2] = nothing;
byte ends[HOLDS];
bit expired, closed;      /* in the row of hold 0: its status, and that nothing of it is open */
byte clock;
#ifdef FINISH
byte sharers;             /* transactions that have locked rows, or wait for them */
bit finished;
#define FINISHED finished
#define LEAVE_TABLE sharers--
#else
#define FINISHED true
#define LEAVE_TABLE skip
#endif

/* ---- what is true, whatever anybody read ------------------------------------------------------------------------------ */
bit seen_expired;         /* somebody was told that hold 0 is over, or has its units */
byte locked_at[2];        /* the earliest moment since a command on hold 0 had its locks */

#define OPEN(h, p) (line[LINE(h, p)] == open)
#define HELD(h, p) (OPEN(h, p) -> UNITS(h) : 0)
#define ALL_HELD(p) (HELD(0, p) + HELD(1, p) + HELD(2, p) + HELD(3, p) + HELD(4, p))
#define ENDED(h) (line[LINE(h, A)] == ended && line[LINE(h, B)] == ended)
#define OVER(h, p) (OPEN(h, p) && ends[h] <= moment)

inline end_line(h, p) {
    assert(OPEN(h, p));  /* it ends once */
    line[LINE(h, p)] = ended; reserved[p] = reserved[p] - UNITS(h)
}
inline commit(p) {
    assert(reserved[p] == ALL_HELD(p));
    assert(reserved[p] <= stock[p]);
    assert(!ENDED(0) || closed)
}
/* Nobody else ends a line of the hold meanwhile: whoever does has locked its row, or the rows of both products. */
inline note_end() {
    if :: ENDED(0) -> closed = true :: else fi
}
inline unlock(p) {
    if :: lock[p] == 1 + t -> lock[p] = 0 :: else fi
}

/* ---- commands on hold 0 ----------------------------------------------------------------------------------------------- */
#ifdef M_LOCKS_LINES_OF_REQUEST
#define LOCKS_B (command != commit_a)
#else
#define LOCKS_B true
#endif
inline read_lines() {
    a = OPEN(0, A); b = OPEN(0, B); over = expired
}
inline alive(t) {
    assert(!seen_expired);
    assert(ends[0] > locked_at[t])
}
inline sell(p) {
    assert(stock[p] > 0);
    end_line(0, p); stock[p]--; printf("N%d sells the unit of %d\n", t, p)
}
inline give_back_all() {
#ifndef M_REFUSES_WITHOUT_CLOSING
    if :: a -> end_line(0, A) :: else fi;
    if :: b -> end_line(0, B) :: else fi;
    expired = true;
#endif
    seen_expired = true; printf("N%d is told that the hold is over\n", t)
}
inline end_named() {
    unlock(A); unlock(B); locked_at[t] = 0; command = 0; moment = 0; a = 0; b = 0; over = 0
}
proctype Named(byte t) {
    mtype command; byte moment; bit a, b, over;
    atomic {
        if :: command = commit_all :: command = commit_a :: command = extend :: command = release fi;
        printf("N%d: %e\n", t, command);
#ifdef M_MOMENT_BEFORE_LOCKS
        moment = clock;
#endif
#ifdef M_LINES_BEFORE_LOCKS
        read_lines()
#endif
    }
    atomic { lock[A] == 0 -> lock[A] = 1 + t; locked_at[t] = clock; printf("N%d locks A\n", t) }
    if
    :: atomic { LOCKS_B && lock[B] == 0 -> lock[B] = 1 + t; locked_at[t] = clock; printf("N%d locks B\n", t) }
    :: atomic { !LOCKS_B -> skip }
    fi;
    atomic {
#ifndef M_MOMENT_BEFORE_LOCKS
        moment = clock;
#endif
#ifndef M_LINES_BEFORE_LOCKS
        read_lines();
#endif
#ifndef M_BELIEVES_THE_CLOCK
        moment = MAX(moment, MAX(swept[A], swept[B]));
#endif
#ifndef M_NEVER_CLOSES_NAMED
        over = over || ((a || b) && ends[0] <= moment);
#endif
        printf("N%d reads the moment %d, open: %d %d, over: %d\n", t, moment, a, b, over);
#ifdef M_REFUSES_BEFORE_COMMIT
        if :: over -> seen_expired = true :: else fi
#endif
    }
    if
    :: atomic {
        if
        :: over -> give_back_all(); if :: a != b -> REACHED(1) :: else fi
        :: !over && !a && !b -> printf("N%d is told that the hold is closed\n", t)
        :: !over && (a || b) && command == commit_all -> alive(t); if :: a -> sell(A) :: else fi; if :: b -> sell(B) :: else fi
        :: !over && (a || b) && command == commit_a -> if :: a -> alive(t); sell(A) :: else fi
        :: !over && (a || b) && command == extend -> alive(t); ends[0] = MAX(ends[0], moment + 1); printf("N%d: it ends at %d\n", t, ends[0])
        :: !over && (a || b) && command == release -> if :: a -> end_line(0, A) :: else fi; if :: b -> end_line(0, B) :: else fi
        fi;
        note_end(); commit(A);
        if :: LOCKS_B -> commit(B) :: else fi;
        end_named()
       }
    :: atomic { true -> printf("N%d is killed\n", t); end_named() }
    fi
}

/* ---- whoever needs a unit --------------------------------------------------------------------------------------------- */
inline older(h) {
    if
    :: OVER(h, p) && ends[h] > swept[p] && (oldest == NOBODY || ends[h] < ends[oldest]) -> oldest = h
    :: else
    fi
}
inline find_oldest() {
    oldest = NOBODY;
    older(0); older(1); older(2); older(3); older(4)
}
inline give_back() {
    end_line(oldest, p); printf("S%d gives back what hold %d has of %d\n", t, oldest, p);
    if
    :: oldest == 0 ->
        seen_expired = true;
#ifdef M_LOOKS_BEFORE_OTHERS
        if :: !other_open -> closed = true :: else fi;
#else
        note_end();
#endif
#ifndef M_LEAVES_RESERVATION_HELD
        expired = true
#endif
    :: oldest > 1 -> REACHED(2)
    :: oldest == 1
    fi
}
/* Up to the last closed end, if another one is ended and stays open; never beyond that. */
inline sweep() {
#ifdef M_SWEEPS_PAST_OPEN_LINES
    swept[p] = moment;
#else
    upto = ends[oldest];
    find_oldest();
    if
    :: oldest == NOBODY -> swept[p] = moment
    :: oldest != NOBODY && ends[oldest] > upto -> swept[p] = upto
    :: else
    fi;
    upto = 0;
#endif
    printf("S%d: no ended line of %d up to %d\n", t, p, swept[p])
}
inline refuse() {
    assert(!OVER(0, p) && !OVER(1, p) && !OVER(2, p) && !OVER(3, p) && !OVER(4, p));
    printf("S%d is refused\n", t)
}
#define FREE (stock[p] - (knows -> reserved[p] : 0))
inline take() {
#ifdef FINISH
    if :: !knows -> reserved[p] = 0 :: else fi;  /* it writes what it has read: nothing is held */
#endif
    if
    :: wants == sale -> stock[p]--
    :: else -> line[LINE(made, p)] = open; ends[made] = moment + 1; reserved[p]++
    fi;
#ifdef FINISH
    if :: wants == hold && stock[p] == 1 -> REACHED(3) :: else fi;
#endif
    printf("S%d has a unit of %d: %e, now %d, held %d\n", t, p, wants, stock[p], reserved[p])
}
inline end_needer() {
    unlock(p); LEAVE_TABLE;
    wants = 0; p = 0; moment = 0; oldest = 0; upto = 0; knows = 0; other_open = 0
}
proctype Needer(byte t, made) {
    mtype wants; byte p, moment, oldest, upto; bit knows = true, other_open;
    atomic {
        if :: wants = sale :: wants = hold fi;
#ifndef FINISH
        if :: p = A :: p = B fi
#endif
    }
#ifdef FINISH
    /* The statement that locks rows first locks the table. Then it has the snapshot in which it sees all but those rows. */
    atomic { sharers++ }
    atomic { knows = finished; printf("S%d begins, and knows reservations: %d\n", t, knows) }
#endif
    atomic { lock[p] == 0 -> lock[p] = 1 + t }
    atomic {
        moment = clock;
#ifdef M_LOOKS_BEFORE_OTHERS
        other_open = OPEN(0, 1 - p);
#endif
#ifndef M_BELIEVES_THE_CLOCK
        moment = MAX(moment, swept[p])
#endif
    }
    if
    :: atomic {
        if
        :: wants == hold && !FINISHED -> printf("S%d: not enabled\n", t)
        :: (wants == sale || FINISHED) && FREE > 0 -> take()
        :: (wants == sale || FINISHED) && FREE <= 0 ->
            oldest = NOBODY;
#ifndef M_NEVER_LOOKS_AT_ENDED
            if :: stock[p] > 0 -> find_oldest() :: else fi;
#endif
            if
            :: oldest != NOBODY -> give_back(); sweep(); take()
            :: oldest == NOBODY && stock[p] > 0 -> refuse()
            :: oldest == NOBODY && stock[p] == 0
            fi
        fi;
        commit(p); end_needer()
       }
    :: atomic { true -> printf("S%d is killed\n", t); end_needer() }
    fi
}

/* ---- expand, then finish ---------------------------------------------------------------------------------------------- */
#ifdef FINISH
/* An instance of the previous release.  It sees the stock alone, and asks for the epoch after its changes and before COMMIT. */
proctype OldSeller(byte t) {
    bit refused;
#ifdef M_ASKS_BEFORE_LOCKS
    atomic { refused = finished }
#endif
    atomic { sharers++ }
    atomic { lock[A] == 0 -> lock[A] = 1 + t }
#if !defined(M_ASKS_BEFORE_LOCKS) && !defined(M_OLD_RELEASE_SELLS)
    atomic { refused = finished }
#endif
    if
    :: atomic {
        !refused && stock[A] > 0 -> stock[A]--; printf("the old instance sells a unit\n");
        commit(A); unlock(A); sharers--
       }
    :: atomic { true -> printf("the old instance sells nothing\n"); unlock(A); sharers--; refused = 0 }
    fi
}
proctype Finish() {
    atomic {
#ifndef M_FINISH_WITHOUT_LOCK
        sharers == 0 ->
#endif
        finished = true; printf("the migration is finished\n")
    }
}
#endif

/* ---- time ------------------------------------------------------------------------------------------------------------- */
proctype Clock() {
    bit stepped;
    do
    :: atomic { clock < LAST_MOMENT -> clock++; printf("it is %d\n", clock) }
#ifdef BACK
    :: atomic {
        clock > 0 && !stepped -> stepped = true; clock = 0;
        locked_at[0] = 0; locked_at[1] = 0; printf("the clock steps back\n")
       }
#endif
    od
}

init {
    atomic {
#ifdef FINISH
        stock[A] = 2;
#else
        stock[A] = 3; reserved[A] = 3; stock[B] = 1; reserved[B] = 1;
        line[LINE(0, A)] = open; line[LINE(0, B)] = open; line[LINE(1, A)] = open;
        if :: ends[0] = 1; ends[1] = 1 :: ends[0] = 1; ends[1] = 2 :: ends[0] = 2; ends[1] = 1 fi;
#endif
        run Clock();
#if NAMED > 0
        run Named(0);
#endif
#if NAMED > 1
        run Named(1);
#endif
        run Needer(2, 2);
#if NEEDERS > 1
        run Needer(3, 3);
#endif
#if NEEDERS > 2
        run Needer(4, 4);
#endif
#ifdef FINISH
        run OldSeller(5); run Finish()
#endif
    }
}
