"""What a figure has to reach: each bench says so beside its figures and keeps it in its report, where all.py finds it."""


def judge(report, name, value, most=None, least=None):
    """Whether a figure is at most, or at least, so much; in words."""
    met = value <= most if least is None else value >= least
    bar = f"at most {most}" if least is None else f"at least {least}"
    report.setdefault("bars", []).append({"name": name, "value": value, "bar": bar, "met": met})
    return f"{bar}: {'met' if met else f'MISSED ({value:.3f})'}"


def table(bars):
    """All of them, a line each, and how many are met."""
    lines = [f"{b['name']:52}{b['value']:9.3f}  {b['bar']:14} {'met' if b['met'] else 'MISSED'}" for b in bars]
    return lines + [f"{sum(b['met'] for b in bars)} of {len(bars)} bars met"]
