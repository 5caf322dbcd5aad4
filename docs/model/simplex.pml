/* The voting rules of atpar's consensus, for four validators of which one is Byzantine.
 *
 * What is modelled. Three honest validators obey the gate of consensus/safety.py and nothing else:
 * they may sign anything it allows, for any view, at any time. The fourth is Byzantine and signs
 * everything, so a certificate exists as soon as two honest votes of one kind do (Q = n - f = 3).
 * Every view is led by the adversary: two blocks may be proposed in it, each on any earlier block.
 * A validator may learn of a certificate at any time after it exists, or never. Timers, networks,
 * views entered and skip-ahead only restrict *when* something is signed, so every run of the real
 * protocol is among the runs checked here.
 *
 * What is checked, after every step:
 *   agreement   of any two finalised blocks one is an ancestor of the other;
 *   exclusion   no view has both a nullification and a finalization.
 *
 * Mistakes that can be planted with -D, each of which must be found (see check.sh):
 *   FINALIZE_AFTER_NULLIFY  NULLIFY_AFTER_FINALIZE  TWO_NOTARIZES  NO_ANCESTRY  NO_GAP_CHECK
 *   PARENT_UNCHECKED  WEAK_QUORUM
 * NOTHING_FINAL claims that the last view never has a finalization: it must be refuted too, or
 * the model would be safe only because nothing happens in it.
 *
 * Order. What the gate asks about other validators is monotone (a certificate, once there, stays)
 * and about views at or below the vote's own. So every set of votes that can be cast in any order
 * can be cast view by view, and once a view is behind only its certificates matter. The model
 * walks the views in that order (w) and keeps of a past view its certificates alone, which makes
 * four views a matter of seconds. -DANY_ORDER searches without this argument: two views finish in
 * a second (three did not in six minutes), and the same mistakes are found.
 *
 * State. h[i] packs the votes of honest validator i, five bits a view: notarize for variant 0 and
 * 1, nullify, finalize for variant 0 and 1. Honest validators are interchangeable, so h is kept
 * sorted. A block's parent is fixed when its first vote is cast; until then it is UNSET.
 */

#ifndef VIEWS
#define VIEWS 3
#endif
#define BLOCKS (2 * VIEWS)              /* block b is variant b % 2 of view b / 2 + 1 */
#define GENESIS 14
#define UNSET 15
#define VIEW_OF(b) ((b) / 2 + 1)

int h[3];
byte parent[BLOCKS];                    /* header.parent, the block really built on */
#ifdef PARENT_UNCHECKED
byte claimed[BLOCKS];                   /* P.parent_view, checked instead of header.parent */
#endif

#define BASE(v) (5 * ((v) - 1))
#define NOTARIZE(b) (1 << (BASE(VIEW_OF(b)) + (b) % 2))
#define NULLIFY(v) (1 << (BASE(v) + 2))
#define FINALIZE(b) (1 << (BASE(VIEW_OF(b)) + 3 + (b) % 2))
#define ANY_NOTARIZE(v) (3 << BASE(v))
#define ANY_FINALIZE(v) (24 << BASE(v))

#ifdef WEAK_QUORUM                      /* f + 1 = 2: the Byzantine vote and one honest vote */
#define QUORUM(vote) (((h[0] | h[1] | h[2]) & (vote)) != 0)
#else                                   /* n - f = 3: the Byzantine vote and two honest votes */
#define QUORUM(vote) ((((h[0] & h[1]) | (h[0] & h[2]) | (h[1] & h[2])) & (vote)) != 0)
#endif
#define NOTARIZATION(b) QUORUM(NOTARIZE(b))
#define NULLIFICATION(v) QUORUM(NULLIFY(v))
#define FINALIZATION(b) QUORUM(FINALIZE(b))

/* every view strictly between p and v is nullified */
#ifdef NO_GAP_CHECK
#define GAP_NULLIFIED(p, v) true
#else
#define GAP_NULLIFIED(p, v) \
    (((p) >= 1 || (v) <= 1 || NULLIFICATION(1)) && \
     ((p) >= 2 || (v) <= 2 || NULLIFICATION(2)) && \
     ((p) >= 3 || (v) <= 3 || NULLIFICATION(3)))
#endif

#if defined(NO_ANCESTRY)
#define ANCESTRY(b) true
#elif defined(PARENT_UNCHECKED)
#define ANCESTRY(b) \
    ((claimed[b] == 0 || QUORUM(ANY_NOTARIZE(claimed[b]))) && GAP_NULLIFIED(claimed[b], VIEW_OF(b)))
#else
#define PARENT_VIEW(b) (parent[b] == GENESIS -> 0 : VIEW_OF(parent[b]))
#define ANCESTRY(b) \
    ((parent[b] == GENESIS || NOTARIZATION(parent[b])) && GAP_NULLIFIED(PARENT_VIEW(b), VIEW_OF(b)))
#endif

/* ---- the one gate: what an honest validator may sign */

#ifdef TWO_NOTARIZES
#define MAY_NOTARIZE(i, b) (!(h[i] & (NOTARIZE(b) | NULLIFY(VIEW_OF(b)))))
#else
#define MAY_NOTARIZE(i, b) (!(h[i] & (ANY_NOTARIZE(VIEW_OF(b)) | NULLIFY(VIEW_OF(b)))))
#endif

#ifdef NULLIFY_AFTER_FINALIZE
#define MAY_NULLIFY(i, v) (!(h[i] & NULLIFY(v)))
#else
#define MAY_NULLIFY(i, v) (!(h[i] & (NULLIFY(v) | ANY_FINALIZE(v))))
#endif

#ifdef FINALIZE_AFTER_NULLIFY
#define MAY_FINALIZE(i, b) (!(h[i] & FINALIZE(b)) && NOTARIZATION(b))
#else
#define MAY_FINALIZE(i, b) (!(h[i] & (FINALIZE(b) | NULLIFY(VIEW_OF(b)))) && NOTARIZATION(b))
#endif

#ifdef ANY_ORDER
#define FIRST_VIEW 1
#define LAST_VIEW VIEWS
#else
#define FIRST_VIEW w
#define LAST_VIEW w
#endif

/* ---- the properties */

inline check_properties() {
    x = 0;
    do
    :: x < BLOCKS && FINALIZATION(x) ->
        assert(!NULLIFICATION(VIEW_OF(x)));
#ifdef NOTHING_FINAL
        assert(VIEW_OF(x) < VIEWS);
#endif
        y = 0;
        do
        :: y < BLOCKS && VIEW_OF(y) <= VIEW_OF(x) ->
            if
            :: FINALIZATION(y) ->
                walk = x;
                do
                :: walk < GENESIS && VIEW_OF(walk) > VIEW_OF(y) -> walk = parent[walk]
                :: else -> break
                od;
                assert(walk == y)
            :: else
            fi;
            y++
        :: else -> break
        od;
        x++
    :: x < BLOCKS && !FINALIZATION(x) -> x++
    :: x >= BLOCKS -> break
    od;
    x = 0; y = 0; walk = 0
}

inline swap_if_unsorted(a, c) {
    if
    :: h[a] > h[c] -> s = h[a]; h[a] = h[c]; h[c] = s; s = 0
    :: else
    fi
}

inline record(i, vote) {
    d_step {
        h[i] = h[i] | (vote);
        check_properties();
        swap_if_unsorted(0, 1); swap_if_unsorted(1, 2); swap_if_unsorted(0, 1)
    }
}

/* the adversary proposes b, on any earlier block */
inline propose(b) {
    fresh = (parent[b] == UNSET);
    if
    :: !fresh
    :: fresh -> parent[b] = GENESIS; set_claim(b)
    :: fresh && b > 1 -> parent[b] = 0; set_claim(b)
    :: fresh && b > 1 -> parent[b] = 1; set_claim(b)
    :: fresh && b > 3 -> parent[b] = 2; set_claim(b)
    :: fresh && b > 3 -> parent[b] = 3; set_claim(b)
    :: fresh && b > 5 -> parent[b] = 4; set_claim(b)
    :: fresh && b > 5 -> parent[b] = 5; set_claim(b)
    fi
}
#ifdef PARENT_UNCHECKED
inline set_claim(b) {
    if
    :: claimed[b] = 0
    :: b > 1 -> claimed[b] = 1
    :: b > 3 -> claimed[b] = 2
    :: b > 5 -> claimed[b] = 3
    fi
}
inline unset_claim(b) { claimed[b] = 0 }
#else
inline set_claim(b) { skip }
inline unset_claim(b) { skip }
#endif

/* nobody may vote for it on this parent: as if never proposed */
inline unpropose(b) {
    if
    :: fresh -> parent[b] = UNSET; unset_claim(b)
    :: else
    fi
}

/* one honest validator, any one; a vote that the gate refuses blocks the step */
inline choose(i) {
    if
    :: i = 0
    :: h[1] != h[0] -> i = 1
    :: h[2] != h[1] -> i = 2
    fi
}

init {
    byte b, v, i, x, y, walk;
    bool fresh;
    byte w = 1;
    int s;
    d_step {
        b = 0;
        do
        :: b < BLOCKS -> parent[b] = UNSET; b++
        :: else -> break
        od;
        b = 0
    }
    do
    :: atomic {
        choose(i); select(b : (2 * FIRST_VIEW - 2) .. (2 * LAST_VIEW - 1));
        if
        :: MAY_NOTARIZE(i, b) ->
            propose(b);
            if
            :: ANCESTRY(b) -> record(i, NOTARIZE(b))
            :: else -> unpropose(b)
            fi
        :: else
        fi;
        i = 0; b = 0; fresh = 0
       }
    :: atomic {
        choose(i); select(v : FIRST_VIEW .. LAST_VIEW);
        if
        :: MAY_NULLIFY(i, v) -> record(i, NULLIFY(v))
        :: else
        fi;
        i = 0; v = 0
       }
    :: atomic {
        choose(i); select(b : (2 * FIRST_VIEW - 2) .. (2 * LAST_VIEW - 1));
        if
        :: MAY_FINALIZE(i, b) -> record(i, FINALIZE(b))
        :: else
        fi;
        i = 0; b = 0
       }
#ifndef ANY_ORDER
    :: d_step {
        w < VIEWS ->
        s = (h[0] & h[1]) | (h[0] & h[2]) | (h[1] & h[2]);
        s = s & (31 << BASE(w));
        h[0] = (h[0] & ~(31 << BASE(w))) | s;
        h[1] = (h[1] & ~(31 << BASE(w))) | s;
        h[2] = (h[2] & ~(31 << BASE(w))) | s;
        s = 0;
        w++
       }
#endif
    od
}
