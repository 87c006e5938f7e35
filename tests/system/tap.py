"""Runs the cases of a test and prints TAP: a case is a function that is named by what it shows. And waits for what must come."""
import time
import traceback


class Skip(Exception):
    """The case cannot run here, and why."""


def run(cases, only=(), call=lambda case: case(), failed=lambda: None):
    """Those named in `only`, or all. call(case) runs one, and may return why it was skipped; failed() is called after
    one that failed. The exit status."""
    chosen = [case for case in cases if not only or case.__name__ in only]
    failures = 0
    print(f"1..{len(chosen)}", flush=True)
    for number, case in enumerate(chosen, 1):
        try:
            why = call(case)
            print(f"ok {number} - {case.__name__}{f' # SKIP {why}' if why else ''}", flush=True)
        except Skip as why:
            print(f"ok {number} - {case.__name__} # SKIP {why}", flush=True)
        except Exception:  # the next one may still say something
            failures += 1
            words = traceback.format_exc().strip().replace("\n", "\n# ")
            print(f"not ok {number} - {case.__name__}\n# {words[-3000:]}", flush=True)
            failed()
    return 1 if failures else 0


def until(what, within=120):
    """What is true of what(), once it is; within: seconds, many, since hosts are busy."""
    end = time.monotonic() + within
    while time.monotonic() < end:
        value = what()
        if value:
            return value
        time.sleep(0.05)
    raise AssertionError("it did not come about")
