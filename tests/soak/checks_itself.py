"""The book must refuse what is wrong: a lost answer, a hole, a wrong sum. Run before each part that relies on it."""

import harness


def history():
    """Two connections that spent one unit three times each, one after the other."""
    book = harness.Book(connections=2)
    for ledger in book.ledgers:
        ledger.state.update({key: harness.Limit() for key in ledger.keys()})
        ledger.ops = [("spend", ((ledger.keys()[0], 1), (harness.SHARED[0], 2), (harness.SHARED[1], 2)))] * 3
        ledger.sent_at = [1.0 + ledger.index * 0.1 + turn for turn in range(3)]
        ledger.answered_at = [at + 0.05 for at in ledger.sent_at]
    book.denied_sent = 5
    return book


def found(left, shared=None, denied=0):
    """What a restart shows if the connections have this many operations left."""
    def status(spent, allowed, capacity=harness.CAPACITY):
        return {"rate": capacity, "burst": None, "remaining": capacity - spent, "total_allowed": allowed,
                "total_allowed_cost": spent, "total_denied": denied}

    states = {}
    for index, count in enumerate(left):
        for algorithm in harness.ALGORITHMS:
            count_here = count if algorithm == harness.ALGORITHMS[0] else 0
            states[f"own{index}/{algorithm}"] = status(count_here, count_here)
    for key in harness.SHARED:
        states[key] = status(2 * sum(left), sum(left))
    if shared is not None:
        states[harness.SHARED[1]] = status(2 * shared, shared)
    states[harness.DENIED] = {**status(1, 1, 1), "total_denied": denied}
    return states


def holding(name="h", until="later", lost=False, made=2, used=1):
    """Whether the slots of a connection that made two holds and settled the first are taken for what is found. Where
    the answer to the second was lost, its id and its end are known by nobody."""
    slots = harness.Slots()
    told = {} if lost else {"id": "h", "until": "later"}
    slots.holds, slots.allowed = {2: {"told": told, "until": told, "before": None}}, 2
    holds = {name: (1, until)} if name else {}
    found = {"holds": holds, "used": used, "total_allowed": made, "total_allowed_cost": made}
    if not slots.matches(found):
        return False
    slots.adopt(found)
    return told == {"id": name, "until": until}


def hold_is_judged():
    assert holding() and holding(name="i", until="soon", lost=True)
    wrong = [{"name": "i"}, {"until": "soon"}, {"name": None}, {"made": 3}, {"used": 2}]
    assert not any(holding(**each) for each in wrong)
    assert not holding(name=None, lost=True)
    limit = harness.Limit()
    limit.take(3)
    limit.correct(3, 5, resets=0)
    limit.correct(5, 1, resets=0)
    # Held before a reset that was not: given back no more.
    limit.correct(1, 0, resets=-1)
    assert limit.view() == (harness.CAPACITY, 1, 2, 5)


def expect(outcome, states, *how):
    book = history()
    try:
        book.settle(states, *how)
        held = True
    except harness.Violation:
        held = False
    if held is not outcome:
        raise AssertionError(f"the book judged {how} wrongly: held is {held}, states {states}")


def run():
    expect(True, found([3, 3]), "always")
    expect(False, found([3, 2]), "always")
    expect(True, found([3, 2]), "batch", 3.2, 0.1)
    # The second connection's last answer came 0.05 s before, its first 2.05 s before.
    expect(False, found([3, 0]), "batch", 3.2, 0.1)
    # If only the process has ended, what was written is left.
    expect(False, found([3, 2]), "batch", 3.2, 0.1, True)
    expect(True, found([3, 3]), "batch", 3.2, 0.1, True)
    expect(True, found([3, 2]), "relaxed", 3.2, 0.1, True)
    expect(False, found([3, 0]), "relaxed", 3.2, 0.1, True)
    ledger = history().ledgers[0]
    # Sent at 1.0, 2.0 and 3.0, answered 0.05 later each.
    assert [ledger.certain(*cut) for cut in [(3.01, 3.02), (2.01, 2.9), (2.01, 3.2), (4, 4)]] == [2, 3, 1, 3]
    assert ledger.changed() == 0
    ledger.ops[1] = ("reset", ledger.keys()[0])
    assert ledger.changed() == 2
    # The first connection's third operation was sent long after the second's first was answered.
    expect(False, found([3, 0]), "batch")
    expect(False, found([4, 3]), "always")
    expect(False, found([3, 3], shared=5), "always")
    expect(False, found([3, 3], denied=6), "always")
    expect(True, found([3, 3], denied=5), "always")
    missing = found([3, 3])
    del missing[harness.SHARED[0]]
    expect(False, missing, "always")
    hold_is_judged()
