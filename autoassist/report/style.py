"""The style sheet of the pages that a report is; light and dark as the reader's system is set."""

_COLOURS = "\n".join(f".curve.c{i} {{ stroke: var(--c{i}); }} circle.c{i} {{ fill: var(--c{i}); }}" for i in range(8))
STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #5b6570; --line: #d5dae0; --paper: #fff; --tint: #f3f5f7;
  --warn: #8a4b00; --c0: #0b62a4; --c1: #c2570c; --c2: #107a52; --c3: #9a3d86; --c4: #7a6a00; --c5: #3f8fb8;
  --c6: #b3324a; --c7: #4d5560; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ec; --soft: #a3adb7; --line: #3a424b; --paper: #14181c;
  --tint: #1d2329; --warn: #f0b35c; --c0: #62b0f0; --c1: #f0965a; --c2: #55c796; --c3: #db8cc8; --c4: #d8c74a;
  --c5: #9fd6ee; --c6: #f08a9c; --c7: #b9c1c9; } }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 1rem 1.25rem 3rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
h3 { font-size: 1rem; margin: 1rem 0 .25rem; }
.verdict { font-size: 1.05rem; font-weight: 600; } .note, footer { color: var(--soft); }
.problems { border-left: 4px solid var(--warn); padding-left: 1rem; } .problems h2 { color: var(--warn); }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .8rem .2rem 0; text-align: left; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--soft); font-weight: 600; } .figure { text-align: right; }
td { overflow-wrap: anywhere; min-width: 3rem; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 460px), 1fr)); gap: 1rem; }
figure { margin: 0; background: var(--tint); border-radius: 6px; padding: .5rem; } svg { width: 100%; height: auto; }
svg text { fill: var(--ink); font: 11px system-ui, sans-serif; } svg .title { font-size: 13px; font-weight: 600; }
svg .tick, svg .label { fill: var(--soft); } svg .end { text-anchor: end; } svg .middle { text-anchor: middle; }
.grid { stroke: var(--line); stroke-width: .6; } .axis { stroke: var(--soft); stroke-width: 1; }
figcaption { display: flex; flex-wrap: wrap; gap: .1rem 1rem; font-size: .8rem; color: var(--soft); }
.sample { width: 18px; height: 10px; margin-right: .35rem; }
.curve { fill: none; stroke-width: 1.8; stroke-linejoin: round; } .bar { fill: var(--c0); }
COLOURS
.curve.again { stroke-dasharray: 2 2; } circle.again { fill-opacity: .35; stroke: var(--ink); }
.curve.limit { stroke: var(--warn); stroke-width: 1; stroke-dasharray: 5 4; }
@media print { main { max-width: none; } figure, tr { break-inside: avoid; } }
""".replace("COLOURS", _COLOURS)
